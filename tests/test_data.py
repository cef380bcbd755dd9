"""Sides, fingerprints, notes and refusals of any source; layouts, names and links of folders."""

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


def test_digits_are_embedded_and_a_folder_of_that_name_is_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = data.load()
    assert (dataset.name, len(dataset.names), dataset.notes) == ("digits", 1797, [])
    assert dataset.class_names == [str(digit) for digit in range(10)]
    for train, validation in dataset.counts().values():
        assert 0.1 < validation / (train + validation) < 0.3
    image, last = dataset.source.read([0, 1796])
    assert data.digest(last) == dataset.digests[1796]
    assert data.decode(image).shape == (8, 8, 3) and data.decode(image).max() == 239  # 15 of 16
    write(tmp_path / "digits", classes(4, 4))
    note = "the embedded digits are used; for the folder digits give ./digits"
    assert data.load().notes == [note]
    assert data.load("./digits").class_names == ["a", "b"]


@pytest.mark.parametrize("source", ["digits", "folder"])
def test_a_part_of_a_source_reads_its_rows_and_pickles_small(tmp_path, source):
    write(tmp_path, classes(300, 300))
    source = data.load(source if source == "digits" else str(tmp_path)).source
    part = pickle.dumps(source.subset(range(7, 17)))
    assert len(part) < len(pickle.dumps(source)) / 10
    assert list(pickle.loads(part).read([0, 9])) == list(source.read([7, 16]))


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
    os.utime(root / "a" / "0.png", (1, 1))
    copied = data.load(str(shutil.copytree(root, tmp_path / "elsewhere" / "two")))
    assert copied.fingerprint == dataset.fingerprint and sides(copied) == sides(dataset)

    other_side = data.load(str(root), validation_fraction=0.5)
    renamed = replace(dataset, class_names=["a", "c"])
    relabelled = replace(dataset, labels=1 - dataset.labels)
    (root / "a" / "0.png").write_bytes(picture(99))
    other_image = data.load(str(root))
    every = [dataset, other_side, renamed, relabelled, other_image]
    assert len({each.fingerprint for each in every}) == len(every)
    assert len({each.images_fingerprint for each in every[:-1]}) == 1
    assert other_image.images_fingerprint != dataset.images_fingerprint


def test_leaving_images_out_keeps_the_rest_and_both_sides_of_each_class(tmp_path):
    dataset = data.load(write(tmp_path / "pets", classes(40, 3)))
    gone = {0, *(40 + np.flatnonzero(dataset.validation[40:]))}
    smaller = dataset.without(gone)
    assert list(smaller.rows) == [row for row in range(43) if row not in gone]
    assert smaller.names == [dataset.names[row] for row in smaller.rows]
    assert smaller.digests == [data.digest(encoded) for encoded in read_all(smaller)]
    assert min(smaller.counts()["b"]) >= 1
    large = dataset.validation[1:40]
    np.testing.assert_array_equal(smaller.validation[smaller.labels == 0], large)
    with pytest.raises(data.DataError, match="class b needs training and validation images"):
        dataset.without({40, 41, 42})


def test_the_users_own_split_is_never_changed(tmp_path):
    files = {**classes(2, 2, prefix="train/"), **classes(2, 1, prefix="val/")}
    dataset = data.load(write(tmp_path, files))
    np.testing.assert_array_equal(dataset.without({0}).validation, dataset.validation[1:])
    with pytest.raises(data.DataError, match="and has 2 and 0"):
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
    pair = f"{tmp_path}/val/b/1.png (b) is {tmp_path}/train/b/0.png (b)"
    note = "validation images are training images too"
    assert data.load(write(tmp_path, files)).notes == [f"1 {note}, e.g. {pair}"]

    files["val/a/0.png"] = files["train/b/1.png"]
    pair = f"{tmp_path}/val/a/0.png (a) is {tmp_path}/train/b/1.png (b)"
    note = f"2 {note}, 1 of them with contradictory labels, e.g. {pair}"
    assert data.load(write(tmp_path, files)).notes == [note]


LACKS = "needs training and validation images and has {} and {}; add some or remove the class"


def test_classes_that_cannot_be_compared_are_all_named(tmp_path):
    one = refusal(write(tmp_path / "one", classes(9, names="b")))
    assert one == "one: only one class has images; at least two are needed"
    both = {**classes(3, 3, 0, 2, prefix="train/"), **classes(3, 0, 4, prefix="val/")}
    assert refusal(write(tmp_path / "pets", {**both, "train/c/x.tif": b"x"})).split("\n  ") == [
        "pets: 5 problems",
        f"class b {LACKS.format(3, 0)}",
        f"class c {LACKS.format(0, 4)}",
        f"class d {LACKS.format(2, 0)}",
        "1 .tif files are not read",
        f"folders without images are not classes: {tmp_path}/pets/train/c",
    ]


def test_remarks_are_counted_and_some_images_named(tmp_path):
    dataset = data.load(write(tmp_path, classes(9, 9)))
    remarks = {**dict.fromkeys(range(13), "are odd"), 3: "are odd; are turned"}
    smaller = dataset.without({0})
    assert data.remark_notes(smaller, remarks) == [
        f"images that are odd: 12 ({', '.join(smaller.names[:10])} and 2 more)",
        f"images that are turned: 1 ({dataset.names[3]})",
    ]


NAMES = [
    ("Training", "Valid"), ("TRAIN", "DEV"), ("train2017", "val2017"),
    ("seg_train/seg_train", "seg_test/seg_test"), ("asl_alphabet_train", "asl_alphabet_test"),
    ("MyTrain", "MyTest"), ("trainset", "testset"), ("training data", "holdout.1"),
    ("archive/data/train", "archive/data/eval"),
]  # fmt: skip


@pytest.mark.parametrize("train, validation", NAMES)
def test_splits_are_known_by_their_names(tmp_path, train, validation):
    files = {**classes(3, 4, prefix=f"{train}/"), **classes(2, 1, prefix=f"{validation}/")}
    dataset = data.load(write(tmp_path, files))
    assert dataset.counts() == {"a": (3, 2), "b": (4, 1)}
    assert [f"/{validation}/" in path for path in dataset.names] == dataset.validation.tolist()
    # Folders that are not where one expects them are named.
    used = f"images are taken from the class folders in {tmp_path}/{train} and {tmp_path}/"
    assert dataset.notes == ([used + validation] if "/" in train else [])


BESIDE = {
    "train alone": ({}, "train", ""),
    "test without labels": (classes(2, names=["test"]), "train", "2 in ROOT/test"),
    "test of one folder": ({"test/any/0.png": b"x"}, "train", "1 in ROOT/test/any"),
    "two": (classes(2, prefix="test/") | classes(2, prefix="valid/"), "valid", "2 in ROOT/test/a"),
    "validation without labels": (
        {**classes(2, 2, prefix="test/"), "val/0.png": b"x"}, "test", "1 in ROOT/val"
    ),
    "another's validation": (classes(2, prefix="other/val/"), "train", "2 in ROOT/other/val/a"),
    "a copy": (
        classes(20, 20, prefix="copy/train/"), "train",
        "20 in ROOT/copy/train/a, 20 in ROOT/copy/train/b"
    ),
    "something else": ({"extra/0.png": b"x", "labels/a.xml": b"x"}, "train", "1 in ROOT/extra"),
}  # fmt: skip


@pytest.mark.parametrize("files, validation, unused", BESIDE.values(), ids=BESIDE)
def test_what_is_beside_train_is_the_validation_side_or_noted(tmp_path, files, validation, unused):
    files = {**classes(20, 20, prefix="train/"), **files, f"{validation}/b/9.png": b"y"}
    root = write(tmp_path, files)
    dataset = data.load(root)
    used = " and ".join(f"{root}/{side}" for side in dict.fromkeys(["train", validation]))
    note = f"images are taken from the class folders in {used}; not in them, so not used: {unused}"
    assert dataset.notes == ([note.replace("ROOT", root)] if unused else [])
    assert dataset.class_names == ["a", "b"] and dataset.validation.any()
    rows = np.flatnonzero(dataset.validation)
    assert all(dataset.names[row].startswith(f"{root}/{validation}/") for row in rows)


VEHICLES = classes(4, 4, 4, names=["bus", "plane", "train"])
STAY = {
    "loose": classes(4, 4, 4, names=["plane", "test", "train"]),
    "with a folder in it": {**VEHICLES, "train/x/0.png": b"x"},
    "with one other": {**classes(4, 4, names=["plane", "train"]), "train/x/0.png": b"x"},
    "with folders only": {**VEHICLES, **classes(3, 3, prefix="train/")},
    "two tests": classes(4, 4, names=["negative_test", "positive_test"]),
}


@pytest.mark.parametrize("files", STAY.values(), ids=STAY)
def test_a_class_with_the_name_of_a_split_stays_a_class(tmp_path, files):
    dataset = data.load(write(tmp_path, files))
    assert dataset.class_names == sorted({path.split("/")[0] for path in files})


def loose(*places):
    return {f"{place}/{number}.png": picture(number) for place in places for number in range(3)}


NOT_READ = "needed are CLASS/* or train/CLASS/* with .jpg .jpeg .png .bmp .gif .webp"
WHERE = "images are not in class folders: 3 in "
UNUSABLE = {
    "nothing": ({"x/": b""}, "no images"),
    "loose images": (loose("."), f"{WHERE}ROOT"),
    "loose splits": (loose("test1", "train"), f"{WHERE}ROOT/test1, 3 in ROOT/train"),
    "train alone": (loose("train"), f"{WHERE}ROOT/train"),
    "numbered splits": (loose("train_1", "train_2"), f"{WHERE}ROOT/train_1, 3 in ROOT/train_2"),
    "inside classes": (loose("a/train", "b/train"), f"{WHERE}ROOT/a/train, 3 in ROOT/b/train"),
    "two data sets": (loose("x/a", "y/a"), f"{WHERE}ROOT/x/a, 3 in ROOT/y/a"),
    "other formats": ({"a/0.tif": b"x", "b/0.tif": b"x"}, "no images; 2 .tif files are not read"),
}


@pytest.mark.parametrize("files, found", UNUSABLE.values(), ids=UNUSABLE)
def test_of_what_cannot_be_used_it_is_said_what_was_found_where(tmp_path, files, found):
    root = write(tmp_path, files)
    assert refusal(root) == f"{root}: {found.replace('ROOT', root)}; {NOT_READ}"


def test_what_is_not_a_folder_is_refused(tmp_path):
    advice = "no such folder; --data takes digits, tfds:NAME or a folder"
    assert refusal(tmp_path / "none") == f"{tmp_path}/none: {advice}"
    assert refusal("") == f"no name: {advice}"
    assert refusal("nul\0") == f"nul\\x00: {advice}"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs folders without access")
def test_all_folders_that_cannot_be_read_are_named(tmp_path):
    root = write(tmp_path, classes(3, 3, 3))
    for name in "ab":
        (tmp_path / name).chmod(0)
    try:
        told = [f"{root}/{name} cannot be read: Permission denied" for name in "ab"]
        assert refusal(root).split("\n  ") == [f"{root}: 2 problems", *told]
    finally:
        for name in "ab":
            (tmp_path / name).chmod(0o700)


def test_what_lies_about_is_ignored_in_silence(tmp_path):
    litter = [".DS_Store", "._0.png", ".hidden.png", "Thumbs.db", "desktop.ini", "notes.txt"]
    files = {f"{where}{name}": b"x" for where in ("a/", "b/", "") for name in litter}
    files |= {".git/config": b"x", "__MACOSX/a/0.png": b"x", "a/.ipynb_checkpoints/0.png": b"x"}
    # The project's own folder, which is given as left out.
    files |= {"tensorboard/digits/plot.png": picture(0)}
    images = {"a/0.PNG": b"1", "a/1.Jpg": b"2", "b/0.JPEG": b"3", "b/1.WebP": b"4", "b/2.gif": b"5"}
    root = write(tmp_path, {**images, **files})
    dataset = data.load(root, left_out=[tmp_path / "tensorboard", tmp_path / "absent"])
    assert len(dataset.names) == 5 and dataset.notes == []


def test_other_files_and_folders_are_noted(tmp_path):
    others = ["in/a/x.tif", "in/a/y.TIF", "in/b/z.heic", "in/b/noextension", "in/b/n\nl.a\tb"]
    others += ["in/b/deep/0.png", "stray.png", "extra/0.png", "in/papers/x.pdf"]
    files = {**classes(4, 4, prefix="in/"), **dict.fromkeys(others, b"x")}
    root = write(tmp_path, files)
    unused = f"not in them, so not used: 1 in {root}, 1 in {root}/extra, 1 in {root}/in/b/deep"
    assert data.load(root).notes == [
        "1 .a\\tb, 1 .heic, 1 .pdf, 2 .tif, 1 no-extension files are not read",
        f"images are taken from the class folders in {root}/in; {unused}",
        f"folders without images are not classes: {root}/in/papers",
    ]


STRANGE = ["ein Käfer", "雪 山", "both \"'quotes", "two\nlines", "tab\t", "-dash", "*?[x]", "%s{0}"]


def test_strange_names_of_files_and_classes_work_and_print_on_one_line(tmp_path):
    files = {f"{name}/{name}.{i}.png": picture(i) for name in STRANGE for i in (1, 2)}
    # A name that is not Unicode.
    folder = os.fsdecode(b"caf\xe9")
    dataset = data.load(write(tmp_path, {**files, **classes(2, names=[folder])}))
    assert len(set(dataset.class_names)) == len(STRANGE) + 1
    assert all(text.isprintable() for text in [*dataset.class_names, *dataset.names])
    assert {"ein Käfer", "two\\nlines", "caf\\udce9"} < set(dataset.class_names)
    assert [data.digest(encoded) for encoded in read_all(dataset)] == dataset.digests


def test_links_are_followed_but_not_in_circles_and_damaged_if_they_lead_nowhere(tmp_path):
    write(tmp_path / "elsewhere", {**classes(3), "file.png": picture(99)})
    root = tmp_path / "root"
    write(root, classes(3, names="b"))
    (root / "a").symlink_to(tmp_path / "elsewhere" / "a")
    (root / "b" / "link.png").symlink_to(tmp_path / "elsewhere" / "file.png")
    (root / "b" / "circle").symlink_to(root)
    (root / "b" / "nowhere.png").symlink_to(tmp_path / "gone.png")
    dataset = data.load(str(root))
    counts = {name: sum(sizes) for name, sizes in dataset.counts().items()}
    assert counts == {"a": 3, "b": 5} and dataset.notes == []
    with pytest.raises(data.DamagedImage, match="cannot be read: "):
        data.decode(read_all(dataset)[-1])
