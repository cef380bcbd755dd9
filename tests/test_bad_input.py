"""Mistakes people make: each costs one line that names it and exit status 2, and leaves nothing."""

import pickle
import shutil
import signal
from pathlib import Path

import pytest
from conftest import RESUME
from image_files import classes, picture, write

import train
from runtime import files
from storage import results

EXP = ["--schedule", "exp"]
PETS = classes(4, 4, prefix="pets/", names=["cat", "dog"])
SPLIT = classes(4, 4, prefix="pets/train/") | classes(3, 3, prefix="pets/val/")
FEW = classes(2, 2, prefix="pets/")
ON_PETS = [*EXP, "--data", "pets", "--image-size", "32", "--cache-dir", "cache"]
OWN = {"own.py": b"def falling(epoch, lr): return lr - epoch\ndef zero(epoch, lr): return 0\n"
    b"def old(epoch): return 1\n"}  # fmt: skip


class Pickled:
    """Makes the file `ran` when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


PICKLES = {**PETS, **dict.fromkeys(["w.weights.h5", "w.pkl"], pickle.dumps(Pickled()))}

# name: (files, arguments, what standard error says after `train.py: error: `)
CASES = {
    "no schedule": ({}, [], "--schedule is missing; give one or more of: exp linear"),
    "unknown schedule": ({}, ["--schedule", "expo"], "unknown schedule 'expo'; choose from exp,"),
    "a schedule twice": ({}, [*EXP, "exp"], "--schedule names exp twice"),
    "no schedule file": ({}, ["--schedule", "gone.py:f"], "gone.py: no such file"),
    "nonsense rates": (OWN, ["--schedule", "own.py:falling"], "float32 holds; epoch 1 returned -"),
    "unknown flag": ({}, [*EXP, "--epoch-count", "3"], "--epoch-count"),
    "an unread rate": ({}, [*EXP, "--peak-lr", "1e-3"], "--peak-lr: it changes no rate"),
    "an unread initial rate": (
        {},
        ["--schedule", "exp_warmup", "cosine", "--lr", "1e-3"],
        "--lr: it changes no rate",
    ),
    "a schedule of epochs": (OWN, ["--schedule", "own.py:old"], "own.old is (epoch), but "),
    "a cosine cut short": ({}, ["--schedule", "cosine", "--epochs", "11"], "--epochs 12 or more"),
    "tune and a rate": ({}, [*EXP, "--tune", "--lr", "1e-3"], "--tune chooses the rates itself"),
    "tune and a peak": ({}, [*EXP, "--tune", "--peak-lr", "1"], "leave out --lr and --peak-lr"),
    "tune nothing": (OWN, ["--tune", "--schedule", "own.py:zero"], "own.zero is 0 in every epoch"),
    "no epochs": ({}, [*EXP, "--epochs", "0"], "--epochs: must be from 1 to 100,000, got 0"),
    "no rate": ({}, [*EXP, "--lr", "nan"], "--lr: must be from 1e-30 to 3"),
    "a whole fraction": ({}, [*EXP, "--validation-fraction", "1"], "--validation-fraction: must"),
    "small images": ({}, [*EXP, "--image-size", "16"], "must be from 32 to 4,096, got 16"),
    "another export": ({}, [*EXP, "--export", "x.keras", "x.h5"], ".keras or .tflite, got x.h5"),
    "two sources": ({}, [*ON_PETS, "--train", "a"], "--data does not go with --train and --test"),
    "half of records": ({}, [*EXP, "--train", "a*"], "TFRecords need --train and --test"),
    "resume and more": ({}, ["--resume", "x", "--seeds", "9"], "--resume DIR takes no other flags"),
    "a vain fraction": (SPLIT, [*ON_PETS, "--validation-fraction", "0.3"], "it changes nothing; "),
    "tune two images": (FEW, [*ON_PETS, "--tune"], "pets: --tune holds out training images of"),
    "columns of a folder": (
        PETS,
        [*ON_PETS, "--columns", "a,b"],
        "--columns goes with --data FILE",
    ),
    "no such table": ({}, [*EXP, "--data", "x.csv"], "x.csv: No such file or directory"),
    "no such folder": ({}, ON_PETS, "pets: no such folder"),
    "no such records": ({}, [*EXP, "--train", "a*", "--test", "b"], "--train 'a*' matches no file"),
    "no weights": (PETS, [*ON_PETS, "--weights", "gone.h5"], "gone.h5: No such file"),
    "a pickle": (PICKLES, [*ON_PETS, "--weights", "w.pkl"], "w.pkl does not fit MobileNetV2"),
    "a pickle as .h5": (PICKLES, [*ON_PETS, "--weights", "w.weights.h5"], "w.weights.h5 does not"),
    "export to nowhere": (PETS, [*ON_PETS, "--export", "gone/x.keras"], "is no folder gone"),
    "export exists": ({"x.keras": b""}, [*EXP, "--export", "x.keras"], "--export x.keras exists"),
    "logs in a file": ({"log": b""}, [*EXP, "--logdir", "log"], "log: File exists"),
    "name exists": ({"tensorboard/x/a": b""}, [*EXP, "--name", "x"], "tensorboard/x exists; "),
    "nothing to resume": ({}, ["--resume", "gone"], "gone does not hold config.json"),
    "half a config": ({"x/config.json": b'{"set'}, ["--resume", "x"], "config.json cannot be read"),
    "another config": ({"x/config.json": b"{}"}, ["--resume", "x"], "not in the format of this"),
    "no config": ({"x/exp/seed-0/result.json": b"{}"}, ["--resume", "x"], "not hold config.json"),
}
for name in ("../x", ".", "..", "/tmp/x", "", "a/b", ".hidden", "a\nb"):
    CASES[f"name {name!r}"] = ({}, [*EXP, "--name", name], f"a plain folder name, got {name!r}")


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


def read_all():
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def refuse_in_one_line(arguments, capsys):
    """Run the command, which must refuse and change nothing; returns its line."""
    before = read_all()
    assert exit_status(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("train.py: error: ") and told.endswith("\n") and told[:-1].isprintable()
    assert read_all() == before
    return told


@pytest.mark.parametrize(("content", "arguments", "culprit"), CASES.values(), ids=CASES)
def test_a_mistake_costs_one_line_and_leaves_nothing_behind(
    content, arguments, culprit, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(write(tmp_path, content))
    assert culprit in refuse_in_one_line(arguments, capsys)


@pytest.mark.parametrize(
    ("changes", "content", "culprit"),
    [
        ({}, {".cache": b""}, "Not a directory; see --cache-dir"),
        ({"conditions": {"keras": "3.0"}}, {"tensorboard/one/tuning/seed-0.json": b""}, "'3.0'"),
    ],
)
def test_a_resume_that_is_refused_changes_nothing(
    copy, changes, content, culprit, monkeypatch, capsys
):
    monkeypatch.chdir(copy)
    for folder in (".cache", "tensorboard/one/exp", "tensorboard/one/linear_warmup"):
        shutil.rmtree(folder)
    config = files.read_json("tensorboard/one/config.json")
    for field, values in changes.items():
        config[field] |= values
    files.write_json("tensorboard/one/config.json", config)
    write(copy, content)
    assert culprit in refuse_in_one_line(RESUME, capsys)


def test_damaged_images_stop_the_run_and_can_be_left_out(tmp_path, monkeypatch, capsys):
    damaged = {
        "pets/cat/cut.png": (picture(7)[:-30], "damaged"),
        "pets/cat/empty.gif": (b"", "empty"),
        "pets/dog/text.jpg": (b"some text", "damaged, or not a"),
    }
    content = {path: content for path, (content, _) in damaged.items()}
    content["pets/dog/0.png"] = PETS["pets/cat/0.png"]
    monkeypatch.chdir(write(tmp_path, PETS | content))
    command = [*ON_PETS, "--epochs", "1", "--name", "run"]
    assert exit_status(command) == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert first.startswith(
        "train.py: error: pets: 3 images cannot be used; fix or remove them, or le"
    )
    for line, (path, (_, reason)) in zip(lines, damaged.items(), strict=True):
        assert line.startswith(f"  {path}: {reason}")
    assert not any(tmp_path.glob("tensorboard/*"))

    assert exit_status([*command, "--skip-damaged"]) == 0
    assert "note: 3 damaged images are left out" in capsys.readouterr().out
    found = results.read_config(Path("tensorboard/run")).data
    equal = Path("tensorboard/run/duplicates.txt").read_text().split("\t")
    assert equal[0].startswith("pets/cat/0.png (cat, ") and equal[1].endswith(")\n")
    assert found.left_out == list(damaged)
    assert [sum(sides) for sides in zip(found.train, found.validation, strict=True)] == [4, 4]
    assert "because damaged: 3 images (pets/" in Path("tensorboard/run/summary.md").read_text()
