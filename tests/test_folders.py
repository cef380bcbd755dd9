"""Folders of images: layouts, names, links, and what cannot be read."""

import os

import numpy as np
import pytest
from image_files import classes, picture, read_all, refusal, write

import data


def test_classes_without_a_split_are_split_and_listed(tmp_path):
    root = write(tmp_path / "pets", classes(20, 30))
    dataset = data.load(root)
    assert (dataset.name, dataset.class_names, dataset.notes) == ("pets", ["a", "b"], [])
    assert dataset.names == [f"{root}/{path}" for path in sorted(classes(20, 30))]
    assert dataset.labels.dtype == np.int32 and list(dataset.labels) == [0] * 20 + [1] * 30
    np.testing.assert_array_equal(dataset.rows, np.arange(50))


NAMES = [
    ("train", "validation"), ("Training", "Valid"), ("TRAIN", "DEV"), ("train2017", "val2017"),
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
    "with folders only": {**VEHICLES, **classes(5, 5, prefix="train/")},
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
    "other formats": ({"a/0.tif": b"x", "b/0.tif": b"x"}, "no images; 2 .tif files are not read"),
}


@pytest.mark.parametrize("files, found", UNUSABLE.values(), ids=UNUSABLE)
def test_of_what_cannot_be_used_it_is_said_what_was_found_where(tmp_path, files, found):
    root = write(tmp_path, files)
    assert refusal(root) == f"{root}: {found.replace('ROOT', root)}; {NOT_READ}"


def test_what_is_not_a_folder_is_refused(tmp_path):
    way_on = "no such folder; --data takes digits, tfds:NAME or a folder"
    assert refusal(tmp_path / "none") == f"{tmp_path}/none: {way_on}"
    assert refusal("") == f"no name: {way_on}"
    assert refusal("nul\0") == f"nul\\x00: {way_on}"


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
    others = ["a/x.tif", "a/y.TIF", "b/z.heic", "b/noextension", "b/new\nline.a\tb"]
    others += ["b/deep/0.png", "stray.png"]
    root = write(tmp_path, {**classes(4, 4), **dict.fromkeys(others, b"x")})
    unused = f"not in them, so not used: 1 in {root}, 1 in {root}/b/deep"
    assert data.load(root).notes == [
        "1 .a\\tb, 1 .heic, 2 .tif, 1 no-extension files are not read",
        f"images are taken from the class folders in {root}; {unused}",
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
