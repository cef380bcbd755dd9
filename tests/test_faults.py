"""Whatever happens to a process, its disk or its files: one line says so, nothing is lost, and it ends the same.

Every fault is made for real. An experiment that went through one and was finished is compared with one that nothing
happened to: the same files and no others, with the same bytes, but for the times in event files and .keras files.
"""

import contextlib
import io
import json
import os
import pickle
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import h5py
import logs
import pytest
from conftest import write_images

import model
import schedulers
import train

PROJECT = Path(train.__file__).parent
EXPERIMENT = ["--schedule", "exp", "linear_warmup", "--seeds", "2", "--data", "images", "--image-size", "32",
    "--epochs", "3", "--name", "one", "--export", "whole.keras"]  # fmt: skip
IMAGES = 540  # one whole shard of features, and a little of a second one
RUNS = 4

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, and mounts")


class Command:
    """A train.py that runs in a session of its own, below which all its processes are found."""

    def __init__(self, place, arguments=EXPERIMENT):
        self.place = place
        self.told = [tempfile.NamedTemporaryFile() for _ in range(2)]  # noqa: SIM115, pipes could fill up
        shell = isinstance(arguments, str)
        line = f"exec {arguments}" if shell else [sys.executable, PROJECT / "train.py", *arguments]
        streams = dict(zip(("stdout", "stderr"), self.told))
        self.process = subprocess.Popen(
            line, cwd=place, shell=shell, start_new_session=True, **streams
        )

    @property
    def stdout(self):
        return Path(self.told[0].name).read_text()

    @property
    def stderr(self):
        return Path(self.told[1].name).read_text()

    def until(self, condition, seconds=200):
        """Wait until a condition holds or the process ends; returns whether it holds."""
        end = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                return condition()
            assert time.monotonic() < end, f"{seconds} s are over:\n{self.stdout}\n{self.stderr}"
            time.sleep(0.01)
        return True

    def says(self, text):
        return self.until(lambda: text in self.stdout)

    def trains(self):
        return self.until(
            lambda: next(self.place.glob("tensorboard/one/*/seed-*/*/*tfevents*"), None)
        )

    def processes(self):
        """Pids of this session that are alive, the first one among them."""
        alive = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                pid, (state, _, _, session) = (
                    int(stat.parent.name),
                    stat.read_text().rpartition(")")[2].split()[:4],
                )
            except OSError:  # ended meanwhile
                continue
            if int(session) == self.process.pid and state not in "ZX":
                alive.append(pid)
        return alive

    def workers(self):
        """Pids of worker processes."""
        lines = {pid: Path(f"/proc/{pid}/cmdline") for pid in self.processes()}
        return [
            pid
            for pid, line in lines.items()
            if line.exists() and b"--multiprocessing-fork" in line.read_bytes()
        ]

    def ended(self, seconds=200):
        """Wait for the end of all processes; returns the exit status."""
        status = self.process.wait(seconds)
        end = time.monotonic() + 20
        while left := self.processes():
            assert time.monotonic() < end, f"{len(left)} processes live on"
            time.sleep(0.01)
        return status

    def one_line(self, status=2):
        """Wait for the end with this status, and with one line on standard error, which is returned."""
        assert self.ended() == status, self.stderr
        assert self.stderr.count("\n") == 1, self.stderr
        return self.stderr[:-1]


def finishes(place, arguments=EXPERIMENT):
    """Run a command to its good end, and return what it said."""
    command = Command(place, arguments)
    assert command.ended() == 0, command.stderr
    assert command.stderr == ""
    return command.stdout


RESUME = ["--resume", "tensorboard/one"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "images", each=IMAGES // 3)


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """The folder of an experiment that nothing happened to; not to be changed."""
    place = tmp_path_factory.mktemp("whole") / "place"
    place.mkdir()
    (place / "images").symlink_to(images)
    finishes(place)
    return place


@pytest.fixture
def place(images, tmp_path):
    """A folder to run the experiment in."""
    (tmp_path / "place").mkdir()
    (tmp_path / "place/images").symlink_to(images)
    return tmp_path / "place"


@pytest.fixture
def cached(whole, place):
    """The same, with all features in the cache."""
    shutil.copytree(whole / ".cache", place / ".cache")
    return place


@pytest.fixture
def complete(whole, tmp_path):
    """A copy of the whole experiment."""
    return shutil.copytree(whole, tmp_path / "place", symlinks=True)


def contents(place):
    """`{path: what must be the same}` of every file below a folder, temporary ones too."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        if "tfevents" in name:
            found[name] = (
                logs.scalars(path.parent) if path.parent.name in ("train", "validation") else None
            )
        elif path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                found[name] = weights(archive.read("model.weights.h5"))
        elif path.name == "config.json":
            found[name] = {**logs.read_json(path), "git_commit": None}
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def weights(content):
    """`{path: bytes}` of the arrays in an HDF5 file."""
    arrays = {}

    def keep(path, item):
        if isinstance(item, h5py.Dataset):
            arrays[path] = item[()].tobytes()

    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(keep)
    return arrays


def assert_same(place, whole):
    """That nothing is different after the fault, nothing missing, nothing left behind."""
    found, wanted = contents(place), contents(whole)
    assert set(found) == set(wanted)
    assert [name for name in wanted if found[name] != wanted[name]] == []


def way_on(line):
    """The command that a line on standard error tells to go on with."""
    assert " go on with: " in line
    return line.rpartition(" go on with: ")[2]


# --- Killed ----------------------------------------------------------------------------------------------------------


def phase(command):
    """What a process was doing when it was killed, by what it had said."""
    place, told = command.place, command.stdout
    if "images: " not in told:
        return "start"
    if "features: " not in told:
        return "extraction"
    if len(list(place.glob("tensorboard/one/*/seed-*/result.json"))) < RUNS:
        return "training"
    if "Written:" not in told:
        return "reporting"
    return "export" if "model of" not in told else "done"


MOMENTS = {  # of a phase: how often it is aimed at, what is waited for, and for how long at most the kill then waits
    "start": (2, lambda place, told: True, 0.4),
    "extraction": (5, lambda place, told: "images: " in told, 4),
    "training": (8, lambda place, told: "features: " in told, 3),
    "reporting": (
        2,
        lambda place, told: len(list(place.glob("*/one/*/seed-*/result.json"))) == RUNS,
        0.5,
    ),
    "export": (3, lambda place, told: "Written:" in told, 1.5),
}


@linux
def test_after_twenty_kills_the_experiment_is_the_same(place, whole):
    chance, hit = random.Random(0), []
    for kills, moment, seconds in MOMENTS.values():
        for _ in range(kills):
            delay, killed = chance.uniform(0, seconds), False
            while not killed:  # or it was done already
                command = Command(
                    place,
                    RESUME if (place / "tensorboard/one/config.json").exists() else EXPERIMENT,
                )
                command.until(lambda command=command, moment=moment: moment(place, command.stdout))
                time.sleep(delay)
                os.kill(command.process.pid, signal.SIGKILL)
                killed = (
                    command.ended(10) == -signal.SIGKILL
                )  # of the main process alone: the others end by themselves
                assert killed or command.process.returncode == 0, command.stderr
                delay /= 2
            hit.append(phase(command))
    assert len(hit) == 20
    assert {"extraction", "training", "export"} <= set(hit), hit
    finishes(place, RESUME)
    assert_same(place, whole)


# --- Ended -----------------------------------------------------------------------------------------------------------


def interrupt(command, number, group=False):
    """Send a signal; returns the line on standard error, after all processes have ended, within 2 s."""
    start = time.monotonic()
    (os.killpg if group else os.kill)(command.process.pid, number)
    line = command.one_line(128 + number)
    assert time.monotonic() - start < 2
    assert line.startswith("interrupted; ")
    return line


@linux
def test_ctrl_c_and_sigterm_tell_the_command_that_goes_on(place, whole):
    command = Command(place)
    command.until(lambda: next(place.glob(".cache/features/*/key.json"), None))
    first = way_on(
        interrupt(command, signal.SIGINT, group=True)
    )  # as a terminal does: to all processes
    command = Command(place, first)
    command.trains()
    for pid in command.workers():
        blocked = int(re.search(r"SigBlk:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())[1], 16)
        assert blocked >> (signal.SIGINT - 1) & blocked >> (signal.SIGTERM - 1) & 1
    second = way_on(interrupt(command, signal.SIGTERM))
    assert second == first
    finishes(place, second)
    assert_same(place, whole)


@linux
def test_signals_at_the_start_and_two_in_a_row_tell_one_line(place):
    for delay in (0, 0.1, 0.2, 0.5, 1):  # while processes start and load their modules
        command = Command(place, [*EXPERIMENT[:-4], "--name", f"after-{delay}"])
        command.until(lambda command=command: len(command.processes()) > 1)
        time.sleep(delay)
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(command.process.pid, number)
        assert command.ended(10) in (130, 143)
        assert re.fullmatch(r"interrupted; .*\n", command.stderr)


@linux
def test_a_killed_worker_costs_one_line_and_no_result(cached, whole):
    command = Command(cached)
    command.trains()
    os.kill(command.workers()[0], signal.SIGKILL)
    line = command.one_line()
    assert line.startswith(
        "train.py: error: a worker process was killed, perhaps for want of memory; go on with: "
    )
    finishes(cached, way_on(line))
    assert_same(cached, whole)


@linux
def test_when_nobody_reads_any_more_it_ends(cached):
    command = subprocess.Popen(
        [sys.executable, PROJECT / "train.py", *EXPERIMENT],
        cwd=cached,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert command.stdout.readline().startswith(b"images: ")
    command.stdout.close()  # as `head -1` does
    told = command.stderr.read().decode()
    assert command.wait() == 2
    assert re.fullmatch(r"train\.py: error: nobody reads standard output any more.*\n", told)


def test_closed_streams_are_not_taken_by_files():
    script = "import os, train\ntry: train.main([])\nexcept SystemExit: os._exit(open(os.devnull).fileno())"
    close = "exec <&- >&- 2>&-; exec "
    line = close + shlex.join([sys.executable, "-c", script])
    closed = subprocess.run(line, cwd=PROJECT, shell=True)
    assert closed.returncode >= 3


# --- Disks -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def mount():
    """A function that calls mount(8), to be undone; the test is skipped where that is not allowed."""
    mounted = []

    def call(*arguments):
        if (
            sys.platform != "linux"
            or subprocess.run(["mount", *map(str, arguments)], capture_output=True).returncode
        ):
            pytest.skip("nothing can be mounted here")
        mounted.append(arguments[-1])

    yield call
    for where in dict.fromkeys(reversed(mounted)):
        subprocess.run(["umount", "--lazy", where], check=True)


def small_disk(mount, where, size):
    where.mkdir()
    mount("-t", "tmpfs", "-o", f"size={size}k", "tmpfs", where)


def read_only(mount, where):
    mount("--bind", where, where)
    mount("-o", "remount,bind,ro", where)


def test_a_disk_full_of_features_costs_only_the_last_ones(place, whole, mount):
    small_disk(
        mount, place / ".cache", 2650
    )  # a shard takes 2560 KiB of features and 20 of their digests
    line = Command(place).one_line()
    assert line == (
        "train.py: error: .cache/features: features cannot be kept there: No space left on device; see --cache-dir"
    )
    assert not (place / "tensorboard/one").exists()
    assert len(list(place.glob(".cache/features/*/shard-*.json"))) == 1
    mount("-o", "remount,size=4m", place / ".cache")
    assert "28 computed, 512 from" in finishes(place)
    assert_same(place, whole)


def test_a_disk_full_of_results_costs_only_the_unfinished_ones(cached, whole, mount):
    small_disk(mount, cached / "tensorboard", 130)
    (cached / "tensorboard/full").write_bytes(bytes(130 * 1024))
    line = Command(cached).one_line()
    assert line.startswith(
        "train.py: error: tensorboard/one/config.json: No space left on device; make room"
    )
    assert os.listdir(cached / "tensorboard") == ["full"]
    (cached / "tensorboard/full").unlink()
    line = Command(cached).one_line()
    assert (
        line.startswith("train.py: error: tensorboard/one/") and "No space left on device" in line
    )
    done = list(cached.glob("tensorboard/one/*/seed-*/result.json"))
    assert 0 < len(done) < RUNS
    mount("-o", "remount,size=32m", cached / "tensorboard")
    finishes(cached, way_on(line))
    assert_same(cached, whole)


def test_a_disk_full_of_events_is_told_in_one_line(cached, mount):
    small_disk(mount, cached / "tensorboard", 12)
    line = Command(cached).one_line()
    assert re.match(
        r"train\.py: error: tensorboard/one/(exp|linear_warmup)/seed-[01]\b.*No space left on device",
        line,
    )
    assert not list(cached.glob("tensorboard/one/*/seed-*/result.json"))
    assert way_on(line)


def test_what_cannot_be_written_is_told_before_anything_is_done(cached, whole, mount):
    shard = next(cached.glob(".cache/features/*/shard-00001.json"))
    next(cached.glob(".cache/features/*/reference-*.json")).unlink()
    read_only(mount, cached / ".cache")
    finishes(cached)  # from a complete cache that is only read
    mount("-o", "remount,bind,rw", cached / ".cache")
    shutil.copy(next(whole.glob(".cache/features/*/reference-*.json")), shard.parent)
    assert_same(cached, whole)
    shard.unlink()
    mount("-o", "remount,bind,ro", cached / ".cache")
    another = [*EXPERIMENT[:-4], "--name", "two"]
    assert Command(cached, another).one_line() == (
        "train.py: error: .cache/features: features cannot be kept there: Read-only file system; see --cache-dir"
    )
    assert not (cached / "tensorboard/two").exists()
    read_only(mount, cached / "tensorboard")
    assert "is not a folder that can be written to" in Command(cached, another).one_line()


# --- Vanished --------------------------------------------------------------------------------------------------------


@linux
def test_an_experiment_that_vanishes_is_told_and_not_said_to_go_on(cached, tmp_path):
    command = Command(cached)
    command.trains()
    (cached / "tensorboard/one").rename(tmp_path / "away")
    line = command.one_line()
    assert line.startswith("train.py: error: tensorboard/one") and "go on" not in line
    assert not list(cached.glob("tensorboard/one/*.*"))


@linux
def test_features_that_vanish_are_told_and_made_again(place, whole, tmp_path):
    command = Command(place)
    command.until(lambda: next(place.glob(".cache/features/*/features.f32"), None))
    (place / ".cache").rename(tmp_path / "away")
    line = command.one_line()
    assert re.match(r"train\.py: error: .*No such file", line)
    finishes(place, way_on(line) if "go on" in line else EXPERIMENT)
    assert_same(place, whole)


def test_an_image_that_vanishes_is_told_by_name(place, images):
    (place / "images").unlink()
    shutil.copytree(images, place / "images")
    command = Command(place)
    command.says("images: ")
    (place / "images/stripes/99.png").unlink()
    line = command.one_line()
    assert (
        line
        == "train.py: error: images/stripes/99.png changed or vanished while it was being used; start again"
    )
    assert not (place / "tensorboard/one").exists()


# --- Two at once -----------------------------------------------------------------------------------------------------


def test_two_at_once_end_as_one_alone_and_two_of_one_name_are_refused(place, whole):
    two, *ones = [
        Command(place, [*EXPERIMENT[:-4], "--name", name]) for name in ("two", "one", "one")
    ]
    assert two.ended() == 0, two.stderr
    assert sorted(one.ended() for one in ones) == [0, 2]
    refused = ones[0].stderr + ones[1].stderr
    assert re.fullmatch(
        r"train\.py: error: tensorboard/one(: another process | exists; choose ).*\n", refused
    )
    wanted = contents(whole)
    for name in ("one", "two"):
        found = contents(place / "tensorboard" / name)
        for path in found:
            if path not in ("config.json", "summary.md") and not path.endswith("head.keras"):
                assert found[path] == wanted[f"tensorboard/one/{path}"], path
        assert len(found) == sum(path.startswith("tensorboard/one/") for path in wanted)
    assert contents(place / ".cache") == contents(whole / ".cache")


def test_a_directory_is_held_by_one_process(tmp_path):
    with train.occupied(tmp_path / "a/one", new=True):
        (tmp_path / "a/one/config.json").write_text("{}")
        for new in (True, False):
            held = pytest.raises(logs.ExperimentError, match="another process is at work")
            with held, train.occupied(tmp_path / "a/one", new):
                raise AssertionError("two are in")
    exists = pytest.raises(logs.ExperimentError, match="exists; choose another --name")
    with exists, train.occupied(tmp_path / "a/one", new=True):
        raise AssertionError("an experiment was taken for a new one")
    assert os.listdir(tmp_path / "a/one") == ["config.json"]


def test_leftovers_are_removed_and_what_another_process_writes_is_not(tmp_path, monkeypatch):
    killed = tmp_path / ".file.abc.tmp"
    killed.write_text("half")

    def replace(source, target):
        logs.remove_leftovers(tmp_path)  # as another process would, in the middle of this write
        os.rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    logs.write_whole(tmp_path / "file", "whole")
    assert os.listdir(tmp_path) == ["file"]


# --- Security --------------------------------------------------------------------------------------------------------


class Pickled:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def lambda_head(path, marker):
    """Save a model of the shape of a head that would run code when loaded."""
    import keras

    code = eval(
        f"lambda x: (open({str(marker)!r}, 'w'), x[:, :3])[1]"
    )  # a constant: its file must hold it
    keras.Sequential([keras.Input((1280,)), keras.layers.Lambda(code, output_shape=(3,))]).save(
        path
    )
    marker.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "name", ["w.weights.h5", "w.h5", "w.keras", "w.pkl", "w.npz", "lambda.keras"]
)
def test_a_file_that_is_no_weights_is_refused_and_runs_nothing(name, tmp_path):
    path, marker = tmp_path / name, tmp_path / "ran"
    if name == "lambda.keras":
        lambda_head(path, marker)
    else:
        path.write_bytes(pickle.dumps(Pickled(marker)))
    with pytest.raises(model.WeightsError, match=re.escape(name)):
        model.backbone(32, str(path))
    assert not marker.exists()


def test_weights_that_are_none_are_told_in_one_line(cached):
    (cached / "mine.weights.h5").write_bytes(pickle.dumps(Pickled(cached / "ran")))
    line = Command(cached, [*EXPERIMENT, "--weights", "mine.weights.h5"]).one_line()
    assert line.startswith("train.py: error: mine.weights.h5 does not fit MobileNetV2")
    assert not (cached / "tensorboard/one").exists() and not (cached / "ran").exists()


def test_a_head_that_holds_code_is_refused(complete, whole):
    (complete / "whole.keras").unlink()
    heads = list(complete.glob("tensorboard/one/*/seed-*/head.keras"))
    for head in heads:
        lambda_head(head, complete / "ran")
    line = Command(complete, RESUME).one_line()
    assert "head.keras is not what this run wrote" in line and "Lambda" in line
    assert not (complete / "ran").exists() and not (complete / "whole.keras").exists()
    for head in heads:
        shutil.rmtree(head.parent)
    finishes(complete, way_on(line))
    assert_same(complete, whole)


@pytest.mark.parametrize("name", ["../x", ".", "..", "/tmp/x", "", "a/b", ".hidden", "a\nb"])
def test_a_name_cannot_leave_the_log_directory(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        train.main(["--schedule", "exp", "--name", name])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told == f"train.py: error: --name must be a plain folder name, got {name!r}\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("function", ["../x", "..", ".", "/x", "a/../../x"])
def test_the_label_of_a_schedule_cannot_leave_the_experiment(function, tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text(f"globals()[{function!r}] = lambda epoch, lr: lr\n")
    label, _, _ = schedulers.named(f"{file}:{function}")
    assert train.plain(label)


TAMPERED = {
    "no JSON": lambda config: "{",
    "a list": lambda config: "[]",
    "empty": lambda config: "{}",
    "binary": lambda config: "\udcff",
    "without arguments": lambda config: {**config, "arguments": None},
    "without schedules": lambda config: {**config, "schedules": None},
    "without seeds": lambda config: {**config, "seeds": None},
    "without data": lambda config: {**config, "data": None},
    "without weights": lambda config: {**config, "weights_sha256": None},
    "without versions": lambda config: {**config, "versions": None},
    "an argument less": lambda config: config["arguments"].pop("lr") and config,
    "an argument more": lambda config: config["arguments"].update(foo=1) or config,
    "an argument for help": lambda config: config["arguments"].update(h=True) or config,
    "another experiment": lambda config: config["arguments"].update(resume="tensorboard/other") or config,
    "a rate as text": lambda config: config["arguments"].update(lr="4e-5") or config,
    "a rate below 0": lambda config: config["arguments"].update(lr=-1.0) or config,
    "a name outside": lambda config: config["arguments"].update(name="../../x") or config,
    "a label outside": lambda config: config["schedules"].update({"../../x": [1e-3]}) or config,
    "a label that is the directory": lambda config: config["schedules"].update({".": [1e-3]}) or config,
    "no schedules": lambda config: {**config, "schedules": {}},
    "a schedule without epochs": lambda config: config["schedules"].update(exp=[]) or config,
    "a schedule that is no number": lambda config: config["schedules"].update(exp=[float("nan")]) or config,
    "more seeds": lambda config: {**config, "seeds": 3},
    "no fingerprint": lambda config: config["data"].pop("fingerprint") and config,
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERED)
def test_a_config_that_is_not_as_it_was_written_is_refused(
    what, whole, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "tensorboard/one"
    directory.mkdir(parents=True)
    changed = TAMPERED[what](logs.read_json(whole / "tensorboard/one/config.json"))
    content = changed if isinstance(changed, str) else json.dumps(changed)
    (directory / "config.json").write_text(content, errors="surrogateescape")
    try:
        status = train.main(["--resume", "tensorboard/one"])
    except SystemExit as ended:
        status = ended.code
    told = capsys.readouterr()
    assert status == 2 and told.out == ""
    assert (
        told.err.startswith("train.py: error: tensorboard/one/config.json")
        and told.err.count("\n") == 1
    )
    assert "go on with" not in told.err
    assert [path.name for path in tmp_path.rglob("*")] == ["tensorboard", "one", "config.json"]


def test_results_that_are_not_those_of_the_events_are_made_again(complete, whole):
    results = sorted(complete.glob("tensorboard/one/*/seed-*/result.json"))
    results[0].write_bytes(results[0].read_bytes()[:100])
    better = logs.read_json(results[1])
    better["final"]["val_categorical_accuracy"] = 1.0
    logs.write_json(results[1], better)
    logs.write_json(results[2], {**logs.read_json(results[2]), "final": 3})
    (results[3].parent / "train/events.out.tfevents.v2").unlink()
    for leftover in (
        ".summary.md.x.tmp",
        "exp/.epoch_loss.svg.y.tmp",
        "exp/seed-0/.export.tmp.keras",
    ):
        (complete / "tensorboard/one" / leftover).write_text("half")
    command = Command(complete, RESUME)
    assert command.ended() == 0, command.stderr
    told = command.stderr.splitlines()
    assert len(told) == RUNS and all(line.endswith("; this run is done again") for line in told)
    assert_same(complete, whole)
