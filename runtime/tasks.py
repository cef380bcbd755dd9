"""Spreads long work over cores: tasks go to an executor."""

import itertools
import os
import platform
import queue
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

AHEAD = 3  # tasks a core that are submitted before their turn; more would only fill memory


class Threads(ThreadPoolExecutor):
    """An executor with one thread for each core; RayExecutor has the same attributes."""

    retries = False  # whether a task may begin again elsewhere while its first attempt still runs
    queue = queue.SimpleQueue  # makes a queue into which tasks may put

    def __init__(self, workers: int | None = None):
        self.workers = workers or cores()  # how many tasks run at once
        super().__init__(self.workers)


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Return the kind of processor, on which the last bits of a sum depend."""
    lines = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text()
    wanted = r"(?:model name|cpu family|model|CPU (?:part|variant))\s*: (.*)"
    units = r"\b(?:avx|fma|amx|f16c|sve|asimd|bf16|i8mm)\w*"
    found = [*re.findall(wanted, lines), *re.findall(units, lines)]
    return " ".join([platform.machine(), *dict.fromkeys(found)]) if found else lines


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
            free = AHEAD * executor.workers - len(waiting)
            for argument in itertools.islice(remaining, free):
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
