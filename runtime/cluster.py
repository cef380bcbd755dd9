"""Runs tasks on a Ray cluster, behind the same `submit` as threads.

A task begins again elsewhere if its node is lost, but not if it raises an exception of its own.
"""

import functools
import os
import pickle
import platform
import secrets
from collections.abc import Callable
from concurrent.futures import Executor, Future
from importlib.metadata import version
from pathlib import Path

from runtime import files, tasks
from runtime.messages import Refusal

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reads it when it is imported.
try:
    import ray
    from ray.exceptions import RayError
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as OnNode
except ImportError as error:
    raise Refusal("--ray needs: pip install -r requirements-ray.txt") from error

PROJECT = Path(__file__).parents[1]


def _describe(tokens: list[Path], describe: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Return what numbers depend on, as this process finds it."""
    found = {name: version(name) for name in ("tensorflow", "keras", "numpy", "scikit-learn")}
    found["processor"] = tasks.processor()
    for path in sorted([*PROJECT.glob("*.py"), *PROJECT.glob("[a-z]*/*.py")]):
        found[str(path.relative_to(PROJECT))] = files.hash_file(path)[:12]
    found |= {f"{token.parent} is shared": str(token.exists()) for token in tokens}
    return found | describe()


@functools.cache
def _join(setup: bytes) -> None:
    """Prepare this worker process; raises Refusal if it would give other numbers."""
    folder, arguments, expected = pickle.loads(setup)
    os.chdir(folder)
    found = _describe(*arguments)
    differing = [name for name in expected if found.get(name) != expected[name]]
    if listed := [f"{name} {found.get(name)}, not {expected[name]}" for name in differing]:
        raise Refusal(f"{platform.node()} differs from the driver: {'; '.join(listed)}")


def _run(setup: bytes, function: Callable, argument: object) -> object:
    _join(setup)
    return function(argument)


class RayExecutor(Executor):
    """All nodes of a cluster; a task takes one CPU, or a GPU if Keras passes images on it."""

    def __init__(self, address: str, folders: list[Path], describe: Callable[[], dict[str, str]]):
        """Connect (`local` starts a cluster here); raises Refusal, also if nodes differ.

        All nodes must share the folders, and `describe`, which is pickled, must return the same on
        each.
        """
        environment = {key: text for key, text in os.environ.items() if key.endswith("_THREADS")}
        environment["PYTHONPATH"] = f"{PROJECT}{os.pathsep}${{PYTHONPATH}}"
        options = {"runtime_env": {"env_vars": environment}, "log_to_driver": False}
        try:
            ray.init(address, logging_level="ERROR", **options)
        except (ConnectionError, ValueError, RuntimeError, RayError) as error:
            raise Refusal(f"--ray {address}: {str(error).splitlines()[0]}") from None
        resources = ray.cluster_resources()
        self.retries, self.workers = True, int(resources.get("CPU", 0))
        here = {"scheduling_strategy": OnNode(ray.get_runtime_context().get_node_id(), False)}
        self.queue = lambda: Queue(actor_options={"num_cpus": 0, **here})
        self._tokens = [folder / f".driver.{secrets.token_hex(4)}.tmp" for folder in folders]
        for token in self._tokens:
            token.parent.mkdir(parents=True, exist_ok=True)
            token.touch()
        arguments = self._tokens, describe
        self._setup = pickle.dumps((os.getcwd(), arguments, _describe(*arguments)))
        # By default a process that has used a GPU ends after one task.
        gpu = {"num_gpus": 1, "max_calls": 0} if "GPU" in resources else {"num_cpus": 1}
        self._run, self._run_keras = ray.remote(_run), ray.remote(**gpu)(_run)
        probes = {}
        for node in filter(lambda node: "CPU" in node["Resources"], ray.nodes()):
            options = {"num_cpus": 0, "num_gpus": int("GPU" in node["Resources"])}
            run = self._run.options(scheduling_strategy=OnNode(node["NodeID"], False), **options)
            probes[run.remote(self._setup, str, "").future()] = node["NodeManagerAddress"]
        failed = [(at, error) for probe, at in probes.items() if (error := probe.exception())]
        if lines := [f"node {at}: {getattr(error, 'cause', error)}" for at, error in failed]:
            self.shutdown()
            raise Refusal("\n".join(lines))

    def submit(self, function: Callable, argument: object, /) -> Future:
        """Return the future of function(argument); it raises what the function raised."""
        run = self._run_keras if getattr(argument, "needs_gpu", False) else self._run
        reference, future = run.remote(self._setup, function, argument), Future()

        # Ray's own future would hide the cause and could not cancel the task.
        def pass_on(done: Future) -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(done.result())
                except RayError as error:
                    lost = Refusal(f"Ray: {str(error).splitlines()[0]}")
                    future.set_exception(getattr(error, "cause", lost))

        reference.future().add_done_callback(pass_on)
        future.add_done_callback(lambda f: f.cancelled() and ray.cancel(reference, force=True))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster, which ends all tasks."""
        for token in self._tokens:
            token.unlink(missing_ok=True)
        ray.shutdown()
