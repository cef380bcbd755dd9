"""A Ray cluster gives what threads give, though its nodes are killed; Ray runs on this machine."""

import functools
import operator
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from conftest import PROJECT, numbers, run_command, run_python

import data
from features import cache, engines, shards
from model import Recipe
from runtime import tasks
from runtime.messages import Refusal
from sources.source import Source

EXPERIMENT = [
    *("--schedule", "exp", "--seeds", "2", "--epochs", "60", "--lr", "1e-3"),
    *("--image-size", "96", "--weights", "random", "--name", "one"),
]


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two nodes with a core each, beside the driver's, which has none."""
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed")
    cluster = cluster_utils.Cluster(True, head_node_args={"num_cpus": 0})
    cluster.nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture
def executor(cluster, tmp_path):
    """An executor on that cluster."""
    images = data.load("digits").source.subset([0])
    describe = functools.partial(cache.describe_node, images, "random")
    # Ray is optional.
    from runtime.cluster import RayExecutor

    with RayExecutor(cluster.address, [tmp_path], describe) as executor:
        yield executor
    assert not any(tmp_path.iterdir())


def wait_for(process, place, pattern, count=1):
    """Wait until so many files match; the process must not end before."""
    end = time.monotonic() + 120
    while len(list(place.glob(pattern))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.faults
def test_killed_nodes_change_nothing(cluster, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    line = [sys.executable, PROJECT / "train.py", *EXPERIMENT, "--ray", cluster.address]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(line, cwd=there, **streams)
    wait_for(process, there, ".cache/features/*/shard-*.json")
    cluster.remove_node(cluster.nodes.pop(0), allow_graceful=False)
    assert len(list(there.glob(".cache/features/*/shard-*.json"))) < 8
    cluster.nodes.append(cluster.add_node(num_cpus=1))
    wait_for(process, there, "tensorboard/one/exp/.seed-*.new", 2)
    cluster.remove_node(cluster.nodes.pop(0), allow_graceful=False)
    lost = len(list(there.glob("tensorboard/one/exp/.seed-*.new")))
    cluster.nodes.append(cluster.add_node(num_cpus=1))
    _, told = process.communicate(timeout=200)
    assert (process.returncode, told, lost) == (0, "", 2)
    alone = run_command("train.py", *EXPERIMENT, cwd=here)
    assert (alone.returncode, alone.stderr) == (0, "")
    found, wanted = ({path.relative_to(at) for path in at.rglob("*")} for at in (there, here))
    assert found == wanted
    found, wanted = (numbers(at / "tensorboard/one") for at in (there, here))
    assert [name for name in wanted if found[name] != wanted[name]] == []
    rows = [next(at.glob(".cache/features/*/features.f32")).read_bytes() for at in (there, here)]
    assert rows[0] == rows[1]


@pytest.mark.faults
def test_a_task_raises_what_it_raises_in_a_thread(executor, tmp_path):
    digits, stores = data.load("digits"), [shards.Store(tmp_path, (1280,))]
    task = cache.ShardTask(digits.source.subset([0]), range(1), ["digit 0"], [b"changed"],
        stores, engines.engine(), Recipe(32, "scale", "random"))  # fmt: skip
    with pytest.raises(Refusal, match="^digit 0 changed or vanished") as caught:
        list(tasks.run_tasks(executor, cache.provide_shards, [task]))
    assert type(caught.value) is Refusal
    whole = replace(task, digests=digits.digests[:1], check_only=True)
    ((shard,),) = tasks.run_tasks(executor, cache.provide_shards, [whole])
    assert shard.images == 1


class Names(Sequence):
    """As many names as images, each of its own, which are made when they are asked for."""

    def __len__(self):
        return 10_000 * shards.SHARD

    def __getitem__(self, rows):
        begin = "/data/of/all/nodes/train/class/image-"
        if isinstance(rows, slice):
            return [f"{begin}{row:09}.jpg" for row in range(len(self))[rows]]
        return f"{begin}{rows:09}.jpg"


@pytest.mark.faults
def test_ten_thousand_shards_cost_the_driver_little(executor, tmp_path):
    resource = pytest.importorskip("resource", reason="Windows does not count it")
    names, submitted = Names(), []
    lists = Source(names), range(len(names)), names, [bytes(range(32))] * len(names)
    whole = cache.ShardTask(
        *lists, [shards.Store(tmp_path, (1280,))], engines.engine(), Recipe(96, "scale", "random")
    )

    def plan():
        for task in cache.plan_tasks(whole, executor.workers):
            submitted.append(task.rows)
            yield task

    start, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Nothing is computed, but every task travels, and its rows travel back.
    ended = tasks.run_tasks(executor, operator.attrgetter("rows"), plan())
    for done, _ in enumerate(ended, 1):
        assert len(submitted) - done <= tasks.AHEAD * executor.workers
    assert done == len(submitted) and sum(map(len, submitted)) == len(names)
    # In all its threads, those of Ray, too.
    assert time.process_time() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # KiB


@pytest.mark.faults
def test_a_node_that_differs_is_refused(cluster, tmp_path):
    information = tmp_path / "other" / "numpy-0.1.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.1\n")
    node = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(information.parent)})
    cluster.wait_for_nodes()
    refused = run_command("train.py", *EXPERIMENT, "--ray", cluster.address, cwd=tmp_path)
    cluster.remove_node(node)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "differs from the driver: numpy 0.1, not " in refused.stderr


def test_ray_is_not_needed_and_its_absence_is_told(tmp_path):
    code = "import sys; sys.modules['ray'] = None; import train; sys.exit(train.main(sys.argv[1:]))"
    options = {"cwd": tmp_path, "env": {"PYTHONPATH": str(PROJECT)}}
    refused = run_python("-c", code, *EXPERIMENT, "--ray", "local", **options)
    told = refused.stderr.splitlines()[-1]
    assert (refused.returncode, "Traceback" in refused.stderr) == (2, False)
    assert told.startswith("train.py: error: --ray needs: pip install -r requirements-ray.txt")
