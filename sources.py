"""Sources of images: what all share, the embedded digits, and folders of images.

A source is listed once, here or in records.py: the `Listing` names every image.
The images stay where they are; the listing's `Source` reads them again.
"""

import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

NAMED = 10  # a note names so many things and counts the others
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
# These lie beside images and are not worth a note.
NOT_IMAGES = (".txt", ".md", ".csv", ".json", ".xml", ".html", ".db", ".ini", ".log")
# What archives and labelling tools call a split, with a prefix, number or ending or without:
# seg_train, train2017, TestImages. Validation is preferred to test.
SPLITS = {
    "train": "train|training",
    "validation": "validation|validate|valid|val|dev|eval|evaluation|holdout",
    "test": "test|testing|pred|prediction",
}


class DataError(Exception):
    """The data cannot be used as they are; the message says what, where, and what to do."""


@dataclass(frozen=True)
class Source:
    """Where encoded images can be read again; picklable. Here the places are the images."""

    places: Sequence  # one for each row

    def read(self, rows: Iterable[int]) -> Iterator[bytes | OSError]:
        """Yield the encoded image of each row; an OSError if it cannot be read."""
        return (self.places[row] for row in rows)

    def subset(self, rows: Iterable[int]) -> "Source":
        """Return a source of these rows only, which are then counted from 0."""
        return replace(self, places=[self.places[row] for row in rows])


class FileParts(Source):
    """Images in files; a place is the file's path, an offset and a size (-1: to the end)."""

    def read(self, rows: Iterable[int]) -> Iterator[bytes | OSError]:
        """Yield the encoded image of each row; an OSError if it cannot be read."""
        for path, offset, size in super().read(rows):
            try:
                with open(path, "rb") as file:
                    file.seek(offset)
                    encoded = file.read(size)
            except OSError as error:
                encoded = error
            yield encoded


@dataclass(frozen=True)
class Entry:
    """One image as its source lists it."""

    name: str  # for messages, on one line
    label: int | str  # one of the source's classes
    digest: bytes  # sha256 of the encoded image
    validation: bool | None = None  # None: the source has no split, for none of its images
    key: bytes | None = None  # decides the side where there is no split; None: the digest does


@dataclass(frozen=True)
class Listing:
    """All images of a source; entry i is row i."""

    name: str
    source: Source
    entries: list[Entry]
    classes: dict[int | str, str]  # {label: name}
    notes: list[str]  # what the user should know


def digest(encoded: bytes | OSError) -> bytes:
    """Return the sha256 of an encoded image; one that cannot be read counts as empty."""
    return hashlib.sha256(b"" if isinstance(encoded, OSError) else encoded).digest()


def one_line(text: str | os.PathLike) -> str:
    """Return a text or path for messages: on one line, and the same under every locale."""
    text = os.fsencode(text).decode(errors="surrogateescape")
    return text if text.isprintable() else repr(text)[1:-1]


def join_some(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def problem_list(name: str, problems: Sequence[str], kind="problems", way_on="") -> str:
    """Return one line for one problem; for more, their number and then one line each."""
    if len(problems) == 1:
        return f"{name}: {problems[0]}{way_on}"
    return "\n  ".join([f"{name}: {len(problems)} {kind}{way_on}", *problems])


def list_digits() -> Listing:
    """Return scikit-learn's 1,797 handwritten digits, 8 x 8 grey, as BMP files in memory."""
    # Only this source needs scikit-learn, whose import takes a second.
    from sklearn.datasets import load_digits

    encoded, entries = [], []
    for row, (pixels, label) in enumerate(zip(*load_digits(return_X_y=True), strict=True)):
        file = io.BytesIO()
        # The pixels are 0 to 16.
        grey = (pixels.reshape(8, 8) * (255 / 16)).round().astype(np.uint8)
        Image.fromarray(grey).save(file, "BMP")
        encoded.append(file.getvalue())
        entries.append(Entry(f"digit {row}", int(label), digest(encoded[-1]), key=b"%d" % row))
    note = "the embedded digits are used; for the folder digits give ./digits"
    notes = [note] if os.path.isdir("digits") else []
    return Listing("digits", Source(encoded), entries, {i: str(i) for i in range(10)}, notes)


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
        pattern = r"(?<![a-z])({})(set|data|images)?(?![a-z])"
        return next((key for key in SPLITS if re.search(pattern.format(SPLITS[key]), words)), None)

    @property
    def classes(self) -> set[str]:
        """Names of the folders that have images directly in them."""
        return {folder.name for folder in self.folders if folder.images}

    def below(self) -> Iterator["Node"]:
        """Yield this folder and all below it."""
        yield self
        for folder in self.folders:
            yield from folder.below()

    def filled(self) -> list["Node"]:
        """Return the folders in this one that have images in them or below them."""
        return [folder for folder in self.folders if any(node.images for node in folder.below())]

    def innermost(self) -> "Node":
        """Return this folder, or the one in it around which there is nothing but folders."""
        alone = len(self.filled()) == 1 and not self.images and not self.classes
        return self.filled()[0].innermost() if alone else self


def list_folder(folder: str, left_out: Sequence[str] = ()) -> Listing:
    """Return the images of CLASS/*, or of train/CLASS/* and validation/CLASS/*; raises DataError.

    There may be folders around these. All else is noted; folders in `left_out` count as absent.
    """
    if not os.path.isdir(folder):
        takes = "--data takes digits, tfds:NAME or a folder"
        raise DataError(f"{one_line(folder) or 'no name'}: no such folder; {takes}")
    root = _scan(folder, frozenset(map(os.path.realpath, left_out)))
    sides = _find_sides(root.innermost())
    nodes = [node for parent, _ in sides for node in parent.folders]
    unused = [node for node in root.below() if node.images and node not in nodes]
    places = join_some(f"{len(node.images)} in {one_line(node.path)}" for node in unused)
    others = sum((node.others for node in (nodes or root.below())), Counter())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
    notes = [f"{kinds} files are not read"] if kinds else []
    if not sides:
        found = f"images are not in class folders: {places}" if places else "no images"
        needed = f"needed are CLASS/* or train/CLASS/* with {' '.join(EXTENSIONS)}"
        raise DataError(f"{one_line(folder)}: {'; '.join([found, *notes, needed])}")
    if places or any(parent is not root and parent not in root.folders for parent, _ in sides):
        used = " and ".join(one_line(parent.path) for parent, _ in sides)
        rest = f"; not in them, so not used: {places}" if places else ""
        notes.append(f"images are taken from the class folders in {used}{rest}")
    source = FileParts([(path, 0, -1) for node in nodes for path in node.images])
    encoded, entries = source.read(range(len(source.places))), []
    for node, side in ((node, side) for parent, side in sides for node in parent.folders):
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
        if name.startswith((".", "__MACOSX")):
            continue
        if os.path.isdir(path):
            if os.path.realpath(path) not in skip:
                node.folders.append(_scan(path, skip))
        elif extension in EXTENSIONS:
            node.images.append(path)
        elif extension not in NOT_IMAGES:
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
            if sum(folder.split is None for folder in parent.filled()) < 2:
                return [(train, None)]
    splits = [folder.split for folder in parent.folders if folder.images]
    words = {re.sub(r"[\W\d_]", "", name.lower()) for name in parent.classes}
    # train and test1, or train_1 and train_2: splits of loose images, not classes.
    loose = all(splits) and (len(set(splits)) != 1 or len(words) == 1)
    return [] if loose else [(parent, None)]
