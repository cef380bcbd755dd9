"""Sources of images: what all share, the embedded digits, and folders of images.

A source is listed once, here or in records.py: the `Listing` names every image.
The images stay where they are; the listing's `Source` reads them again.
"""

import hashlib
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from cli import Refusal

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


class DataError(Refusal):
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


def problem_list(name: str, problems: Sequence[str], kind="problems", advice="") -> str:
    """Return one line for one problem; for more, their number and then one line each."""
    if len(problems) == 1:
        return f"{name}: {problems[0]}{advice}"
    return "\n  ".join([f"{name}: {len(problems)} {kind}{advice}", *problems])


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


@dataclass(frozen=True)
class Folder:
    """A folder with what is visible in it, sorted by name."""

    path: str
    parts: tuple[str, ...]  # names of the folders from the source's down to this one
    images: list[str]  # paths
    others: Counter  # {extension of files that are not read: number}
    error: str | None = None  # why it cannot be read


def list_folder(folder: str, left_out: Sequence[str] = ()) -> Listing:
    """Return the images of CLASS/*, or of train/CLASS/* and validation/CLASS/*; raises DataError.

    There may be folders around these. All else is noted; folders in `left_out` count as absent.
    """
    root = one_line(folder)
    if not os.path.isdir(folder):
        takes = "--data takes digits, tfds:NAME or a folder"
        raise DataError(f"{root or 'no name'}: no such folder; {takes}")
    folders = list(scan(folder, (), frozenset(map(os.path.realpath, left_out))))
    if broken := [each for each in folders if each.error]:
        problems = [f"{one_line(each.path)} cannot be read: {each.error}" for each in broken]
        raise DataError(problem_list(root, problems))
    counts = {each.parts: len(each.images) for each in folders if each.images}
    sides = _find_sides(counts)
    inside = [each for side in sides for each in folders if each.parts and each.parts[:-1] == side]
    classes = [each for each in inside if each.images]
    rest = [each for each in folders if each.images and each not in classes]
    places = join_some(f"{len(each.images)} in {one_line(each.path)}" for each in rest)
    others = sum((each.others for each in inside or folders), Counter())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
    notes = [f"{kinds} files are not read"] if kinds else []
    if not sides:
        found = f"images are not in class folders: {places}" if places else "no images"
        needed = f"needed are CLASS/* or train/CLASS/* with {' '.join(EXTENSIONS)}"
        raise DataError(f"{root}: {'; '.join([found, *notes, needed])}")
    if places or any(len(side) > 1 for side in sides):
        used = " and ".join(one_line(os.path.join(folder, *side)) for side in sides)
        unused = f"; not in them, so not used: {places}" if places else ""
        notes.append(f"images are taken from the class folders in {used}{unused}")
    filled = {path[:depth] for path in counts for depth in range(len(path) + 1)}
    if empty := [one_line(each.path) for each in inside if each.parts not in filled]:
        notes.append(f"folders without images are not classes: {join_some(empty)}")
    source = FileParts([(path, 0, -1) for each in classes for path in each.images])
    encoded, entries = source.read(range(len(source.places))), []
    for each in classes:
        name, side = one_line(each.parts[-1]), sides[each.parts[:-1]]
        for path in each.images:
            key = f"{name}/".encode() + os.fsencode(os.path.basename(path))
            entries.append(Entry(one_line(path), name, digest(next(encoded)), side, key))
    names = {name: name for name in sorted({entry.label for entry in entries})}
    title = one_line(os.path.basename(os.path.abspath(folder)))
    return Listing(title, source, entries, names, notes)


def scan(
    path: str, parts: tuple[str, ...] = (), skip: frozenset[str] = frozenset()
) -> Iterator[Folder]:
    """Yield a folder and all below it, without those whose real paths are in `skip`."""
    # A link to a folder around it would never end.
    skip |= {os.path.realpath(path)}
    try:
        with os.scandir(path) as listed:
            entries = sorted(listed, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        yield Folder(path, parts, [], Counter(), error.strerror)
        return
    images, others, folders = [], Counter(), []
    for entry in entries:
        extension = os.path.splitext(entry.name)[1].lower()
        if entry.name.startswith((".", "__MACOSX")):
            continue
        if entry.is_dir():
            folders.append(entry)
        # A link that leads nowhere is a damaged image; a named pipe would block.
        elif extension in EXTENSIONS and (entry.is_file() or entry.is_symlink()):
            images.append(entry.path)
        elif extension not in NOT_IMAGES:
            others[one_line(extension) or "no-extension"] += 1
    yield Folder(path, parts, images, others)
    for entry in folders:
        if os.path.realpath(entry.path) not in skip:
            yield from scan(entry.path, (*parts, entry.name), skip)


def _split(name: str) -> str | None:
    """Return the split whose name a folder has."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    pattern = r"(?<![a-z])({})(set|data|images)?(?![a-z])"
    return next((key for key in SPLITS if re.search(pattern.format(SPLITS[key]), words)), None)


def _find_sides(images: dict[tuple[str, ...], int]) -> dict[tuple[str, ...], bool | None]:
    """Return {folder of class folders: its side, or None without a split}; {} if there is none.

    `images` is {folder: number of images directly in it}; of several folders the fullest counts.
    """
    parents = defaultdict(dict)
    for parts in filter(None, images):
        parents[parts[:-1]][parts[-1]] = images[parts]
    fullest = sorted(parents, key=lambda parent: (-sum(parents[parent].values()), len(parent)))
    # What is around the folders of a split, and which split each folder belongs to.
    around, splits = {}, {}
    for parent in fullest:
        named = [depth for depth, name in enumerate(parent) if _split(name)]
        around[parent] = parent[: named[0]] if named else parent
        splits[parent] = _split(parent[named[-1]]) if named else None
    train = next((parent for parent in fullest if splits[parent] == "train"), None)
    if train is not None:
        inside, siblings = sum(parents[train].values()), parents.get(around[train], {})
        plain = [count for name, count in siblings.items() if not _split(name)]
        loose = siblings.get(train[len(around[train])], 0)
        # A class named train is among other classes, or has its images directly in it.
        if inside > loose and (len(plain) < 2 or inside > sum(plain)):
            for wanted in ("validation", "test"):
                for other in fullest:
                    beside = splits[other] == wanted and around[other] == around[train]
                    if beside and parents[train].keys() & parents[other].keys():
                        return {train: False, other: True}
            return {train: None}
    names = parents[fullest[0]] if fullest else {}
    words = {re.sub(r"[\W\d_]", "", name.lower()) for name in names}
    kinds = {_split(name) for name in names}
    # train and test1, or train_1 and train_2: splits of loose images, not classes.
    is_split = None not in kinds and (len(kinds) > 1 or len(words) == 1)
    # Of two folders with classes of their own, neither is chosen for the user.
    is_chosen = 2 * sum(names.values()) > sum(images.values()) and not is_split
    return {fullest[0]: None} if is_chosen else {}
