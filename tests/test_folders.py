"""What a folder may hold besides images: names, links, litter, and what cannot be read."""

import os

import pytest
from image_files import classes, picture, read_all, refusal, write

import data
from runtime.messages import one_line
from sources.decoding import DamagedImage, decode
from sources.source import digest


def test_what_is_not_a_folder_is_refused(tmp_path):
    advice = "no such folder; --data takes digits, tfds:NAME, a folder or a table.csv"
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
    litter += ["a/@eaDir/0.png/THUMB_M.jpg", "#recycle/a/0.jpg", "$RECYCLE.BIN/0.png"]
    litter += ["@Recycle/0.png", "System Volume Information/0.png", "b/.@__thumb/0.jpg"]
    # The project's own folder, which is given as left out.
    litter += ["tensorboard/digits/plot.png"]
    root = write(tmp_path / "in", {**images, **dict.fromkeys(litter, b"x")})
    left_out = [f"{root}/tensorboard", f"{root}/absent"]
    dataset = data.load(root, left_out=left_out)
    assert len(dataset.names) == 5 and dataset.listing.notes == []

    others = ["in/a/x.tif", "in/a/y.TIF", "in/b/noextension", "in/b/n\nl.a\tb"]
    others += ["in/b/deep/0.png", "stray.png", "in/papers/x.pdf", "labels.csv", "in/more.TSV"]
    root = write(tmp_path, dict.fromkeys(others, b"x"))
    unused = f"not in them, so not used: 1 in {root}, 1 in {root}/in/b/deep"
    assert data.load(root, left_out=left_out).listing.notes == [
        "1 .a\\tb, 1 .pdf, 2 .tif, 1 no-extension files are not read",
        f"tables are not read ({root}/labels.csv, {root}/in/more.TSV); --data FILE.csv reads one",
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
    assert counts == {"a": 3, "b": 5} and dataset.listing.notes == []
    with pytest.raises(DamagedImage, match="cannot be read: "):
        decode(read_all(dataset)[-1])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_named_pipes_are_damaged_images_and_no_tables(tmp_path):
    root = write(tmp_path, classes(6, 6))
    os.mkfifo(tmp_path / "a/pipe.png")
    os.mkfifo(tmp_path / "labels.csv")
    images = dict(zip(data.load(root).names, read_all(data.load(root)), strict=True))
    with pytest.raises(DamagedImage, match="cannot be read: not a regular file"):
        decode(images[f"{root}/a/pipe.png"])
    assert refusal(tmp_path / "labels.csv") == f"{root}/labels.csv is not a regular file"


TRAIN = classes(6, 6, prefix="train/")


@pytest.mark.parametrize("files, link", [(classes(6, 6), "c"), (TRAIN, "val"), (TRAIN, "v.2")])
def test_a_link_to_a_folder_that_does_not_exist_is_refused(tmp_path, files, link):
    root = write(tmp_path, files)
    (tmp_path / link).symlink_to("/mnt/not-mounted/c")
    reason = "is a link to /mnt/not-mounted/c, which does not exist; mount it or remove the link"
    assert refusal(root) == f"{root}: {root}/{link} {reason}"


PARTED = "cafe\u0301"  # as a Mac writes it


def test_names_of_classes_are_compared_in_one_form(tmp_path):
    train = classes(6, 6, prefix="train/", names=["caf\xe9", "dog"])
    files = train | classes(5, 5, prefix="val/", names=[PARTED, "dog"])
    dataset = data.load(write(tmp_path / "in", files))
    assert dataset.counts() == {"caf\xe9": (6, 5), "dog": (6, 5)}
    # The drawn sides are the same wherever an archive was packed.
    plain, parted = (
        data.load(write(tmp_path / name, classes(60, 60, names=[name, "dog"])))
        for name in ("caf\xe9", PARTED)
    )
    assert plain.fingerprint == parted.fingerprint


@pytest.mark.parametrize("first, second", [("caf\xe9", PARTED), ("a\nb", "a\\nb")])
def test_folders_that_would_become_one_class_are_refused_by_name(tmp_path, first, second):
    root = write(tmp_path, classes(5, 5, 5, names=[first, second, "dog"]))
    said = refusal(root)
    assert all(ascii(one_line(f"{root}/{name}")) in said for name in (first, second))
    assert said.endswith("; rename or merge them")
    # Also if one is for training and one for validation, which NFC alone would make one.
    sides = classes(5, 5, prefix="train/", names=[first, "dog"])
    sides |= classes(5, 5, prefix="val/", names=[second, "dog"])
    if first == "a\nb":
        assert "would be one class" in refusal(write(tmp_path / "sides", sides))
