"""Mistakes people make: each costs one line that names it and exit status 2, and leaves nothing."""

import json
import pickle
import shutil
import signal
from pathlib import Path

import pytest
from conftest import RESUME, numbers
from image_files import classes, picture, write

import results
import train

EXP = ["--schedule", "exp"]
OWN = b"def falling(epoch, lr):\n    return lr - epoch\n\nnumber = 5\n"
PETS = classes(4, 4, prefix="pets/", names=["cat", "dog"])
ON_PETS = [*EXP, "--data", "pets", "--image-size", "32", "--cache-dir", "cache"]


class Pickled:
    """Makes the file `ran` when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


PICKLE = pickle.dumps(Pickled())

# name: (files, arguments, what standard error says after `train.py: error: `)
COMMAND_LINES = {
    "no schedule": ({}, [], "--schedule is missing; choose from exp, linear, exp_warmup"),
    "unknown schedule": ({}, ["--schedule", "expo"], "unknown schedule 'expo'; choose from exp,"),
    "a schedule twice": ({}, ["--schedule", "exp", "exp"], "--schedule names exp twice"),
    "no schedule file": ({}, ["--schedule", "gone.py:f"], "gone.py: no such file"),
    "no such function": ({"own.py": OWN}, ["--schedule", "own.py:f"], "own.py has no function 'f'"),
    "not a function": ({"own.py": OWN}, ["--schedule", "own.py:number"], "no function 'number'"),
    "negative rates": (
        {"own.py": OWN}, ["--schedule", "own.py:falling"],
        "own.falling must return a finite number >= 0 that float32 holds; epoch 1 returned -"),
    "unknown flag": ({}, [*EXP, "--epoch-count", "3"], "--epoch-count"),
    "an unread rate": ({}, [*EXP, "--peak-lr", "1e-3"], "--peak-lr: no chosen schedule reads it"),
    "no epochs": ({}, [*EXP, "--epochs", "0"], "--epochs: must be from 1 to 100,000, got 0"),
    "half a seed": ({}, [*EXP, "--seeds", "1.5"], "--seeds: invalid"),
    "no rate": ({}, [*EXP, "--lr", "nan"], "--lr: must be a finite number > 0, got nan"),
    "a whole fraction": ({}, [*EXP, "--validation-fraction", "1"], "--validation-fraction: must"),
    "small images": ({}, [*EXP, "--image-size", "16"], "must be from 32 to 4,096, got 16"),
    "no preprocessing": ({}, [*EXP, "--preprocessing", "none"], "--preprocessing: invalid choice"),
    "another export": ({}, [*EXP, "--export", "x.h5"], "--export must end in .keras, got x.h5"),
    "two sources": ({}, [*ON_PETS, "--train", "a"], "--data does not go with --train and --test"),
    "half of records": ({}, [*EXP, "--train", "a*"], "TFRecords need --train and --test"),
    "resume and more": ({}, ["--resume", "x", "--seeds", "9"], "--resume DIR takes no other flags"),
}  # fmt: skip
NAMES = ["../x", ".", "..", "/tmp/x", "", "a/b", ".hidden", "a\nb"]
COMMAND_LINES |= {
    f"the name {name!r}": ({}, [*EXP, "--name", name], f"a plain folder name, got {name!r}")
    for name in NAMES
}
PLACES = {
    "no such folder": ({}, ON_PETS, "pets: no such folder"),
    "an empty folder": ({"pets/": b""}, ON_PETS, "pets"),
    "no such records": ({}, [*EXP, "--train", "a*", "--test", "b"], "--train 'a*' matches no file"),
    "a damaged image": (
        {**PETS, "pets/cat/9.png": picture(9)[:-30]}, ON_PETS,
        "pets/cat/9.png: damaged"),
    "no weights": (PETS, [*ON_PETS, "--weights", "gone.h5"], "gone.h5: No such file"),
    "a pickle as .h5": (
        {**PETS, "w.weights.h5": PICKLE}, [*ON_PETS, "--weights", "w.weights.h5"],
        "w.weights.h5 does not fit MobileNetV2"),
    "a pickle as .pkl": (
        {**PETS, "w.pkl": PICKLE}, [*ON_PETS, "--weights", "w.pkl"], "w.pkl does not fit"),
    "export to nowhere": (PETS, [*ON_PETS, "--export", "gone/x.keras"], "is no folder gone"),
    "export exists": (
        {**PETS, "x.keras": b""}, [*ON_PETS, "--export", "x.keras"], "--export x.keras exists"),
    "logs in a file": ({**PETS, "log": b""}, [*ON_PETS, "--logdir", "log"], "--logdir log: "),
    "name exists": (
        {**PETS, "tensorboard/x/notes": b""}, [*ON_PETS, "--name", "x"],
        "tensorboard/x exists; choose another --name"),
    "cache in a file": ({**PETS, "cache": b""}, ON_PETS, "see --cache-dir"),
    "nothing to resume": ({}, ["--resume", "gone"], "gone does not hold config.json"),
    "a user's folder to resume": (PETS, ["--resume", "pets"], "pets does not hold config.json"),
    "results without config": (
        {"x/exp/seed-0/result.json": b"{}"}, ["--resume", "x"], "x does not hold config.json"),
    "half a config": ({"x/config.json": b'{"set'}, ["--resume", "x"], "config.json cannot be read"),
    "another config": ({"x/config.json": b"{}"}, ["--resume", "x"], "not in the format of this"),
}  # fmt: skip
CASES = COMMAND_LINES | PLACES


@pytest.fixture(autouse=True)
def signals_as_before():
    """train.main sets what Ctrl-C does in this process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def exit_status(arguments):
    try:
        return train.main(arguments)
    except SystemExit as end:
        return end.code


def one_line(arguments, capsys):
    """Run the command, which must refuse in one line; returns this line."""
    assert exit_status(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("train.py: error: ") and told.endswith("\n") and told[:-1].isprintable()
    return told


def read_all(folder):
    """`{path: content}` of a folder, without the cache, in which good images stay."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "cache" not in path.parts]
    return {path: path.read_bytes() for path in paths}


@pytest.mark.parametrize(("files", "arguments", "culprit"), CASES.values(), ids=CASES)
def test_a_mistake_costs_one_line_and_leaves_nothing_behind(
    files, arguments, culprit, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(write(tmp_path, files))
    before = read_all(tmp_path)
    assert culprit in one_line(arguments, capsys)
    assert read_all(tmp_path) == before


def test_damaged_images_stop_the_run_and_can_be_left_out(tmp_path, monkeypatch, capsys):
    damaged = {
        "pets/cat/cut.png": (picture(7)[:-30], "damaged"),
        "pets/cat/empty.gif": (b"", "empty"),
        "pets/dog/text.jpg": (b"some text", "damaged, or not a"),
    }
    monkeypatch.chdir(write(tmp_path, PETS | {path: of[0] for path, of in damaged.items()}))
    command = [*ON_PETS, "--epochs", "1", "--name", "run"]
    assert exit_status(command) == 2
    first, *lines = capsys.readouterr().err.splitlines()
    ways = "mend or remove them, or leave them out with --skip-damaged"
    assert first == f"train.py: error: pets: 3 damaged images; {ways}"
    for line, (path, (_, reason)) in zip(lines, damaged.items(), strict=True):
        assert line.startswith(f"  {path}: {reason}")
    assert not any(tmp_path.glob("tensorboard/*"))

    assert exit_status([*command, "--skip-damaged"]) == 0
    assert "note: 3 damaged images are left out" in capsys.readouterr().out
    found = results.read_config(Path("tensorboard/run")).data
    assert found.left_out == list(damaged)
    assert [sum(sides) for sides in zip(found.train, found.validation, strict=True)] == [4, 4]
    summary = Path("tensorboard/run/summary.md").read_text()
    assert "Left out, because damaged: 3 images (pets/cat/cut.png, " in summary


def test_a_resume_that_is_refused_leaves_the_experiment_to_be_resumed(copy, monkeypatch, capsys):
    monkeypatch.chdir(copy)
    experiment = copy / "tensorboard/one"
    for label in ("exp", "linear_warmup"):
        shutil.rmtree(experiment / label)
    shutil.rmtree(".cache")
    Path(".cache").touch()
    before = read_all(experiment)
    assert "; go on with: " in one_line(RESUME, capsys)
    assert read_all(experiment) == before


def test_a_grid_of_other_conditions_is_not_used(copy, monkeypatch, capsys):
    monkeypatch.chdir(copy)
    experiment = copy / "tensorboard/one"
    config = json.loads((experiment / "config.json").read_text())
    config["conditions"]["keras"] = "3.0.0"
    write(experiment, {"config.json": json.dumps(config).encode(), "tuning/seed-0.json": b"{}"})
    for label in ("exp", "linear_warmup"):
        shutil.rmtree(experiment / label)
    before = numbers(experiment)
    assert "was made with keras '3.0.0' instead of" in one_line(RESUME, capsys)
    assert numbers(experiment) == before


def test_a_label_in_config_json_cannot_leave_the_experiment(copy, monkeypatch, capsys):
    monkeypatch.chdir(copy)
    path = copy / "tensorboard/one/config.json"
    config = json.loads(path.read_text())
    config["schedules"]["../../x"] = [1e-3]
    path.write_text(json.dumps(config))
    assert "schedule '../../x' cannot name a folder" in one_line(RESUME, capsys)
