"""Tables of files and labels give what class folders give; what they lack is told by line."""

import os
import unicodedata

import numpy as np
import pytest
from conftest import run_python
from image_files import classes, picture, refusal, write

import data
from sources.table import list_table

NAMES = ["cat", "dog", "eel"]
TRAIN, VAL = classes(12, 9, 7, names=NAMES), classes(5, 5, 5, prefix="val/", names=NAMES)


def flat(files, folder="images/"):
    """Return these images in one folder, and (name, label, side) of each."""
    rows = {f"{path.replace('/', '-')}": path.split("/") for path in files}
    images = {f"{folder}{name}": files["/".join(parts)] for name, parts in rows.items()}
    return images, [(name, parts[-2], parts[0]) for name, parts in rows.items()]


def table(columns, rows, separator=","):
    """Return the bytes of a table."""
    return "\n".join(separator.join(map(str, row)) for row in [columns, *rows]).encode()


def folders(images, rows):
    """Return the same images as class folders; a side of None is no split."""
    return {
        "/".join(filter(None, [side, label, name])): images[f"images/{name}"]
        for name, label, side in rows
    }


def test_a_table_gives_the_bits_of_the_same_images_in_class_folders(tmp_path):
    images, rows = flat(TRAIN)
    drawn = table(["image_id", "dx"], [(name[:-4], label) for name, label, _ in rows[::-1]])
    root = write(tmp_path, {**images, "labels.csv": drawn})
    write(tmp_path / "in", folders(images, [(name, label, None) for name, label, _ in rows]))
    first, second = data.load(f"{root}/labels.csv"), data.load(f"{root}/in", left_out=[])
    assert first.fingerprint == second.fingerprint
    assert first.name == "labels"
    taken = "files are in the column image_id, labels in dx"
    assert first.notes[:1] == [f"of {root}/labels.csv, {taken}"]

    more, others = flat(VAL)
    sides = [(n, label, "train") for n, label, _ in rows] + [(n, k, "valid") for n, k, _ in others]
    content = table(["id", "label", "fold"], sides[::-1], ";")
    root = write(tmp_path / "split", {**images, **more, "labels.csv": content})
    write(tmp_path / "in2", folders(images | more, sides))
    first, second = data.load(f"{root}/labels.csv"), data.load(str(tmp_path / "in2"))
    assert first.fingerprint == second.fingerprint and first.listing.has_split
    assert sum(first.validation) == len(others)


def test_letters_of_a_table_are_the_same_under_every_locale(tmp_path):
    names = ["th\xe9", "cafe\u0301", "\u96ea"]  # é as one character and as two
    images = {
        f"{name}-{i}.png": picture(10 * k + i) for k, name in enumerate(names) for i in range(9)
    }
    # In the table all are as they are written elsewhere than on a Mac.
    plain = [unicodedata.normalize("NFC", name) for name in images]
    rows = [(name, name[:-6]) for name in plain]
    root = write(tmp_path, images | {"é.csv": table(["file", "label"], rows)})
    dataset = data.load(f"{root}/é.csv")
    assert dataset.class_names == ["caf\xe9", "th\xe9", "\u96ea"]
    code = "import sys, data; print(data.load(sys.argv[1]).fingerprint)"
    users = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    told = run_python("-c", code, f"{root}/é.csv", env=users)
    assert (told.stdout, told.stderr) == (f"{dataset.fingerprint}\n", "")


IMAGES = {f"{place}/{name}.png": picture(i) for i, (place, name) in enumerate(
    [("a", "x"), ("a", "y"), ("b", "x"), ("b", "z"), ("b", "deep/x"), (".", "w"), ("a", "w")]
)}  # fmt: skip
PLACES = {
    "relative": (["a/x.png", "b/deep/x.png"], "a/x b/deep/x"),
    "beside the table": (["w.png", "w"], "w"),
    "without endings": (["y", "z"], "a/y b/z"),
    "of one folder": (["x", "z.png"], "b/x b/z"),
    "beside the table first": (["w"], "w"),
    "below a folder": (["deep/x", "deep/x.png"], "b/deep/x"),
    "from Windows": (["a\\x.png", "b\\z.png"], "a/x b/z"),
    "elsewhere": (["../images/a/x.png", "y"], "a/x a/y"),
}


@pytest.mark.parametrize("names, found", PLACES.values(), ids=PLACES)
def test_files_are_found_beside_or_below_the_table(tmp_path, names, found):
    content = table(["file", "label"], [(name, "a") for name in names])
    root = write(tmp_path / "images", {**IMAGES, "t.csv": content})
    entries = list_table(f"{root}/t.csv").entries
    places = [entry.name.removeprefix(f"{root}/").removesuffix(".png") for entry in entries]
    assert sorted(places) == found.split()


def test_of_folders_with_equal_names_the_one_of_the_tables_split_is_taken(tmp_path):
    images = {f"{side}/{i}.png": picture(9 * k + i) for k, side in enumerate(["test", "train"])
              for i in range(4)}  # fmt: skip
    content = table(["id", "label"], [(i, "ab"[i % 2]) for i in range(4)])
    root = write(tmp_path, images | {"trainLabels.csv": content, "labels.csv": content})
    assert all("/train/" in entry.name for entry in list_table(f"{root}/trainLabels.csv").entries)
    first, line, *_ = refusal(f"{root}/labels.csv").split("\n  ")
    assert first == f"{root}/labels.csv: 4 problems"
    assert line.endswith("/train/0.png; move the table into the folder of its images")


def test_a_one_hot_table_needs_one_1_in_each_line(tmp_path):
    images = {f"{i}.png": picture(i) for i in range(12)}
    rows = [(f"{i}.png", *np.eye(3)[i % 3], i) for i in range(12)]
    columns = ["image", "rust", "scab", "well", "width"]
    root = write(tmp_path, {**images, "t.csv": table(columns, rows)})
    dataset = data.load(f"{root}/t.csv")
    assert [dataset.class_names[label] for label in dataset.labels] == [
        columns[1 + int(name.split("/")[-1][:-4]) % 3] for name in dataset.names
    ]
    assert "labels are one-hot" in dataset.notes[0]
    rows[4], rows[7] = ("4.png", 1, 1, 0, 0), ("7.png", 0, 0, 0, 0)
    write(tmp_path, {"t.csv": table(columns, rows)})
    said = f"{root}/t.csv: 2 problems; the columns rust, scab, well are one-hot, and one must be 1"
    first, *lines = refusal(f"{root}/t.csv").split("\n  ")
    assert first.startswith(said) and lines == ["line 6 has 2 classes", "line 9 has 0 classes"]


def test_columns_can_be_named_and_lines_of_other_splits_are_not_used(tmp_path):
    images = {f"{i}.png": picture(i) for i in range(40)}
    rows = [(f"{i}.png", "ab"[i % 2], ["train", "val", "test"][i // 16], 7) for i in range(40)]
    rows.append(rows[0])
    content = "\ufeff".encode() + table(["what, where", "kind", "use", "id"], rows).replace(
        b"what, where", b'"what, where"'
    )
    root = write(tmp_path, {**images, "t.TSV": content})
    dataset = data.load(f"{root}/t.TSV", columns='"what, where",kind,use')
    assert dataset.counts() == {"a": (8, 8), "b": (8, 8)}
    assert dataset.notes == [
        f"lines of {root}/t.TSV that are not used: 8 test",
        f"1 lines of {root}/t.TSV repeat an image",
    ]
    assert sum(data.load(f"{root}/t.TSV", columns='"what, where",kind').counts()["a"]) == 20


A, B = ("0.png", "a"), ("1.png", "b")


def labelled(*rows):
    return table(["file", "label"], [A, B, *rows])


KINDS = table(["file", "kind"], [A, B])
FOLDS = table(["file", "label", "fold"], [(*A, 0), (*B, 1)])
WRONG = {
    "no table": (None, None, ": No such file or directory"),
    "no lines": (b"file,label\n\n", None, " has no lines below the names of its columns"),
    "not a text": (b"\x89PNG\xff\0", None, " is not a table in UTF-8: "),
    "unknown columns": (table(["a", "b"], [A, B]), None, ": it has the columns a, b, none of"),
    "no labels": (KINDS, None, "none of which is known to hold labels; name them with --columns"),
    "columns that are not there": (KINDS, "f,k", ": --columns f,k must be FILE,LABEL[,SPLIT]; it "),
    "one column": (
        KINDS,
        "file",
        ": --columns file must be FILE,LABEL[,SPLIT]; it has the columns",
    ),
    "columns alike": (
        table(["id", "dx", "dx"], [[1, 2, 3]]),
        None,
        " has several columns named dx",
    ),
    "a short line": (labelled(["2.png"]), None, ": line 4 has 1 cells; the first line has 2"),
    "numbered folds": (FOLDS, None, ": its column fold holds 0, 1; needed are train, and valid"),
    "no label": (labelled(["2.png", ""]), None, ": line 4 has no label"),
    "two labels": (labelled(["0", "b"]), None, "line 4: ROOT/0.png has another label or split"),
    "no file": (labelled(["9.png", "b"]), None, "line 4: no image 9.png is beside or below the "),
    "no name": (labelled(["", "b"]), None, "line 4: it names no file"),
    "two files": (labelled(["x", "a"]), None, "line 4: x may be ROOT/p/x.png or ROOT/q/x.png"),
}


@pytest.mark.parametrize("content, columns, reason", WRONG.values(), ids=WRONG)
def test_what_a_table_lacks_is_told_in_one_line(tmp_path, content, columns, reason):
    images = {f"{name}.png": picture(i) for i, name in enumerate(["0", "1", "2", "p/x", "q/x"])}
    root = write(tmp_path, images if content is None else images | {"t.csv": content})
    said = refusal(f"{root}/t.csv", columns=columns)
    assert said.startswith(f"{root}/t.csv") and reason.replace("ROOT", root) in said
    assert "\n" not in said


def test_columns_are_refused_where_there_is_no_table():
    assert "--columns goes with --data FILE.csv only" in refusal("digits", columns="a,b")
