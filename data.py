"""Where images come from: the embedded digits, an image folder, TFRecords or a TFDS data set.

`load` reads a source once and returns one `Dataset`: every image has a row, a label, a side
(training or validation) and a name for messages. The images stay where they are; the data set's
source reads them again. All checks of user data live here and in records.py.
"""

import functools
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
from PIL import Image

from decoding import DamagedImage, decode, decode_with_remarks

__all__ = ["DamagedImage", "decode", "decode_with_remarks"]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
# These lie beside images and are not worth a note.
NOT_IMAGES = (".txt", ".md", ".csv", ".json", ".xml", ".html", ".db", ".ini", ".log")
VALIDATION_NAMES = ("validation", "val", "test")
# A note names so many images and counts the others.
NAMED = 10
# A class with this many times the images of another is worth a note.
IMBALANCE = 10


class DataError(Exception):
    """The data cannot be used as they are; the message says what, where, and what to do."""


class Source(Protocol):
    """Where encoded images can be read again; picklable: paths and offsets, never open files."""

    # True where reading a row means reading all rows before it: ask for all in one call.
    sequential: bool

    def read(self, rows: Iterable[int]) -> Iterator[bytes | OSError]:
        """Yield the encoded image of each row, in ascending order; an OSError if unreadable."""


@dataclass(frozen=True)
class Dataset:
    """N images with labels and sides, in a fixed order."""

    name: str
    class_names: list[str]  # class_names[label]
    source: Source
    rows: np.ndarray  # (N,) int64, each image's row in the source: 0..N-1 unless some are left out
    labels: np.ndarray  # (N,) int32
    validation: np.ndarray  # (N,) bool
    names: list[str]  # each printable on one line
    digests: list[bytes]  # sha256 of each encoded image
    notes: list[str]  # what the user should know
    places: np.ndarray | None  # (N,) in [0, 1), decides the side; None: the source has a split
    fraction: float  # share of validation images where the source has no split

    @property
    def images_fingerprint(self) -> str:
        """sha256 of the images in their order: what features depend on."""
        return hashlib.sha256(b"".join(self.digests)).hexdigest()

    @property
    def fingerprint(self) -> str:
        """sha256 of images, class names, labels and split: what a run's numbers depend on."""
        names = [name.encode() for name in self.class_names]
        arrays = [self.labels.tobytes(), self.validation.tobytes()]
        parts = [self.images_fingerprint.encode(), *names, *arrays]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return {class name: (training images, validation images)}."""
        classes = len(self.class_names)
        train = np.bincount(self.labels[~self.validation], minlength=classes).tolist()
        validation = np.bincount(self.labels[self.validation], minlength=classes).tolist()
        return dict(zip(self.class_names, zip(train, validation, strict=True), strict=True))

    def empty_classes(self) -> list[str]:
        """Return the names of classes without images."""
        return [name for name, sizes in self.counts().items() if not sum(sizes)]

    def without(self, rows: Iterable[int]) -> "Dataset":
        """Return the data set without these rows; raises DataError if a class does not survive.

        Where the source has no split, an image changes its side if it is the last one of its class
        that the other side can have.
        """
        keep = np.flatnonzero(np.isin(self.rows, list(rows), invert=True))
        places = None if self.places is None else self.places[keep]
        labels, validation = self.labels[keep], self.validation[keep]
        smaller = replace(
            self,
            rows=self.rows[keep],
            labels=labels,
            validation=validation if places is None else _split(labels, places, self.fraction),
            names=[self.names[i] for i in keep],
            digests=[self.digests[i] for i in keep],
            places=places,
        )
        _require_both_sides(smaller, self.empty_classes())
        return smaller


def load(
    source: str = "digits",
    train: str | None = None,
    test: str | None = None,
    validation_fraction: float = 0.2,
) -> Dataset:
    """Return the Dataset of `digits`, `tfds:NAME`, a folder, or the TFRecords of two globs.

    One pass reads every image and decodes none. Where the source has no validation split, an image
    goes to validation by a hash of its own name (in TFDS of its content). In classes of about 20
    images or more it thus stays on its side when others come or go; in smaller ones it may move,
    since each class has an image on both sides. Raises DataError.
    """
    may_be_empty = ()
    if train is not None or test is not None or source.startswith("tfds:"):
        # It imports TensorFlow, which nothing else here needs.
        import records

        if train is not None or test is not None:
            dataset = records.list_tfrecords(train, test, validation_fraction)
        else:
            dataset = records.list_tfds(source.removeprefix("tfds:"), validation_fraction)
            may_be_empty = dataset.empty_classes()
    elif source == "digits":
        dataset = _list_digits(validation_fraction)
    else:
        dataset = _list_folder(source, validation_fraction)
    if not dataset.names:
        raise DataError(f"{dataset.name} holds no images")
    _require_both_sides(dataset, may_be_empty)
    notes = [*dataset.notes, *_imbalance(dataset), *_duplicates(dataset)]
    if may_be_empty:
        notes.append(f"classes without images: {', '.join(may_be_empty)}")
    return replace(dataset, notes=notes)


def make_dataset(
    name: str,
    source: Source,
    class_names: list[str],
    labels: list[int],
    names: list[str],
    digests: list[bytes],
    fraction: float,
    notes: list[str],
    validation: list[bool] | None = None,
    keys: list[bytes] | None = None,
) -> Dataset:
    """Return the Dataset of a source.

    Where `validation` is None, an image's key decides its side; without keys, its digest.
    """
    labels, places = np.array(labels, np.int32), None
    if validation is None:
        places = np.array([_hash_position(key) for key in keys or digests])
        sides = _split(labels, places, fraction)
    else:
        sides = np.array(validation, bool)
    rows = np.arange(len(labels))
    return Dataset(
        name, class_names, source, rows, labels, sides, names, digests, notes, places, fraction
    )


def digest(encoded: bytes | OSError) -> bytes:
    """Return the sha256 of an encoded image; one that cannot be read counts as empty."""
    return hashlib.sha256(b"" if isinstance(encoded, OSError) else encoded).digest()


def one_line(text: str) -> str:
    """Return the text as it is if it prints on one line, else with escapes."""
    return text if text.isprintable() else repr(text)[1:-1]


def path_text(path: str | os.PathLike) -> str:
    """Return a path for messages, on one line, and the same under every locale."""
    return one_line(os.fsencode(path).decode(errors="surrogateescape"))


def list_problems(name: str, problems: Sequence[str]) -> str:
    """Return one line for one problem; for more, their number and then one line each."""
    if len(problems) == 1:
        return f"{name}: {problems[0]}"
    return f"{name}: {len(problems)} problems\n  " + "\n  ".join(problems)


def damaged_images(dataset: Dataset, damaged: dict[int, str]) -> DataError:
    """Return the error that names every damaged image and the way on.

    `damaged` is {row: reason}, of a data set without any image left out.
    """
    problems = [f"{dataset.names[row]}: {reason}" for row, reason in sorted(damaged.items())]
    way_on = "mend or remove them, or leave them out with --skip-damaged"
    if len(problems) == 1:
        return DataError(f"{problems[0]}; {way_on}")
    heading = f"{dataset.name}: {len(problems)} damaged images; {way_on}"
    return DataError("\n  ".join([heading, *problems]))


def remark_notes(dataset: Dataset, remarks: dict[int, str]) -> list[str]:
    """Return a note for each kind of remark, with the number of images and their names.

    `remarks` is {row: remark}, of a data set without any image left out.
    """
    notes = []
    for remark in sorted(set(remarks.values())):
        names = [dataset.names[row] for row in sorted(remarks) if remarks[row] == remark]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        notes.append(f"{len(names)} images {remark}: {', '.join(names[:NAMED])}{more}")
    return notes


def _hash_position(key: bytes) -> float:
    """Return a number in [0, 1) that depends on the key alone; all keys are spread evenly."""
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64


def _split(labels: np.ndarray, places: np.ndarray, fraction: float) -> np.ndarray:
    """Return sides (N,) bool: validation below `fraction`, but both sides in a class of two."""
    validation = places < fraction
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) > 1:
            rows = rows[np.argsort(places[rows], kind="stable")]
            validation[rows[0]], validation[rows[-1]] = True, False
    return validation


def _require_both_sides(dataset: Dataset, may_be_empty: Sequence[str]) -> None:
    """Raise DataError with all classes that cannot be trained or validated."""
    problems = []
    counts = dataset.counts()
    if len(counts) < 2:
        problems.append(f"only one class, {dataset.class_names[0]}; at least two are needed")
    for name, (train, validation) in counts.items():
        if name in may_be_empty:
            continue
        if not train + validation:
            problems.append(f"class {name} has no images; add some or remove the class")
        elif train + validation < 2:
            problems.append(f"class {name} has only one image; add some or remove the class")
        elif not train:
            way_on = "add some or remove its validation images"
            problems.append(f"class {name} has no training image; {way_on}")
        elif not validation:
            problems.append(f"class {name} has no validation image; add some or remove the class")
    if problems:
        # A note may tell why.
        raise DataError(list_problems(dataset.name, [*problems, *dataset.notes]))


def _imbalance(dataset: Dataset) -> list[str]:
    sizes = {name: train for name, (train, _) in dataset.counts().items() if train}
    most, least = max(sizes, key=sizes.get), min(sizes, key=sizes.get)
    if IMBALANCE * sizes[least] >= sizes[most]:
        return []
    return [f"unbalanced: {sizes[most]} training images of {most}, {sizes[least]} of {least}"]


def _duplicates(dataset: Dataset) -> list[str]:
    """Return notes on validation images whose bytes are a training image's, too."""
    # Files that are empty or unreadable are damaged, not alike.
    train = {dataset.digests[i]: i for i in np.flatnonzero(~dataset.validation)}
    train.pop(digest(b""), None)
    validation = np.flatnonzero(dataset.validation)
    pairs = [(i, train[dataset.digests[i]]) for i in validation if dataset.digests[i] in train]
    contradictory = [(i, j) for i, j in pairs if dataset.labels[i] != dataset.labels[j]]
    notes = []
    if pairs:
        example = " is ".join(dataset.names[i] for i in pairs[0])
        notes.append(f"{len(pairs)} validation images are training images too, e.g. {example}")
    if contradictory:
        classes = [dataset.class_names[dataset.labels[i]] for i in contradictory[0]]
        first, second = (
            f"{dataset.names[i]} ({name})"
            for i, name in zip(contradictory[0], classes, strict=True)
        )
        notes.append(
            f"contradictory labels of {len(contradictory)} of them, e.g. {first} is {second}"
        )
    return notes


# --- The digits -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Digits:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 grey, embedded in the library."""

    sequential: ClassVar[bool] = False

    def read(self, rows: Iterable[int]) -> Iterator[bytes | OSError]:
        """Yield each digit as a BMP file."""
        images, _ = _load_digits()
        for row in rows:
            pixels = (images[row].reshape(8, 8) * (255 / 16)).round().astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "BMP")
            yield file.getvalue()


@functools.cache
def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images (1797, 64), 0 to 16, and labels (1797,)."""
    # Only this source needs scikit-learn, whose import takes a second.
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


def _list_digits(fraction: float) -> Dataset:
    _, labels = _load_digits()
    rows = range(len(labels))
    return make_dataset(
        name="digits",
        source=Digits(),
        class_names=[str(digit) for digit in range(10)],
        labels=labels.tolist(),
        fraction=fraction,
        notes=[],
        names=[f"digit {row}" for row in rows],
        digests=[digest(encoded) for encoded in Digits().read(rows)],
        keys=[b"%d" % row for row in rows],
    )


# --- Folders --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Folder:
    """Image files."""

    paths: tuple[str, ...]
    sequential: ClassVar[bool] = False

    def read(self, rows: Iterable[int]) -> Iterator[bytes | OSError]:
        """Yield the content of each file, or the OSError that reading it gave."""
        for row in rows:
            try:
                with open(self.paths[row], "rb") as file:
                    encoded = file.read()
            except OSError as error:
                encoded = error
            yield encoded


def _list_folder(folder: str, fraction: float) -> Dataset:
    """List `train/CLASS/*` with a validation folder beside it, or `CLASS/*`."""
    if not os.path.isdir(folder):
        reason = "not a folder" if os.path.exists(folder) else "no such folder"
        takes = "--data takes digits, tfds:NAME or a folder"
        raise DataError(f"{path_text(folder) or 'no name'}: {reason}; {takes}")
    problems, files, others = [], [], Counter()
    classes, subfolders, strays = set(), 0, 0
    sides, notes = _sides(folder, problems)
    for side, validation in sides:
        for class_folder in _visible(side, problems):
            if not os.path.isdir(class_folder):
                strays += class_folder.name.lower().endswith(EXTENSIONS)
                continue
            classes.add(path_text(class_folder.name))
            for entry in _visible(class_folder.path, problems):
                extension = os.path.splitext(entry.name)[1].lower()
                # A link that leads nowhere is a damaged image.
                is_file = os.path.isfile(entry) or not os.path.exists(entry)
                if os.path.isdir(entry):
                    subfolders += 1
                elif extension in EXTENSIONS and is_file:
                    files.append((entry, path_text(class_folder.name), validation))
                elif extension not in NOT_IMAGES:
                    others[path_text(extension) or "no extension"] += 1
    if problems:
        raise DataError(list_problems(path_text(folder), problems))
    if not files:
        looked_for = f"CLASS/* with {' '.join(EXTENSIONS)} is looked for"
        raise DataError(f"{path_text(folder)} holds no images; {looked_for}")
    if others:
        found = ", ".join(f"{count} {extension}" for extension, count in sorted(others.items()))
        notes.append(f"files that are not read, by their extension: {found}")
    if subfolders:
        notes.append(f"folders inside class folders, which are not read: {subfolders}")
    if strays:
        notes.append(f"images outside class folders, which are not read: {strays}")
    class_names = sorted(classes)
    source = Folder(tuple(entry.path for entry, _, _ in files))
    return make_dataset(
        name=path_text(os.path.basename(os.path.abspath(folder)) or folder),
        source=source,
        class_names=class_names,
        labels=[class_names.index(name) for _, name, _ in files],
        validation=[side for _, _, side in files] if sides[0][1] is not None else None,
        names=[path_text(entry.path) for entry, _, _ in files],
        digests=[digest(encoded) for encoded in source.read(range(len(files)))],
        keys=[f"{name}/".encode() + os.fsencode(entry.name) for entry, name, _ in files],
        fraction=fraction,
        notes=notes,
    )


def _sides(folder: str, problems: list[str]) -> tuple[list[tuple[str, bool | None]], list[str]]:
    """Return the folders of class folders, each with its side, and notes on unused folders."""
    train = os.path.join(folder, "train")
    if not os.path.isdir(train) or not any(map(os.path.isdir, _visible(train, problems))):
        return [(folder, None)], []
    folders = [entry.name for entry in _visible(folder, problems) if os.path.isdir(entry)]
    validation = next((name for name in VALIDATION_NAMES if name in folders), None)
    notes = [
        f"{path_text(os.path.join(folder, name))} is not used: "
        f"validation images come from {validation or 'train'}"
        for name in folders
        if name not in ("train", validation)
    ]
    if validation is None:
        return [(train, None)], notes
    return [(train, False), (os.path.join(folder, validation), True)], notes


def _visible(folder: str, problems: list[str]) -> list[os.DirEntry]:
    """Return the entries of a folder that are not hidden, sorted by name.

    What keeps it from being read is added to `problems`.
    """
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        problem = f"{path_text(folder)} cannot be read: {error.strerror}"
        if problem not in problems:
            problems.append(problem)
        return []
    return sorted(found, key=lambda entry: os.fsencode(entry.name))
