"""Which folders are taken for classes, of whatever lies in a folder, and why others are refused."""

import os
from pathlib import Path

import pytest
from image_files import classes, picture, refusal, write

import data

TRAIN = classes(20, 20, prefix="train/")
VEHICLES = classes(4, 4, 4, names=["bus", "plane", "train"])
# Files, folders of class folders (that of validation is the last), and what is not used.
LAYOUTS = {
    "train alone": (TRAIN, ["train"], ""),
    "unlabelled": (TRAIN | classes(2, names=["test"]), ["train"], "2 in test"),
    "to be predicted": (TRAIN | classes(2, names=["images to predict"]), ["train"],
        "2 in images to predict"),
    "unknown": (TRAIN | {"test/any/0.png": b"x"}, ["train"], "1 in test/any"),
    "two": (
        TRAIN | classes(2, 1, prefix="test/") | classes(2, 1, prefix="valid/"),
        ["train", "valid"], "2 in test/a, 1 in test/b",
    ),
    "a split's word": (classes(4, 4, names=["test_positive", "test_negative"]), ["."], ""),
    "splits' words": (classes(4, 4, names=["TrainStation", "test tube"]), ["."], ""),
    "words in a split": (
        classes(4, 4, prefix="train/", names=["test_yes", "test_no"])
        | classes(2, 2, prefix="val/", names=["test_yes", "test_no"]), ["train", "val"], "",
    ),
    "numbers": (classes(4, 4, 4, names=["Type_1", "Type_2", "Type_3"]), ["."], ""),
    "masks on faces": (classes(4, 4, names=["mask", "no_mask"]), ["."], ""),
    "an archive's notes": (
        {f"in/{path}": image for path, image in TRAIN.items()} | {"about/x.html": b"x"},
        ["in/train"], "",
    ),
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
    notes = [text.replace(f"{root}/", "").replace(root, ".") for text in dataset.listing.notes]
    is_noted = unused or "/" in used[0]
    assert notes == [f"images are taken {note}"] if is_noted else notes == []


def loose(*places):
    return {f"{place}/{number}.png": picture(number) for place in places for number in range(3)}


NOT_READ = "needed are CLASS/* or train/CLASS/* with .jpg .jpeg .png .bmp .gif .webp"
SEVERAL = "several folders hold class folders: {}; give one of them, or, if they are classes, put"
BESIDE = "images lie beside the class folders in {}: {}; give a folder without these, or put ima"
BELOW = "images lie below class folders, not directly in them: {}; "
MASKS = "images and masks lie side by side, where only images of one class should: {}; "
PARTS = "names equal but for a number are parts of one archive, not classes: {}; "
LOOSE = "splits hold images, but no class folders: {}; "
UNUSABLE = {
    "nothing": ({"x/notes.txt": b""}, "no images; "),
    "other formats": ({"a/0.tif": b"x", "b/0.tif": b"x"}, "no images; 2 .tif files are not read;"),
    "loose images": (loose("."), "images are not in class folders: 3 in ROOT; "),
    "mostly loose images": (loose(".", "a"), "images are not in class folders: 3 in ROOT, 3 in "),
    "loose splits": (loose("test_1", "train_2"), LOOSE.format("ROOT/test_1, ROOT/train_2")),
    "one loose split": (loose("train"), LOOSE.format("ROOT/train")),
    "classes in splits' names": (
        loose("train_a", "train_b", "test_b"),
        LOOSE.format("ROOT/test_b, ROOT/train_a, ROOT/train_b"),
    ),
    "another word": (loose("train", "test_raw"), LOOSE.format("ROOT/test_raw, ROOT/train")),
    "inside classes": (
        loose("a/train", "b/train"), BELOW.format("3 in ROOT/a/train, 3 in ROOT/b/train"),
    ),
    "images below": (loose("x/a", "y/a"), BELOW.format("3 in ROOT/x/a, 3 in ROOT/y/a")),
    "pools": (
        classes(20, 12, prefix="cats/") | classes(14, names=["dogs"]),
        BESIDE.format("ROOT/cats", "ROOT/dogs"),
    ),
    "a small pool": (
        classes(9, 9, names=["cats", "dogs"]) | loose("owls/a", "owls/b"),
        SEVERAL.format("ROOT, ROOT/owls"),
    ),
    "versions": (
        classes(8, 8, prefix="color/") | classes(8, 8, prefix="grey/"),
        SEVERAL.format("ROOT/color, ROOT/grey"),
    ),
    "folds": (
        classes(8, 8, prefix="fold_1/") | classes(8, 8, prefix="fold_2/"),
        SEVERAL.format("ROOT/fold_1, ROOT/fold_2"),
    ),
    "masks": (
        classes(9, 9, prefix="ill/", names=["images", "masks"])
        | classes(7, 7, prefix="well/", names=["images", "masks"]),
        MASKS.format("ROOT/ill/images, ROOT/ill/masks"),
    ),
    "masks in a split": (
        classes(9, 9, prefix="train/", names=["Images", "Labels"]),
        MASKS.format("ROOT/train/Images, ROOT/train/Labels"),
    ),
    "parts": (loose("HAM_part_1", "HAM_part_2"), PARTS.format("ROOT/HAM_part_1, ROOT/HAM_part_2")),
    "another data set": (
        TRAIN | classes(2, prefix="other/val/"), BESIDE.format("ROOT/train", "ROOT/other/val/a"),
    ),
    "a copy": (
        TRAIN | classes(20, prefix="copy/train/"), BESIDE.format("ROOT/train", "ROOT/copy/train/a"),
    ),
    "more images": (
        TRAIN | classes(50, names=["extra"]), BESIDE.format("ROOT/train", "ROOT/extra"),
    ),
    "classes of validation alone": (
        classes(9, 9, prefix="val/") | loose("train"), BESIDE.format("ROOT/val", "ROOT/train"),
    ),
    "no training images": (
        classes(20, 20, prefix="val/") | classes(2, 2, prefix="test/"),
        SEVERAL.format("ROOT/val, ROOT/test"),
    ),
    "a class below": (TRAIN | loose("train/c/x"), BESIDE.format("ROOT/train", "ROOT/train/c/x")),
}  # fmt: skip


@pytest.mark.parametrize("files, reason", UNUSABLE.values(), ids=UNUSABLE)
def test_each_layout_that_cannot_be_used_has_its_own_reason(tmp_path, files, reason):
    root = write(tmp_path, files)
    said = refusal(root)
    assert said.startswith(f"{root}: {reason.replace('ROOT', root)}") and said.endswith(NOT_READ)
