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

TRAIN = classes(20, 20, prefix="train/")


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
    files = {f"class{n}/{i}.png": b"%d" % i for n in range(50) for i in range(2 + n % 3)}
    dataset = data.load(write(tmp_path, files), validation_fraction=fraction)
    assert all(min(sizes) >= 1 for sizes in dataset.counts().values())


def test_the_fingerprint_follows_images_classes_and_sides_and_nothing_else(tmp_path):
    root = tmp_path / "one"
    dataset = data.load(write(root, classes(20, 20)))
    assert (dataset.name, dataset.class_names, dataset.listing.notes) == ("one", ["a", "b"], [])
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


def test_the_users_own_split_is_never_changed(tmp_path):
    files = {**classes(21, 2, prefix="train/"), **classes(2, 1, prefix="val/")}
    dataset = data.load(write(tmp_path, files))
    smaller = dataset.without({0})
    np.testing.assert_array_equal(smaller.validation, dataset.validation[1:])
    with pytest.raises(Refusal, match="and has 2 and 0"):
        dataset.without(dataset.rows[-1:])


SIZES = {
    "even": ([20, 20], [5, 5], []),
    "six in ten": ([24, 16], [5, 5], []),
    "most": (
        [25, 10, 5], [6, 5, 5],
        ["most training images are of one class, a; the accuracy of always answering it is 0.3750"],
    ),
    "unbalanced": ([22, 22, 2], [5, 5, 5], ["unbalanced: 22 training images of b, 2 of c"]),
    "few": (
        [20, 20, 20], [1, 5, 4],
        ["classes with few validation images, so wide intervals: a 1, c 4"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("train, validation, notes", SIZES.values(), ids=SIZES)
def test_sizes_of_classes_that_matter_are_noted(tmp_path, train, validation, notes):
    files = classes(*train, prefix="train/") | classes(*validation, prefix="val/")
    assert data.load(write(tmp_path, files)).notes == notes


def test_equal_images_on_both_sides_or_in_two_classes_are_noted_and_all_listed(tmp_path):
    files = {**classes(6, 6, 6, prefix="train/"), **classes(6, 6, 6, prefix="val/")}
    # Damaged alike is not the same image; twice in one class and side is no contradiction.
    files |= {"train/a/empty.png": b"", "val/a/empty.png": b"", "train/b/empty.png": b""}
    files["train/c/1.png"] = files["train/c/0.png"]
    dataset = data.load(write(tmp_path, files))
    assert (dataset.notes, data.list_duplicates(dataset)) == ([], "")
    files["val/b/1.png"] = files["train/b/0.png"]
    dataset = data.load(write(tmp_path, files))
    pair = [f"{tmp_path}/train/b/0.png (b, training)", f"{tmp_path}/val/b/1.png (b, validation)"]
    end = "; duplicates.txt lists all"
    both = "validation images are training images too, e.g."
    assert dataset.notes == [f"1 {both} {' is '.join(pair)}{end}"]
    assert data.list_duplicates(dataset) == "\t".join(pair) + "\n"

    for path in ("train/c/2.png", "train/c/3.png", "val/a/2.png"):
        files[path] = files["train/a/1.png"]
    files["val/c/0.png"] = files["val/b/0.png"]
    dataset = data.load(write(tmp_path, files))
    other = f"{tmp_path}/train/a/1.png (a, training) is {tmp_path}/"
    assert dataset.notes == [
        f"2 images are in two classes, e.g. {other}train/c/2.png (c, training){end}",
        f"2 {both} {other}val/a/2.png (a, validation){end}",
    ]
    lines = [line.split("\t") for line in data.list_duplicates(dataset).splitlines()]
    assert [len(line) for line in lines] == [4, 2, 2]


def test_training_images_that_are_all_equal_are_refused(tmp_path):
    files = classes(5, 5, prefix="val/") | dict.fromkeys(classes(5, 5, prefix="train/"), picture(1))
    assert (
        refusal(write(tmp_path / "in", files)) == "in: all training images are equal; give others"
    )
    files["train/b/0.png"] = picture(2)
    assert len(data.load(write(tmp_path / "in", files)).names) == 20


def test_flags_that_the_data_leave_without_effect_or_grounds_are_refused(tmp_path):
    split = data.load(write(tmp_path / "split", TRAIN | classes(5, 5, prefix="val/")))
    drawn = data.load(write(tmp_path / "drawn", classes(2, 2, 6)), validation_fraction=0.5)
    small = data.load(write(tmp_path / "small", classes(2, 2, 1, 1, names="ab")))
    with pytest.raises(
        Refusal, match="--validation-fraction: the data have a validation split, so"
    ):
        data.check_flags(split, is_fraction_given=True, is_tuned=False)
    with pytest.raises(Refusal, match="small: --tune holds out training images of each class, and"):
        data.check_flags(small, is_fraction_given=False, is_tuned=True)
    for dataset, *flags in ((split, False, True), (drawn, True, False), (small, True, False)):
        data.check_flags(dataset, *flags)


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
    assert data.remark_notes(dataset.names, remarks) == [
        f"images that are odd: 12 ({', '.join(dataset.names[:10])} and 2 more)",
        f"images that are turned: 1 ({dataset.names[3]})",
    ]
