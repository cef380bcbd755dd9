"""What a user can give wrong: each costs one line that names it, exit status 2, and leaves nothing behind."""

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import quiet
from PIL import Image

import train

SCHEDULE = ["--schedule", "exp"]


def picture(number, kind="PNG"):
    """A 32 x 32 image that differs from number to number."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)).save(
        file, kind
    )
    return file.getvalue()


def pets(root="pets", **counts):
    """`{path: bytes}` of class folders with these numbers of images, of cats and dogs if nothing is said."""
    counts = counts or {"cat": 4, "dog": 4}
    start = zlib.crc32(root.encode()) % 1000
    return {
        f"{root}/{name}/{i}.png": picture(start + 10 * number + i)
        for number, (name, count) in enumerate(counts.items())
        for i in range(count)
    }


def example(image=b"image", label=0, **others):
    """A serialized tf.train.Example, of the two keys that are read and others; None leaves one out."""
    tf = quiet.tensorflow()
    features = {"image/encoded": image, "image/class/label": label, **others}
    kinds = {bytes: "bytes_list", int: "int64_list", float: "float_list"}
    lists = {bytes: tf.train.BytesList, int: tf.train.Int64List, float: tf.train.FloatList}
    filled = {
        key: tf.train.Feature(**{kinds[type(value)]: lists[type(value)](value=[value])})
        for key, value in features.items()
        if value is not None
    }
    return tf.train.Example(features=tf.train.Features(feature=filled)).SerializeToString()


def records(*examples, compression=None, keep=None):
    """A TFRecord file's bytes; those of classes 0 and 1 come first. `keep` bytes of it are kept."""

    def content():
        tf = quiet.tensorflow()
        with tf.io.TFRecordWriter("made", compression) as file:
            for record in [
                example(label=0),
                example(label=1),
                *(example(**each) for each in examples),
            ]:
                file.write(record)
        made = Path("made").read_bytes()
        os.remove("made")
        return made[:keep]

    return content


def write(files):
    """Make `{path: bytes, a function that gives them, a link's target (Path), or None for a folder}`."""
    for path, content in files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            Path(path).mkdir()
        elif isinstance(content, Path):
            Path(path).symlink_to(content)
        else:
            Path(path).write_bytes(content() if callable(content) else content)


def everything():
    """`{path: content}` of what is in the working directory."""
    return {
        str(path): path.read_bytes() if path.is_file() else None for path in Path(".").rglob("*")
    }


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """Every test works in a folder of its own, offline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)


def status_of(arguments):
    """The exit status of the command."""
    try:
        return train.main(arguments)
    except SystemExit as end:
        return end.code


OWN = b"def falling(epoch, lr):\n    return lr - epoch\n\ndef failing(epoch, lr):\n    return 1 / epoch\n\nnumber = 5\n"
GOOD_RECORDS = {"train": records(), "test": records()}
RECORDS = [*SCHEDULE, "--train", "train*", "--test", "test"]
PETS = [*SCHEDULE, "--data", "pets"]

# name: (files, arguments, what standard error says after `train.py: error: `)
COMMAND_LINES = {
    "no schedule": ({}, [], "--schedule is missing"),
    "unknown schedule": ({}, ["--schedule", "expo"], "expo"),
    "a schedule twice": ({}, ["--schedule", "exp", "exp"], "--schedule names exp twice"),
    "no such schedule file": ({}, ["--schedule", "gone.py:falling"], "gone.py"),
    "no such function": ({"own.py": OWN}, ["--schedule", "own.py:rising"], "rising"),
    "not a function": ({"own.py": OWN}, ["--schedule", "own.py:number"], "number"),
    "a file's name": (
        {"run.py": b"def svg(epoch, lr): return lr"},
        ["--schedule", "run.py:svg"],
        "rename the function",
    ),
    "negative rates": ({"own.py": OWN}, ["--schedule", "own.py:falling"], "falling"),
    "a failing schedule": ({"own.py": OWN}, ["--schedule", "own.py:failing"], "division by zero"),
    "unknown flag": ({}, [*SCHEDULE, "--epoch-count", "3"], "--epoch-count"),
    "no epochs": ({}, [*SCHEDULE, "--epochs", "0"], "--epochs: must be >= 1, got 0"),
    "rate no number": (
        {},
        [*SCHEDULE, "--lr", "nan"],
        "--lr: must be a finite number > 0, got nan",
    ),
    "fraction of one": ({}, [*SCHEDULE, "--validation-fraction", "1"], "--validation-fraction"),
    "fraction of none": ({}, [*SCHEDULE, "--validation-fraction", "0"], "--validation-fraction"),
    "too small images": ({}, [*SCHEDULE, "--image-size", "16"], "--image-size must be >= 32"),
    "name that leaves": (
        {},
        [*SCHEDULE, "--name", "../x"],
        "--name must be a plain folder name, got '../x'",
    ),
    "export of another kind": (
        {},
        [*SCHEDULE, "--export", "x.h5"],
        "--export must end in .keras, got x.h5",
    ),
    "export to nowhere": ({}, [*SCHEDULE, "--export", "gone/x.keras"], "--export gone/x.keras"),
    "export exists": (
        {"x.keras": b""},
        [*SCHEDULE, "--export", "x.keras"],
        "--export x.keras exists",
    ),
    "logs in a file": ({"logs": b""}, [*SCHEDULE, "--logdir", "logs"], "--logdir logs"),
    "name exists": (
        {"tensorboard/x/notes": b""},
        [*SCHEDULE, "--name", "x"],
        "tensorboard/x exists",
    ),
    "nothing to resume": ({}, ["--resume", "gone"], "gone/config.json"),
    "a folder of the user's to resume": (pets(), ["--resume", "pets"], "pets/config.json"),
    "nonsense to resume": ({"x/config.json": b"{"}, ["--resume", "x"], "x/config.json"),
    "nothing in it to resume": ({"x/config.json": b"{}"}, ["--resume", "x"], "x/config.json"),
    "no name to resume": ({}, ["--resume", ""], "config.json cannot be read"),
    "logs no UTF-8": ({}, [*SCHEDULE, "--logdir", "a\udcff"], "--logdir must be UTF-8"),
    "rate beyond float32": (
        {},
        [*SCHEDULE, "--lr", "1e39"],
        "the initial lr must be a finite number",
    ),
    "no weights in a file": (
        {**pets(), "w.weights.h5": b"x", "tensorboard": None},  # an empty log directory may stay
        [*PETS, "--weights", "w.weights.h5", "--cache-dir", "cache"],
        "w.weights.h5 does not fit MobileNetV2",
    ),
    "no such weights": (pets(), [*PETS, "--weights", "gone.h5"], "gone.h5"),
    "two sources": ({}, [*PETS, "--train", "train"], "--data does not go with --train"),
}
FOLDERS = {
    "no such folder": ({}, PETS, "pets: no such folder"),
    "no name at all": ({}, [*SCHEDULE, "--data", ""], "no name: no such folder"),
    "a file": ({"pets": b""}, PETS, "pets: no folder"),
    "an empty folder": ({"pets": None}, PETS, "pets holds no images"),
    "images outside classes": ({"pets/0.png": picture(0)}, PETS, "pets holds no images; CLASS/*"),
    "text only": ({"pets/cat/x.txt": b"x", "pets/dog/x.txt": b"x"}, PETS, "pets holds no images"),
    "an empty class": ({**pets(), "pets/fox": None}, PETS, "pets: class fox has no images"),
    "one class": (pets(cat=4), PETS, "pets: only one class, cat"),
    "a class of one image": (pets(cat=4, dog=1), PETS, "pets: class dog has only one image"),
    "a class not held out": (
        {**pets("pets/train"), **pets("pets/val", cat=2)},
        PETS,
        "class dog has no validation",
    ),
    "a class only held out": (
        {**pets("pets/train", cat=2), **pets("pets/val")},
        PETS,
        "class dog has no training",
    ),
    "a class with a newline": (
        pets(cat=4, **{"a\nb": 1}),
        PETS,
        "pets: class a\\nb has only one image",
    ),
}
TFRECORDS = {
    "only --train": (GOOD_RECORDS, RECORDS[:4], "--test GLOB is missing"),
    "only --test": (GOOD_RECORDS, [*SCHEDULE, "--test", "test"], "--train GLOB is missing"),
    "no match": ({"test": b""}, RECORDS, "--train 'train*' matches no file"),
    "text": ({**GOOD_RECORDS, "train": b"no record, but some text"}, RECORDS, "train is corrupt from record 0 on"),
    "no records": ({"train": b"", "test": b""}, RECORDS, "holds no images"),
    "truncated": ({**GOOD_RECORDS, "train-2": records(keep=-3)}, RECORDS, "train-2 is truncated from record 1 on"),
    "truncated gzip": (
        {**GOOD_RECORDS, "train-2": records(compression="GZIP", keep=-3)}, RECORDS, "train-2 is truncated"
    ),
    "no image key": (
        {**GOOD_RECORDS, "train-2": records({"image": None, "image/raw": b"x"})}, RECORDS,
        "train-2 record 2 lacks the key image/encoded; it has image/class/label, image/raw"
    ),
    "no label key": (
        {**GOOD_RECORDS, "train-2": records({"label": None})}, RECORDS, "record 2 lacks the key image/class/label"
    ),
    "label a fraction": (
        {**GOOD_RECORDS, "train-2": records({"label": 1.5})}, RECORDS, "record 2: image/class/label must be one integer"
    ),
    "label a text": (
        {**GOOD_RECORDS, "test": records({"label": b"cat"})}, RECORDS, "test record 2: image/class/label must be one"
    ),
    "label negative": ({**GOOD_RECORDS, "test": records({"label": -1})}, RECORDS, "must not be negative, got -1"),
    "a class not held out": ({**GOOD_RECORDS, "train": records({"label": 7})}, RECORDS, "class 7 has only one image"),
}  # fmt: skip
TFDS = {
    "unknown to TFDS": ({}, [*SCHEDULE, "--data", "tfds:tf_flower"], "did you mean tf_flowers"),
    "TFDS without network": ({}, [*SCHEDULE, "--data", "tfds:tf_flowers"], "cannot be downloaded"),
    "no TFDS name": ({}, [*SCHEDULE, "--data", "tfds:"], "tfds: is no data set that TFDS can give"),
}
CASES = {
    f"{kind}: {name}": case
    for kind, cases in (
        ("command", COMMAND_LINES),
        ("folder", FOLDERS),
        ("records", TFRECORDS),
        ("tfds", TFDS),
    )
    for name, case in cases.items()
}


@pytest.mark.parametrize("files, arguments, culprit", CASES.values(), ids=CASES)
def test_a_mistake_costs_one_line_and_leaves_nothing_behind(files, arguments, culprit, capfd):
    write(files)
    before = everything()
    assert status_of(arguments) == 2
    err = capfd.readouterr().err
    assert err.startswith("train.py: error: ") and culprit in err
    assert err.endswith("\n") and err[:-1].isprintable(), "one line"
    assert everything() == before


def test_several_problems_are_told_at_once(capfd):
    write(
        {
            **pets("pets/train", cat=2, fox=1, hen=3),
            **pets("pets/val", cat=2, dog=2),
            "pets/train/ape": None,
        }
    )
    assert status_of(PETS) == 2
    assert capfd.readouterr().err.splitlines() == [
        "train.py: error: pets: 4 problems",
        "  class ape has no images; add some or remove the class",
        "  class dog has no training image; add some or remove its validation images",
        "  class fox has only one image; add some or remove the class",
        "  class hen has no validation image; add some or remove the class",
    ]


def test_damaged_images_stop_the_run_and_can_be_left_out(capfd):
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + struct.pack(">II", zlib.crc32(header), 9) + b"IDAT"
    )
    damaged = {
        "pets/cat/bomb.png": (bomb, "more than 50,000,000 pixels"),
        "pets/cat/cut.jpg": (picture(7, "JPEG")[:-400], "damaged: Premature end of JPEG file"),
        "pets/cat/empty.gif": (b"", "empty"),
        "pets/cat/link.png": (Path("gone.png"), "cannot be read: No such file or directory"),
        "pets/dog/line\nfeed.jpg": (picture(8, "JPEG")[:300], "damaged, or no JPEG"),
        "pets/dog/text.jpg": (b"some text", "damaged, or no JPEG, PNG, BMP, GIF, WEBP image"),
        "pets/dog/tiff.png": (picture(9, "TIFF"), "damaged, or no JPEG, PNG, BMP, GIF, WEBP image"),
    }
    write({**pets(), **{path: content for path, (content, _) in damaged.items()}})
    before = everything()
    command = [
        *PETS,
        "--image-size",
        "32",
        "--epochs",
        "1",
        "--name",
        "run",
        "--cache-dir",
        "cache",
    ]
    assert status_of(command) == 2
    first, *lines = capfd.readouterr().err.splitlines()
    ways = "mend or remove them, or leave them out with --skip-damaged"
    assert first == f"train.py: error: pets: 7 damaged images; {ways}"
    names = [path.replace("\n", "\\n") for path in damaged]
    for line, name, (_, reason) in zip(lines, names, damaged.values(), strict=True):
        assert line.startswith(f"  {name}: {reason}")
    after = {
        path: content for path, content in everything().items() if not path.startswith("cache")
    }
    assert (
        after.pop("tensorboard", None) is None and after == before
    )  # an empty log directory may stay

    assert status_of([*command, "--skip-damaged"]) == 0
    config = json.loads(Path("tensorboard/run/config.json").read_text())
    assert config["data"]["left_out"] == names
    sides = zip(config["data"]["train"].values(), config["data"]["validation"].values())
    assert [sum(counts) for counts in sides] == [4, 4]
    assert "Left out, because damaged: 7 images" in Path("tensorboard/run/summary.md").read_text()
    assert "7 damaged images are left out" in capfd.readouterr().out
