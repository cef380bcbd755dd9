"""Folders of images as a source: `_find_sides` finds out how a folder is laid out.

Usable are class folders, CLASS/*, and splits of class folders, such as train/CLASS/* and
validation/CLASS/*, also with folders around them. All else is left out with a note, or refused.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sources import DataError, Entry, Listing, Source, digest, join_some, one_line

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
        return one_line(os.path.basename(os.path.abspath(self.path)))

    @property
    def split(self) -> str | None:
        """The split whose name the folder has."""
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.name).lower()
        for split, names in SPLITS.items():
            if re.search(rf"(?<![a-z])({names})(set|data|images)?(?![a-z])", words):
                return split
        return None

    @property
    def classes(self) -> set[str]:
        """Names of the folders that have images directly in them."""
        return {folder.name for folder in self.folders if folder.images}

    def below(self) -> Iterator["Node"]:
        """Yield this folder and all below it."""
        yield self
        for folder in self.folders:
            yield from folder.below()

    def has_images(self) -> bool:
        """Tell whether there is an image in the folder or below it."""
        return any(node.images for node in self.below())

    def innermost(self) -> "Node":
        """Return this folder, or the one in it around which there is nothing but folders."""
        filled = [folder for folder in self.folders if folder.has_images()]
        alone = len(filled) == 1 and not self.images and not self.classes
        return filled[0].innermost() if alone else self


def list_folder(folder: str, left_out: Sequence[str] = ()) -> Listing:
    """Return what is in a folder; raises DataError. Folders in `left_out` count as absent."""
    if not os.path.isdir(folder):
        takes = "--data takes digits, tfds:NAME or a folder"
        raise DataError(f"{one_line(folder) or 'no name'}: no such folder; {takes}")
    root = _scan(folder, frozenset(map(os.path.realpath, left_out)))
    sides = _find_sides(root.innermost())
    if not sides:
        places = _count_images(root.below())
        found = f"images are not in class folders: {places}" if places else "no images"
        problem = "; ".join([found, *_count_others(root.below()), WAY_ON])
        raise DataError(f"{one_line(folder)}: {problem}")
    nodes = [node for parent, _ in sides for node in parent.folders]
    notes = _count_others(nodes)
    unused = _count_images(node for node in root.below() if node not in nodes)
    if unused or any(parent is not root and parent not in root.folders for parent, _ in sides):
        used = " and ".join(one_line(parent.path) for parent, _ in sides)
        rest = f"; not used: {unused}" if unused else ""
        notes.append(f"images are taken from the class folders in {used}{rest}")
    source = Source([(path, 0, -1) for node in nodes for path in node.images])
    encoded = source.read(range(len(source.places)))
    entries = []
    for parent, side in sides:
        for node in parent.folders:
            for path in node.images:
                key = f"{node.name}/".encode() + os.fsencode(os.path.basename(path))
                entries.append(Entry(one_line(path), node.name, digest(next(encoded)), side, key))
    classes = {name: name for name in sorted({node.name for node in nodes})}
    return Listing(root.name, source, entries, classes, notes)


def _scan(folder: str, skip: frozenset[str]) -> Node:
    """Return what is in a folder, without the folders whose real paths are in `skip`."""
    node = Node(folder, [], Counter(), [])
    # A link to a folder around it would never end.
    skip |= {os.path.realpath(folder)}
    try:
        names = sorted(os.listdir(folder), key=os.fsencode)
    except OSError as error:
        raise DataError(f"{one_line(folder)} cannot be read: {error.strerror}") from None
    for name in names:
        path, extension = os.path.join(folder, name), os.path.splitext(name)[1].lower()
        if name.startswith((".", "__MACOSX")) or extension in NOT_IMAGES:
            continue
        if os.path.isdir(path):
            if os.path.realpath(path) not in skip:
                node.folders.append(_scan(path, skip))
        elif extension in EXTENSIONS:
            node.images.append(path)
        else:
            node.others[one_line(extension) or "no-extension"] += 1
    return node


def _find_sides(parent: Node) -> list[tuple[Node, bool | None]]:
    """Return the folders of class folders, each with its side (None: no split); [] if none."""
    found = [(folder.split, folder.innermost()) for folder in parent.folders]
    for split, train in found:
        # A class named train has its images directly in it.
        in_classes = sum(len(folder.images) for folder in train.folders)
        if split == "train" and in_classes > len(train.images):
            for wanted in ("validation", "test"):
                for other, node in found:
                    if other == wanted and train.classes & node.classes:
                        return [(train, False), (node, True)]
            # Beside other classes, a folder named train is one of them.
            if sum(other is None and node.has_images() for other, node in found) < 2:
                return [(train, None)]
    splits = [folder.split for folder in parent.folders if folder.images]
    words = {re.sub(r"[\W\d_]", "", name.lower()) for name in parent.classes}
    # train and test1, or train_1 and train_2: splits of loose images, not classes.
    loose = all(splits) and (len(set(splits)) != 1 or len(words) == 1)
    return [] if loose else [(parent, None)]


def _count_images(nodes: Iterable[Node]) -> str:
    places = [f"{len(node.images)} in {one_line(node.path)}" for node in nodes if node.images]
    return join_some(places)


def _count_others(nodes: Iterable[Node]) -> list[str]:
    others = sum((node.others for node in nodes), Counter())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
    return [f"{kinds} files are not read"] if others else []
