"""Splits, fingerprints, notes and refusals: what holds for every source of images."""

import os
import pickle
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from image_files import classes, picture, read_all, refusal, write

import data


def sides(dataset):
    """Return {CLASS/FILE: is it for validation}."""
    names = ["/".join(Path(name).parts[-2:]) for name in dataset.names]
    return dict(zip(names, dataset.validation.tolist(), strict=True))


def test_digits_are_embedded():
    dataset = data.load()
    assert (dataset.name, len(dataset.names)) == ("digits", 1797)
    assert dataset.class_names == [str(digit) for digit in range(10)]
    for train, validation in dataset.counts().values():
        assert 0.1 < validation / (train + validation) < 0.3
    image = data.decode(next(dataset.source.read([0])))
    assert image.shape == (8, 8, 3) and image.max() == 239  # 15 of 16
    source = pickle.loads(pickle.dumps(dataset.source))
    assert [data.digest(encoded) for encoded in source.read([5, 1796])] == [
        dataset.digests[5],
        dataset.digests[1796],
    ]


# --- Splits ---------------------------------------------------------------------------------------


def test_two_loads_are_equal(tmp_path):
    root = write(tmp_path, classes(40, 40))
    one, two = data.load(root), data.load(root)
    assert one.fingerprint == two.fingerprint and sides(one) == sides(two)


def test_an_image_of_a_large_class_stays_on_its_side_when_others_come_or_go(tmp_path):
    before = sides(data.load(write(tmp_path / "all", classes(100, 100))))
    chosen = random.Random(1).sample(sorted(classes(100, 100)), 120)
    files = {path: classes(100, 100)[path] for path in chosen}
    fewer = sides(data.load(write(tmp_path / "fewer", files)))
    more = sides(data.load(write(tmp_path / "more", classes(150, 100, 50))))
    assert all(before[name] == side for name, side in fewer.items())
    assert all(more[name] == side for name, side in before.items())
    assert len(fewer) == 120 and len(more) == 300


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_about_the_wanted_share_of_each_class_is_for_validation(tmp_path, fraction):
    files = dict.fromkeys(classes(1000, 1000), b"x")
    dataset = data.load(write(tmp_path, files), validation_fraction=fraction)
    for train, validation in dataset.counts().values():
        assert train + validation == 1000
        spread = (1000 * fraction * (1 - fraction)) ** 0.5
        assert abs(validation - 1000 * fraction) < 4 * spread


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.999])
def test_every_class_is_on_both_sides_however_small(tmp_path, fraction):
    files = {f"class{n}/{i}.png": b"x" for n in range(50) for i in range(2 + n % 3)}
    dataset = data.load(write(tmp_path, files), validation_fraction=fraction)
    assert all(min(sizes) >= 1 for sizes in dataset.counts().values())


def test_the_fingerprint_follows_images_classes_and_sides_and_nothing_else(tmp_path):
    root = tmp_path / "one"
    dataset = data.load(write(root, classes(20, 20)))
    for number, name in enumerate(dataset.names):
        os.utime(name, (number, number))
    assert data.load(str(root)).fingerprint == dataset.fingerprint

    copied = data.load(str(shutil.copytree(root, tmp_path / "elsewhere" / "two")))
    assert copied.fingerprint == dataset.fingerprint and sides(copied) == sides(dataset)

    other_side = data.load(str(root), validation_fraction=0.5)
    assert other_side.images_fingerprint == dataset.images_fingerprint
    (root / "b").rename(root / "c")
    other_class = data.load(str(root))
    assert other_class.images_fingerprint == dataset.images_fingerprint
    (root / "c" / "0.png").write_bytes(picture(99))
    other_image = data.load(str(root))
    assert other_image.images_fingerprint != dataset.images_fingerprint
    renamed = replace(dataset, class_names=["a", "c"])
    relabelled = replace(dataset, labels=1 - dataset.labels)
    every = [dataset, other_side, other_class, other_image, renamed, relabelled]
    assert len({each.fingerprint for each in every}) == len(every)


# --- Notes and refusals ---------------------------------------------------------------------------


def test_damaged_images_are_listed_with_the_ways_on(tmp_path):
    dataset = data.load(write(tmp_path / "pets", classes(30, 30)))
    ways = "mend or remove them, or leave them out with --skip-damaged"
    error = data.damaged_images(dataset, {3: "empty"})
    assert str(error) == f"{dataset.names[3]}: empty; {ways}"
    error = data.damaged_images(dataset, dict.fromkeys(range(40, 0, -1), "empty"))
    named = [f"  {dataset.names[row]}: empty" for row in range(1, 41)]
    assert str(error).splitlines() == [f"pets: 40 damaged images; {ways}", *named]


def test_leaving_images_out_keeps_the_rest_and_refuses_what_does_not_survive(tmp_path):
    root = write(tmp_path / "pets", classes(5, 3))
    dataset = data.load(root, validation_fraction=0.4)
    smaller = dataset.without({0, 6})
    assert list(smaller.rows) == [1, 2, 3, 4, 5, 7]
    assert smaller.names == [dataset.names[row] for row in smaller.rows]
    assert smaller.digests == [data.digest(encoded) for encoded in read_all(smaller)]
    np.testing.assert_array_equal(smaller.validation, dataset.validation[smaller.rows])
    with pytest.raises(data.DataError, match="pets: class b has no images"):
        dataset.without({5, 6, 7})


def test_a_class_stays_on_both_sides_when_its_only_validation_image_is_left_out(tmp_path):
    dataset = data.load(write(tmp_path, classes(40, 3)))
    small = np.flatnonzero(dataset.labels == 1)
    smaller = dataset.without(small[dataset.validation[small]])
    assert min(smaller.counts()["b"]) >= 1
    large = smaller.validation[smaller.labels == 0]
    np.testing.assert_array_equal(large, dataset.validation[dataset.labels == 0])


def test_the_users_own_split_is_never_changed(tmp_path):
    files = {**classes(2, 2, prefix="train/"), **classes(2, 1, prefix="val/")}
    dataset = data.load(write(tmp_path, files))
    np.testing.assert_array_equal(dataset.without({0}).validation, dataset.validation[1:])
    with pytest.raises(data.DataError, match="class b has no validation image"):
        dataset.without(dataset.rows[-1:])


def test_imbalance_is_noted(tmp_path):
    both = classes(2, 2, prefix="val/")
    strong = write(tmp_path / "strong", {**classes(21, 2, prefix="train/"), **both})
    assert data.load(strong).notes == ["unbalanced: 21 training images of a, 2 of b"]
    mild = write(tmp_path / "mild", {**classes(20, 2, prefix="train/"), **both})
    assert data.load(mild).notes == []


def test_validation_images_that_are_training_images_are_noted(tmp_path):
    files = {**classes(2, 2, prefix="train/"), **classes(2, 2, prefix="val/")}
    # Damaged alike is not the same image.
    files |= {"train/a/empty.png": b"", "val/a/empty.png": b""}
    files["val/b/1.png"] = files["train/b/0.png"]
    leak = f"{tmp_path}/val/b/1.png is {tmp_path}/train/b/0.png"
    notes = data.load(write(tmp_path, files)).notes
    assert notes == [f"1 validation images are training images too, e.g. {leak}"]

    files["val/a/0.png"] = files["train/b/1.png"]
    notes = data.load(write(tmp_path, files)).notes
    assert notes[0].startswith("2 validation images are training images too, e.g. ")
    pair = f"{tmp_path}/val/a/0.png (a) is {tmp_path}/train/b/1.png (b)"
    assert notes[1:] == [f"contradictory labels of 1 of them, e.g. {pair}"]


ADD = "add some or remove"
CANNOT_BE_COMPARED = {
    "empty": ({**classes(3, 3), "c/": b""}, [f"class c has no images; {ADD} the class"]),
    "one class": (classes(9), ["only one class, a; at least two are needed"]),
    "one image": (classes(3, 1, 3), [f"class b has only one image; {ADD} the class"]),
    "newline": (
        {"two\nlines/0.png": b"x", **classes(2)},
        [f"class two\\nlines has only one image; {ADD} the class"],
    ),
    "all at once": (
        {**classes(3, 3, 0, 2, 1, prefix="train/"), **classes(3, 0, 4, prefix="val/")}
        | {"train/c/x.tif": b"x"},
        [
            f"class b has no validation image; {ADD} the class",
            f"class c has no training image; {ADD} its validation images",
            f"class d has no validation image; {ADD} the class",
            f"class e has only one image; {ADD} the class",
            "files that are not read, by their extension: 1 .tif",
        ],
    ),
}


@pytest.mark.parametrize("files, problems", CANNOT_BE_COMPARED.values(), ids=CANNOT_BE_COMPARED)
def test_classes_that_cannot_be_compared_are_all_named(tmp_path, files, problems):
    message = refusal(write(tmp_path / "ROOT", files))
    if len(problems) == 1:
        assert message == f"ROOT: {problems[0]}"
    else:
        assert message.split("\n  ") == [f"ROOT: {len(problems)} problems", *problems]
