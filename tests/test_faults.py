"""Whatever happens to a process, its disk or its files: one line tells it, and nothing is lost.

Every fault is made for real. An experiment that went through one and was finished is compared, to
the last bit and the last file, with one that nothing happened to.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import conftest
import pytest
from conftest import PROJECT, RESUME, numbers, run_command, run_experiment, write_images
from image_files import write

from features import shards
from runtime import files

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and mounts"),
]

# Two shards of features, and a third seed that trains alone: time enough for a kill to hit them.
EXPERIMENT = [*conftest.EXPERIMENT, "--seeds", "3", "--epochs", "12", "--image-size", "64"]
RUNS = 6


class Command:
    """A train.py that runs in a process group of its own."""

    def __init__(self, place, arguments):
        line = [sys.executable, PROJECT / "train.py", *arguments]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(line, cwd=place, start_new_session=True, **streams)

    def wait_until(self, holds):
        """Wait until a condition holds; the process must not end before."""
        end = time.monotonic() + 200
        while not holds():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end
            time.sleep(0.003)

    def wait_for(self, place, pattern):
        """Wait until a file matches."""
        self.wait_until(lambda: any(place.glob(pattern)))

    def kill(self):
        """Kill the process alone; what it started must not live on."""
        self.process.kill()
        self.process.communicate(timeout=10)
        assert self.process.returncode == -signal.SIGKILL
        end = time.monotonic() + 5
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < end:
                os.killpg(self.process.pid, 0)
            raise AssertionError("a process lives on")

    def interrupt(self, number, send=os.killpg):
        """Send a signal; returns the one line on standard error, which must come within 2 s."""
        start = time.monotonic()
        send(self.process.pid, number)
        line = self.one_line(128 + number)
        assert time.monotonic() - start < 2
        return line

    def one_line(self, status=2):
        """Wait for the end with this status and one line on standard error, which is returned."""
        _, told = self.process.communicate(timeout=200)
        assert (self.process.returncode, told.count("\n")) == (status, 1), told
        return told[:-1]


def finish(place, arguments, told=""):
    """Run train.py to its good end; `told` is all that standard error may say."""
    finished = run_command("train.py", *arguments, cwd=place)
    assert finished.returncode == 0 and re.fullmatch(told, finished.stderr), finished.stderr
    return finished.stdout


def way_on(line):
    """Return the arguments of the command that a line tells to go on with."""
    python, program, *arguments = shlex.split(line.rpartition("; continue with: ")[2])
    assert (python, program) == (sys.executable, str(PROJECT / "train.py"))
    return arguments


def assert_same(place, whole):
    """Nothing differs after the fault, nothing is missing, nothing is left behind."""
    found, wanted = ({path.relative_to(at) for path in at.rglob("*")} for at in (place, whole))
    assert found ^ wanted <= {Path("stdout")}
    found, wanted = (numbers(at / "tensorboard/one") for at in (place, whole))
    assert [name for name in wanted if found[name] != wanted[name]] == []
    models = (zipfile.ZipFile(at / "model.keras") for at in (place, whole))
    found, wanted = (model.read("model.weights.h5") for model in models)
    assert found == wanted
    exported = files.read_json(place / "tensorboard/one/exports.json")
    assert {path: files.hash_file(place / path) for path in exported} == exported
    assert set(exported) == {"model.keras", "model.tflite"}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "images", each=100)


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """The folder of an experiment that nothing happened to; not to be changed."""
    return run_experiment(images, tmp_path_factory.mktemp("whole") / "place", EXPERIMENT)


@pytest.fixture
def place(images, tmp_path):
    """A folder to run the experiment in."""
    shutil.copytree(images, tmp_path / "place/images")
    return tmp_path / "place"


# --- Killed and interrupted -----------------------------------------------------------------------

MOMENTS = {  # what exists already when the process is killed, and what does not exist yet
    "extraction": (".cache/*/*/shard-*.json", "tensorboard/one/config.json"),
    "training": ("tensorboard/one/*/seed-*/train/*tfevents*", "tensorboard/one/*/*/result.json"),
    "training of the last seed": ("tensorboard/one/*/*/result.json", "tensorboard/one/ref*.json"),
    "report": ("tensorboard/one/*/mean/validation/*", "tensorboard/one/summary.md"),
    "export": (".????????.model.keras", "model.keras"),
}


def test_killed_in_every_phase_and_resumed_the_experiment_is_the_same(place, whole):
    # An experiment that was killed before may have left the temporary file of its first write.
    write(place, {"tensorboard/one/.config.json.01234567.tmp": b"{"})
    for moment, (before, after) in MOMENTS.items():
        begun = (place / "tensorboard/one/config.json").exists()
        command = Command(place, RESUME if begun else EXPERIMENT)
        command.wait_for(place, before)
        command.kill()
        assert not any(place.glob(after)), f"the kill came after the {moment}"
    finish(place, RESUME)
    assert_same(place, whole)


def test_ctrl_c_and_sigterm_end_it_within_2_seconds_with_the_command_that_goes_on(place, whole):
    command = Command(place, EXPERIMENT)
    maps = Path(f"/proc/{command.process.pid}/maps")
    command.wait_until(lambda: "libtensorflow" in maps.read_text())
    assert command.interrupt(signal.SIGINT) == "interrupted; repeat the command"
    moments = {
        "begin of training": (signal.SIGINT, "tensorboard/one/config.json"),
        "training": (signal.SIGTERM, "tensorboard/one/*/seed-*/train/*tfevents*"),
    }
    arguments = EXPERIMENT
    for number, sign in moments.values():
        command = Command(place, arguments)
        command.wait_for(place, sign)
        # A terminal sends Ctrl-C to all processes, a scheduler SIGTERM to the first one.
        send = os.killpg if number == signal.SIGINT else os.kill
        arguments = way_on(command.interrupt(number, send))
        assert arguments == RESUME
    finish(place, arguments)
    assert_same(place, whole)


def test_a_run_that_is_done_again_is_replaced_only_by_a_whole_one(copy, whole):
    run = copy / "tensorboard/one/exp/seed-0"
    result = run / "result.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"val_loss": [0.125] * 12}))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    command = Command(copy, RESUME)
    command.wait_for(copy, "tensorboard/one/exp/.seed-0.*.new/train/*tfevents*")
    command.kill()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    finish(copy, RESUME, r"train\.py: .*exp/seed-0: .*val_loss.*; this run is done again\n")
    assert_same(copy, whole)


# --- Disks and files ------------------------------------------------------------------------------


@pytest.fixture
def mount():
    """A function that calls mount(8), to be undone; skips the test where that is not allowed."""
    mounted = []

    def call(*arguments):
        if subprocess.run(["mount", *map(str, arguments)], capture_output=True).returncode:
            pytest.skip("mounting is not allowed")
        mounted.append(arguments[-1])

    yield call
    for where in dict.fromkeys(reversed(mounted)):
        subprocess.run(["umount", "--lazy", where], check=True)


def mount_small_disk(mount, folder, size):
    folder.mkdir()
    mount("-t", "tmpfs", "-o", f"size={size // 1024}k", "tmpfs", folder)


def test_a_disk_full_of_features_or_results_costs_one_line_and_nothing_finished(
    place, whole, mount
):
    graphs = sum(path.stat().st_size for path in whole.glob(".cache/*/*/*.tflite"))
    rows = shards.SHARD * 4 * 1280
    mount_small_disk(mount, place / ".cache", graphs + rows + 2**16)
    mount_small_disk(mount, place / "tensorboard", 150 * 2**10)
    told = Command(place, EXPERIMENT).one_line()
    reason = "No space left on device"
    assert told == f"train.py: error: .cache/features: {reason}; see --cache-dir"
    assert os.listdir(place / "tensorboard") == []
    mount("-o", "remount,size=64m", place / ".cache")
    told = Command(place, EXPERIMENT).one_line()
    assert re.match(rf"train\.py: error: tensorboard/one[^:]*: {reason}; continue with: ", told)
    assert len(list(place.glob("tensorboard/one/*/*/result.json"))) < RUNS
    mount("-o", "remount,size=64m", place / "tensorboard")
    finish(place, way_on(told))
    assert_same(place, whole)


def test_a_complete_cache_may_be_read_only(copy, whole, mount):
    shutil.rmtree(copy / "tensorboard/one/exp/seed-1")
    mount("--bind", copy / ".cache", copy / ".cache")
    mount("-o", "remount,bind,ro", copy / ".cache")
    finish(copy, RESUME)
    assert_same(copy, whole)


def test_an_image_that_vanishes_is_told_by_name_and_nothing_is_begun(place):
    command = Command(place, EXPERIMENT)
    # The data set is read, then TensorFlow converts the model for LiteRT.
    maps = Path(f"/proc/{command.process.pid}/maps")
    command.wait_until(lambda: "litert" in maps.read_text())
    (place / "images/stripes/99.png").unlink()
    told = command.one_line()
    assert told.startswith("train.py: error: images/stripes/99.png changed or vanished")
    assert os.listdir(place / "tensorboard") == []


# --- Two at once ----------------------------------------------------------------------------------


def test_two_of_one_name_are_refused_and_two_of_one_cache_end_as_one_alone(place, whole):
    two = Command(place, [*EXPERIMENT, "--seeds", "1", "--name", "two", "--export", "two.keras"])
    ones = [Command(place, EXPERIMENT) for _ in range(2)]
    two.wait_for(place, "tensorboard/one/config.json")
    told = Command(place, RESUME).one_line()
    assert told.startswith("train.py: error: tensorboard/one: another process is working on it")
    told = [command.process.communicate(timeout=200)[1] for command in (two, *ones)]
    assert (two.process.returncode, told[0]) == (0, "")
    assert sorted(one.process.returncode for one in ones) == [0, 2]
    refusal = r"train\.py: error: tensorboard/one(: another process is | exists; choose ).*\n"
    assert re.fullmatch(refusal, told[1] + told[2])
    for label in ("exp", "linear_warmup"):
        run = f"{label}/seed-0"
        assert numbers(place / "tensorboard/two" / run) == numbers(whole / "tensorboard/one" / run)
    shutil.rmtree(place / "tensorboard/two")
    (place / "two.keras").unlink()
    assert_same(place, whole)
