"""Folders of images as a source: what a folder holds is found out by `_find_sides`.

Usable are class folders, CLASS/*, and splits of class folders, such as train/CLASS/* and
validation/CLASS/*, also with folders around them. All else is left out with a note, or refused.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from data import (
    DataError,
    Dataset,
    Entry,
    Source,
    digest,
    join_some,
    make_dataset,
    path_text,
    problem_list,
)

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
# These lie beside images and are not worth a note.
NOT_IMAGES = (".txt", ".md", ".csv", ".json", ".xml", ".html", ".db", ".ini", ".log")
# What archives and labelling tools call a split, with a prefix, number or ending or without:
# seg_train, train2017, TestImages. Validation is preferred to test.
SPLITS = {
    "train": r"train|training",
    "validation": r"validation|validate|valid|val|dev|eval|evaluation|holdout",
    "test": r"test|testing|pred|prediction",
}
WAY_ON = f"needed are CLASS/* or train/CLASS/* with {' '.join(EXTENSIONS)}"


@dataclass(frozen=True)
class Folder(Source):
    """Image files."""

    paths: tuple[str, ...]

    def read(self, rows: Iterable[int]) -> Iterator[bytes | OSError]:
        """Yield the content of each file, or the OSError that reading it gave."""
        for row in rows:
            try:
                with open(self.paths[row], "rb") as file:
                    encoded = file.read()
            except OSError as error:
                encoded = error
            yield encoded


@dataclass(frozen=True, eq=False)
class Node:
    """A folder with what is visible in it, sorted by name."""

    path: str
    images: list[str]  # paths
    others: Counter  # {extension of files that are not read: number}
    folders: list["Node"]

    @property
    def name(self) -> str:
        """The folder's name for messages."""
        return path_text(os.path.basename(os.path.abspath(self.path)))

    @property
    def split(self) -> str | None:
        """The split whose name the folder has."""
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.name).lower()
        for split, names in SPLITS.items():
            if re.search(rf"(?<![a-z])({names})(set|data|images)?(?![a-z])", words):
                return split
        return None

    @property
    def classes(self) -> dict[str, int]:
        """{name of a folder that has images directly in it: their number}."""
        return {folder.name: len(folder.images) for folder in self.folders if folder.images}

    def shares_classes(self, other: "Node") -> bool:
        """Tell whether both have a class of one name."""
        return not self.classes.keys().isdisjoint(other.classes)

    def below(self) -> Iterator["Node"]:
        """Yield this folder and all below it."""
        yield self
        for folder in self.folders:
            yield from folder.below()

    def size(self) -> int:
        """Return the number of images in the folder and all below it."""
        return sum(len(folder.images) for folder in self.below())

    def innermost(self) -> "Node":
        """Return this folder, or the one in it around which there is nothing but folders."""
        filled = [folder for folder in self.folders if folder.size()]
        if len(filled) == 1 and not self.images and not self.classes:
            return filled[0].innermost()
        return self


def list_folder(folder: str, fraction: float, left_out: Sequence[str] = ()) -> Dataset:
    """Return the data set in a folder; raises DataError. Folders in `left_out` count as absent."""
    if not os.path.isdir(folder):
        reason = "not a folder" if os.path.exists(folder) else "no such folder"
        takes = "--data takes digits, tfds:NAME or a folder"
        raise DataError(f"{path_text(folder) or 'no name'}: {reason}; {takes}")
    problems = []
    root = _scan(folder, frozenset(map(os.path.realpath, left_out)), problems)
    if problems:
        raise DataError(problem_list(path_text(folder), problems))
    sides, notes = _find_sides(root)
    classes = [(node, side) for parent, side in sides for node in parent.folders]
    others = sum((node.others for node, _ in classes), Counter())
    if others:
        notes.append(f"{_kinds(others)} files are not read")
    if deeper := sum(node.size() - len(node.images) for node, _ in classes):
        notes.append(f"images in folders inside class folders, which are not read: {deeper}")
    if strays := sum(len(parent.images) for parent, _ in sides):
        notes.append(f"images outside class folders, which are not read: {strays}")
    files = [(path, node.name, side) for node, side in classes for path in node.images]
    source = Folder(tuple(path for path, _, _ in files))
    entries = []
    for (path, name, side), encoded in zip(files, source.read(range(len(files))), strict=True):
        key = f"{name}/".encode() + os.fsencode(os.path.basename(path))
        entries.append(Entry(path_text(path), name, digest(encoded), side, key))
    names = {name: name for name in sorted({node.name for node, _ in classes})}
    return make_dataset(root.name, source, entries, names, fraction, notes)


def _scan(folder: str, skip: frozenset[str], problems: list[str]) -> Node:
    """Return what is in a folder, without the real paths in `skip`; adds to `problems`."""
    node = Node(folder, [], Counter(), [])
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        problems.append(f"{path_text(folder)} cannot be read: {error.strerror}")
        return node
    # A link to a folder around it would never end.
    skip |= {os.path.realpath(folder)}
    for entry in sorted(visible, key=lambda entry: os.fsencode(entry.name)):
        extension = os.path.splitext(entry.name)[1].lower()
        if os.path.isdir(entry):
            if os.path.realpath(entry) not in skip:
                node.folders.append(_scan(entry.path, skip, problems))
        # A link that leads nowhere is a damaged image.
        elif extension in EXTENSIONS and (os.path.isfile(entry) or not os.path.exists(entry)):
            node.images.append(entry.path)
        elif extension not in NOT_IMAGES:
            node.others[path_text(extension) or "no-extension"] += 1
    return node


def _find_sides(root: Node) -> tuple[list[tuple[Node, bool | None]], list[str]]:
    """Return the folders of class folders, each with its side (None: no split), and notes."""
    parent, notes = root.innermost(), []
    sides = _find_splits(parent)
    if sides:
        train, validation = sides[0][0], sides[-1][0]
        for folder in parent.folders:
            node = folder.innermost()
            if node in (train, validation) or not (folder.size() or folder.split):
                continue
            why = "" if train.shares_classes(node) else " (no class folders as in the training one)"
            text = f"{path_text(folder.path)} is not used{why}"
            origin = path_text(os.path.relpath(validation.path, parent.path))
            notes.append(f"{text}: validation images come from {origin}")
    else:
        splits = {folder.split for folder in parent.folders if folder.images}
        words = {re.sub(r"[\W\d_]", "", name.lower()) for name in parent.classes}
        # train and test1, or train_1 and train_2: splits of loose images, not classes.
        if not splits or (None not in splits and (len(splits) > 1 or len(words) == 1)):
            raise DataError(f"{path_text(root.path)}: {_describe(root)}; {WAY_ON}")
        sides = [(parent, None)]
    for node, _ in sides:
        if node is not root and node not in root.folders:
            notes.append(f"class folders are taken from {path_text(node.path)}")
    return sides, notes


def _find_splits(parent: Node) -> list[tuple[Node, bool | None]]:
    """Return the training and the validation folder among a folder's own, [] if there are none."""
    found = [(folder.split, folder.innermost()) for folder in parent.folders]
    for split, train in found:
        # A class named train has its images directly in it.
        if split == "train" and sum(train.classes.values()) > len(train.images):
            for wanted in ("validation", "test"):
                for other, node in found:
                    if other == wanted and train.shares_classes(node):
                        return [(train, False), (node, True)]
            # Beside other classes, a folder named train is one of them.
            if sum(other is None and node.size() > 0 for other, node in found) < 2:
                return [(train, None)]
    return []


def _describe(root: Node) -> str:
    """Say where the images are, and what else there is."""
    filled = [node for node in root.below() if node.images]
    places = [f"{len(node.images)} in {path_text(node.path)}" for node in filled]
    others = sum((node.others for node in root.below()), Counter())
    found = f"images are not in class folders: {join_some(places)}" if places else "no images"
    return f"{found}; {_kinds(others)} files are not read" if others else found


def _kinds(others: Counter) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
