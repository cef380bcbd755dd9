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
from runtime.messages import Refusal
from sources.decoding import DamagedImage, decode
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


TRAIN = classes(20, 20, prefix="train/")
VEHICLES = classes(4, 4, 4, names=["bus", "plane", "train"])
# Files, folders of class folders (that of validation is the last), and what is not used.
LAYOUTS = {
    "train alone": (TRAIN, ["train"], ""),
    "unlabelled": (TRAIN | classes(2, names=["test"]), ["train"], "2 in test"),
    "unknown": (TRAIN | {"test/any/0.png": b"x"}, ["train"], "1 in test/any"),
    "two": (
        TRAIN | classes(2, 1, prefix="test/") | classes(2, 1, prefix="valid/"),
        ["train", "valid"], "2 in test/a, 1 in test/b",
    ),
    "another": (TRAIN | classes(2, prefix="other/val/"), ["train"], "2 in other/val/a"),
    "a copy": (TRAIN | classes(20, prefix="copy/train/"), ["train"], "20 in copy/train/a"),
    "more": (TRAIN | classes(50, names=["extra"]) | {"xml/a.xml": b"x"}, ["train"], "50 in extra"),
    "classes": (classes(4, 4, 4, names=["plane", "test", "train"]), ["."], ""),
    "a folder in a class": (VEHICLES | {"train/x/0.png": b"x"}, ["."], "1 in train/x"),
    "a folder in one of two": (
        classes(4, 4, names=["plane", "train"]) | {"train/x/0.png": b"x"}, ["."], "1 in train/x",
    ),
    "folders in a class": (
        VEHICLES | classes(3, 3, prefix="train/"), ["."], "3 in train/a, 3 in train/b"
    ),
}  # fmt: skip
for names in (
    "Training Valid", "TRAIN DEV", "train2017 val2017", "seg_train/seg_train seg_test/seg_test",
    "asl_alphabet_train asl_alphabet_test", "MyTrain MyTest", "training-data holdout.1",
    "archive/data/trainset archive/data/eval",
):  # fmt: skip
    train, validation = names.split()
    both = classes(3, 4, prefix=f"{train}/") | classes(2, 1, prefix=f"{validation}/")
    LAYOUTS[names] = (both, [train, validation], "")


@pytest.mark.parametrize("files, used, unused", LAYOUTS.values(), ids=LAYOUTS)
def test_of_what_lies_in_a_folder_the_right_class_folders_are_taken(tmp_path, files, used, unused):
    root = write(tmp_path, files)
    dataset = data.load(root)
    groups = [os.path.relpath(Path(name).parents[1], root) for name in dataset.names]
    assert list(dict.fromkeys(groups)) == used
    if len(used) > 1:
        assert dataset.validation.tolist() == [group == used[1] for group in groups]
    assert dataset.class_names == sorted({Path(name).parent.name for name in dataset.names})
    note = f"from the class folders in {' and '.join(used)}"
    note += f"; not in them, so not used: {unused}" if unused else ""
    notes = [text.replace(f"{root}/", "").replace(root, ".") for text in dataset.notes]
    is_noted = unused or "/" in used[0]
    assert notes == [f"images are taken {note}"] if is_noted else notes == []


def loose(*places):
    return {f"{place}/{number}.png": picture(number) for place in places for number in range(3)}


NOT_READ = "needed are CLASS/* or train/CLASS/* with .jpg .jpeg .png .bmp .gif .webp"
UNUSABLE = {
    "nothing": ({"x/notes.txt": b""}, "no images"),
    "loose images": (loose("."), "3 in ROOT"),
    "loose splits": (loose("test_1", "train_2"), "3 in ROOT/test_1, 3 in ROOT/train_2"),
    "inside classes": (loose("a/train", "b/train"), "3 in ROOT/a/train, 3 in ROOT/b/train"),
    "two data sets": (loose("x/a", "y/a"), "3 in ROOT/x/a, 3 in ROOT/y/a"),
    "other formats": ({"a/0.tif": b"x", "b/0.tif": b"x"}, "no images; 2 .tif files are not read"),
}


@pytest.mark.parametrize("files, found", UNUSABLE.values(), ids=UNUSABLE)
def test_of_what_cannot_be_used_it_is_said_what_was_found_where(tmp_path, files, found):
    root = write(tmp_path, files)
    found = found if found.startswith("no") else f"images are not in class folders: {found}"
    assert refusal(root) == f"{root}: {found.replace('ROOT', root)}; {NOT_READ}"


def test_what_is_not_a_folder_is_refused(tmp_path):
    advice = "no such folder; --data takes digits, tfds:NAME or a folder"
    assert refusal(tmp_path / "none") == f"{tmp_path}/none: {advice}"
    assert refusal("nul\0") == f"nul\\x00: {advice}"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs folders without access")
def test_all_folders_that_cannot_be_read_are_named(tmp_path):
    root = write(tmp_path, classes(3, 3, 3))
    for name in "ab":
        (tmp_path / name).chmod(0)
    told = [f"{root}/{name} cannot be read: Permission denied" for name in "ab"]
    assert refusal(root).split("\n  ") == [f"{root}: 2 problems", *told]
    for name in "ab":
        (tmp_path / name).chmod(0o700)


def test_what_lies_about_is_ignored_in_silence_or_noted(tmp_path):
    images = {"a/0.PNG": b"1", "a/1.Jpg": b"2", "b/0.JPEG": b"3", "b/1.WebP": b"4", "b/2.gif": b"5"}
    litter = [".DS_Store", "._0.png", ".hidden.png", "Thumbs.db", "desktop.ini", "notes.txt"]
    litter = [f"{folder}{name}" for folder in ("a/", "b/", "") for name in litter]
    litter += [".git/config", "__MACOSX/a/0.png", "a/.ipynb_checkpoints/0.png"]
    # The project's own folder, which is given as left out.
    litter += ["tensorboard/digits/plot.png"]
    root = write(tmp_path / "in", {**images, **dict.fromkeys(litter, b"x")})
    left_out = [f"{root}/tensorboard", f"{root}/absent"]
    dataset = data.load(root, left_out=left_out)
    assert len(dataset.names) == 5 and dataset.notes == []

    others = ["in/a/x.tif", "in/a/y.TIF", "in/b/noextension", "in/b/n\nl.a\tb"]
    others += ["in/b/deep/0.png", "stray.png", "extra/0.png", "in/papers/x.pdf"]
    root = write(tmp_path, dict.fromkeys(others, b"x"))
    unused = f"not in them, so not used: 1 in {root}, 1 in {root}/extra, 1 in {root}/in/b/deep"
    assert data.load(root, left_out=left_out).notes == [
        "1 .a\\tb, 1 .pdf, 2 .tif, 1 no-extension files are not read",
        f"images are taken from the class folders in {root}/in; {unused}",
        f"folders without images of their own are not classes: {root}/in/papers",
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
    assert [digest(encoded) for encoded in read_all(dataset)] == dataset.digests


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
    with pytest.raises(DamagedImage, match="cannot be read: "):
        decode(read_all(dataset)[-1])
