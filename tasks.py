"""Spreads long work over cores: tasks go to an executor, a few ahead of those that run."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, wait
from typing import Any

AHEAD = 3  # tasks a core that are submitted before their turn; more would only fill memory


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(
    executor: Executor,
    function: Callable[[Any], Any],
    arguments: Iterable[Any],
    meanwhile: Callable[[], None] = lambda: None,
) -> Iterator[Any]:
    """Yield function(argument) for every argument, in the order in which the tasks end.

    `arguments` is read only as fast as tasks end, so it may depend on earlier results.
    `meanwhile` is called at least every 0.2 s while waiting. An exception of a task is raised here,
    and the tasks that have not begun are cancelled.
    """
    waiting, remaining = set(), iter(arguments)
    try:
        while True:
            room = AHEAD * cores() - len(waiting)
            for argument in itertools.islice(remaining, room):
                waiting.add(executor.submit(function, argument))
            if not waiting:
                return
            done, waiting = wait(waiting, 0.2, FIRST_COMPLETED)
            meanwhile()
            for future in done:
                yield future.result()
    finally:
        for future in waiting:
            future.cancel()
