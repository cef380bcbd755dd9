"""Sides, fingerprints, notes and refusals of any source."""

import pickle
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from image_files import classes, picture, read_all, refusal, write

import data
from runtime.messages import Refusal
from sources.decoding import decode
from sources.source import digest


def sides(dataset):
    """Return {CLASS/FILE: is it for validation}."""
    names = ["/".join(Path(name).parts[-2:]) for name in dataset.names]
    return dict(zip(names, dataset.validation.tolist(), strict=True))


def test_digits_are_embedded_and_a_part_of_them_pickles_small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = data.load()
    assert (dataset.name, len(dataset.names), dataset.notes) == ("digits", 1797, [])
    assert dataset.class_names == list("0123456789")
    assert dataset.fingerprint.startswith("f1eeb4397611823f")
    for train, validation in dataset.counts().values():
        assert 0.1 < validation / (train + validation) < 0.3
    image, last = dataset.source.read([0, 1796])
    assert digest(last) == dataset.digests[1796]
    assert decode(image).shape == (8, 8, 3) and decode(image).max() == 239  # 15 of 16
    part = pickle.dumps(dataset.source.subset([7, 1796]))
    assert len(part) < 3000 and list(pickle.loads(part).read([1])) == [last]

    write(tmp_path / "digits", classes(4, 4))
    assert "for the folder digits give ./digits" in data.load().notes[0]
    assert data.load("./digits").class_names == ["a", "b"]


def test_an_image_of_a_large_class_stays_on_its_side_when_others_come_or_go(tmp_path):
    files = classes(100, 100)
    before = sides(data.load(write(tmp_path / "all", files)))
    chosen = random.Random(1).sample(sorted(files), 120)
    fewer = sides(data.load(write(tmp_path / "fewer", {path: files[path] for path in chosen})))
    more = sides(data.load(write(tmp_path / "more", classes(150, 100, 50))))
    assert all(before[name] == side for name, side in fewer.items())
    assert all(more[name] == side for name, side in before.items())
    assert len(fewer) == 120 and len(more) == 300


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.999])
def test_every_class_is_on_both_sides_however_small(tmp_path, fraction):
    files = {f"class{n}/{i}.png": b"x" for n in range(50) for i in range(2 + n % 3)}
    dataset = data.load(write(tmp_path, files), validation_fraction=fraction)
    assert all(min(sizes) >= 1 for sizes in dataset.counts().values())


def test_the_fingerprint_follows_images_classes_and_sides_and_nothing_else(tmp_path):
    root = tmp_path / "one"
    dataset = data.load(write(root, classes(20, 20)))
    assert (dataset.name, dataset.class_names, dataset.notes) == ("one", ["a", "b"], [])
    assert dataset.names == [f"{root}/{path}" for path in sorted(classes(20, 20))]
    assert dataset.labels.dtype == np.int32 and list(dataset.labels) == [0] * 20 + [1] * 20
    copied = data.load(str(shutil.copytree(root, tmp_path / "elsewhere" / "two")))
    assert copied.fingerprint == dataset.fingerprint and sides(copied) == sides(dataset)

    other_side = data.load(str(root), validation_fraction=0.5)
    renamed = replace(dataset, listing=replace(dataset.listing, classes={"a": "a", "b": "c"}))
    relabelled = replace(dataset, labels=1 - dataset.labels)
    (root / "a" / "0.png").write_bytes(picture(99))
    datasets = [data.load(str(root)), dataset, other_side, renamed, relabelled]
    assert len({dataset.fingerprint for dataset in datasets}) == 5
    assert len({dataset.images_fingerprint for dataset in datasets}) == 2


def test_leaving_images_out_keeps_the_rest_and_both_sides_of_each_class(tmp_path):
    dataset = data.load(write(tmp_path / "pets", classes(40, 3)))
    gone = {0, *(40 + np.flatnonzero(dataset.validation[40:]))}
    smaller = dataset.without(gone)
    assert list(smaller.rows) == [row for row in range(43) if row not in gone]
    assert smaller.names == [dataset.names[row] for row in smaller.rows]
    assert smaller.digests == [digest(encoded) for encoded in read_all(smaller)]
    assert min(smaller.counts()["b"]) >= 1
    large = dataset.validation[1:40]
    np.testing.assert_array_equal(smaller.validation[smaller.labels == 0], large)
    with pytest.raises(Refusal, match="class b needs training and validation images"):
        dataset.without({40, 41, 42})


def test_the_users_own_split_is_never_changed_and_imbalance_is_noted(tmp_path):
    files = {**classes(21, 2, prefix="train/"), **classes(2, 1, prefix="val/")}
    dataset = data.load(write(tmp_path, files))
    assert dataset.notes == ["unbalanced: 21 training images of a, 2 of b"]
    smaller = dataset.without({0})
    np.testing.assert_array_equal(smaller.validation, dataset.validation[1:])
    (tmp_path / "train/a/0.png").unlink()
    assert data.load(str(tmp_path)).notes == []
    with pytest.raises(Refusal, match="and has 2 and 0"):
        dataset.without(dataset.rows[-1:])


def test_validation_images_that_are_training_images_are_noted(tmp_path):
    files = {**classes(2, 2, prefix="train/"), **classes(2, 2, prefix="val/")}
    # Damaged alike is not the same image.
    files |= {"train/a/empty.png": b"", "val/a/empty.png": b""}
    files["val/b/1.png"] = files["train/b/0.png"]
    pair = f"{tmp_path}/val/b/1.png (b) is {tmp_path}/train/b/0.png (b)"
    note = "validation images are training images too"
    assert data.load(write(tmp_path, files)).notes == [f"1 {note}, e.g. {pair}"]

    files["val/a/0.png"] = files["train/b/1.png"]
    pair = f"{tmp_path}/val/a/0.png (a) is {tmp_path}/train/b/1.png (b)"
    note = f"2 {note}, 1 of them with contradictory labels, e.g. {pair}"
    assert data.load(write(tmp_path, files)).notes == [note]


def test_classes_that_cannot_be_compared_are_all_named(tmp_path):
    one = refusal(write(tmp_path / "one", classes(9, names="b")))
    assert one == "one: at least two classes with images are needed"
    both = {**classes(3, 3, 0, 2, prefix="train/"), **classes(3, 0, 4, prefix="val/")}
    lacks = "needs training and validation images and has {} and {}; add some or remove the class"
    assert refusal(write(tmp_path / "pets", {**both, "train/c/x.tif": b"x"})).split("\n  ") == [
        "pets: 5 problems",
        f"class b {lacks.format(3, 0)}",
        f"class c {lacks.format(0, 4)}",
        f"class d {lacks.format(2, 0)}",
        "1 .tif files are not read",
        f"folders without images of their own are not classes: {tmp_path}/pets/train/c",
    ]


def test_remarks_are_counted_and_some_images_named(tmp_path):
    dataset = data.load(write(tmp_path, classes(9, 9)))
    remarks = {**dict.fromkeys(range(12), "are odd"), 3: "are odd; are turned"}
    assert data.remark_notes(dataset, remarks) == [
        f"images that are odd: 12 ({', '.join(dataset.names[:10])} and 2 more)",
        f"images that are turned: 1 ({dataset.names[3]})",
    ]
