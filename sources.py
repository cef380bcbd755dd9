"""Sources of images: what all share, the embedded digits, and folders of images.

A source is listed once; its images stay where they are, and its `Source` reads them again.
"""

import hashlib
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from cli import Refusal

NAMED = 10  # a note names so many things and counts the others
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
# These lie beside images and are not worth a note.
NOT_IMAGES = (".txt", ".md", ".csv", ".json", ".xml", ".html", ".db", ".ini", ".log")
# What archives and labelling tools call a split, with a prefix, number or ending or without:
# seg_train, train2017, TestImages.
SPLITS = {
    "train": "train|training",
    "validation": "validation|validate|valid|val|dev|eval|evaluation|holdout",
    "test": "test|testing|pred|prediction",
}


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


def join_some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
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
        entries.append(Entry(f"digit {row}", int(label), digest(encoded[row]), key=b"%d" % row))
    note = "the embedded digits are used; for the folder digits give ./digits"
    notes = [note] if os.path.isdir("digits") else []
    return Listing("digits", Source(encoded), entries, {i: str(i) for i in range(10)}, notes)


Parts = tuple[str, ...]  # the names of folders on the way from a root to one below it


def scan(root: str, left_out: Sequence[str] = ()) -> dict[Parts, tuple[list[str], list[str]]]:
    """Return of a folder and all below it the paths of images, and the extensions of other files.

    Hidden folders and those in `left_out` are passed over; the order is that of names. Raises
    Refusal that names all folders that cannot be read.
    """
    folders, errors = {}, []
    absent = set(map(os.path.realpath, left_out))
    for path, names, files in os.walk(root, onerror=errors.append, followlinks=True):
        # A link to a folder around it would never end.
        skipped = absent.union(map(os.path.realpath, [path, *Path(path).parents]))
        for found in (names, files):
            visible = (name for name in found if not name.startswith((".", "__MACOSX")))
            found[:] = sorted(visible, key=os.fsencode)
        names[:] = [n for n in names if os.path.realpath(os.path.join(path, n)) not in skipped]
        kinds = [os.path.splitext(name)[1].lower() for name in files]
        images = [
            os.path.join(path, n) for n, k in zip(files, kinds, strict=True) if k in EXTENSIONS
        ]
        others = [one_line(k) or "no-extension" for k in kinds if k not in EXTENSIONS + NOT_IMAGES]
        folders[Path(path).relative_to(root).parts] = images, others
    if errors:
        problems = [f"{one_line(e.filename)} cannot be read: {e.strerror}" for e in errors]
        raise Refusal(problem_list(one_line(root), problems))
    return folders


def list_folder(root: str, left_out: Sequence[str] = ()) -> Listing:
    """Return the images of CLASS/*, or of train/CLASS/* and validation/CLASS/*; raises Refusal.

    There may be folders around these. All else is noted; folders in `left_out` count as absent.
    """
    if not os.path.isdir(root):
        advice = "no such folder; --data takes digits, tfds:NAME or a folder"
        raise Refusal(f"{one_line(root)}: {advice}")
    folders = scan(root, left_out)
    sides = _find_sides({parts: len(images) for parts, (images, _) in folders.items() if images})
    inside = [parts for side in sides for parts in folders if parts and parts[:-1] == side]
    others = Counter(kind for parts in inside or folders for kind in folders[parts][1])
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
    notes = [f"{kinds} files are not read"] if kinds else []
    title = {parts: one_line(os.path.join(root, *parts)) for parts in {*folders, *sides}}
    rest = [parts for parts, (images, _) in folders.items() if images and parts not in inside]
    unused = join_some([f"{len(folders[parts][0])} in {title[parts]}" for parts in rest])
    if not sides:
        found = f"images are not in class folders: {unused}" if unused else "no images"
        needed = f"needed are CLASS/* or train/CLASS/* with {' '.join(EXTENSIONS)}"
        raise Refusal(f"{one_line(root)}: {'; '.join([found, *notes, needed])}")
    if unused or any(len(side) > 1 for side in sides):
        beside = f"; not in them, so not used: {unused}" if unused else ""
        used = " and ".join(title[side] for side in sides)
        notes.append(f"images are taken from the class folders in {used}{beside}")
    if empty := [title[parts] for parts in inside if not folders[parts][0]]:
        notes.append(f"folders without images of their own are not classes: {join_some(empty)}")
    images = [(parts, path) for parts in inside for path in folders[parts][0]]
    source, entries = FileParts([(path, 0, -1) for _, path in images]), []
    for ((*side, label), path), encoded in zip(
        images, source.read(range(len(images))), strict=True
    ):
        label, validation = one_line(label), sides[tuple(side)]
        key = f"{label}/".encode() + os.fsencode(os.path.basename(path))
        entries.append(Entry(one_line(path), label, digest(encoded), validation, key))
    classes = {name: name for name in sorted({entry.label for entry in entries})}
    name = one_line(os.path.basename(os.path.abspath(root)))
    return Listing(name, source, entries, classes, notes)


def _find_sides(images: dict[Parts, int]) -> dict[Parts, bool | None]:
    """Return {folder of class folders: its side, or None without a split}; {} if there is none.

    `images` is {folder: number of images directly in it}; of several folders the fullest counts.
    """
    classes = defaultdict(Counter)  # {folder of class folders: {class: images}}
    for parts in filter(None, images):
        classes[parts[:-1]][parts[-1]] = images[parts]
    splits, around = {}, {}  # the split that a folder belongs to, and where the splits are
    for group in sorted(classes, key=lambda group: (-classes[group].total(), len(group))):
        named = [depth for depth, name in enumerate(group) if _split(name)]
        splits[group] = _split(group[named[-1]]) if named else None
        around[group] = group[: named[0]] if named else group
    train = next((group for group in splits if splits[group] == "train"), None)
    if train is not None:
        inside, beside = classes[train].total(), classes[around[train]]
        loose = beside[train[len(around[train])]]
        plain = [count for name, count in beside.items() if not _split(name)]
        # A class named train is among other classes, or has its images directly in it.
        if inside > loose and (len(plain) < 2 or inside > sum(plain)):
            for wanted in ("validation", "test"):
                for group in splits:
                    is_beside = (splits[group], around[group]) == (wanted, around[train])
                    if is_beside and classes[group].keys() & classes[train].keys():
                        return {train: False, group: True}
            return {train: None}
    # Of two folders with classes of their own, neither is chosen for the user. Images that lie in
    # folders named as splits have no classes.
    whole = next(iter(splits), ())  # the fullest
    is_chosen = 2 * classes[whole].total() > sum(images.values())
    return {whole: None} if is_chosen and not all(map(_split, classes[whole])) else {}


def _split(name: str) -> str | None:
    """Return the split whose name a folder has."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    pattern = r"(?<![a-z])({})(set|data|images)?(?![a-z])"
    return next((key for key in SPLITS if re.search(pattern.format(SPLITS[key]), words)), None)
