"""Where images come from: the embedded digits, an image folder, TFRecords or a TFDS data set.

`load` reads a source once and returns one `Dataset`: every image has a row, a label, a side
(training or validation) and a name for messages. The images stay where they are; the data set's
source reads them again. The other sources are in folders.py, records.py and tfds_source.py.
"""

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
from PIL import Image

from decoding import DamagedImage, decode, decode_with_remarks

__all__ = ["DamagedImage", "decode", "decode_with_remarks"]

# A class with this many times the images of another is worth a note.
IMBALANCE = 10
# A note names so many images and counts the others.
NAMED = 10


class DataError(Exception):
    """The data cannot be used as they are; the message says what, where, and what to do."""


@dataclass(frozen=True)
class Source:
    """Where encoded images can be read again; picklable: never open files."""

    places: Sequence  # of each row: a path, an offset, or the encoded image itself
    # True where reading a row means reading all rows before it: ask for all in one call.
    sequential = False

    def read(self, rows: Iterable[int]) -> Iterator[bytes | OSError]:
        """Yield the encoded image of each row, in ascending order; an OSError if unreadable."""
        raise NotImplementedError

    def subset(self, rows: Iterable[int]) -> "Source":
        """Return a source of these rows only, whose rows count from 0; as small as they are."""
        return replace(self, places=[self.places[row] for row in rows])


@dataclass(frozen=True)
class Entry:
    """One image as its source lists it."""

    name: str  # for messages, on one line
    label: int | str  # one of the source's classes
    digest: bytes
    validation: bool | None  # None: the source has no split, for none of its images
    key: bytes | None = None  # decides the side where there is no split; None: the digest does


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
    positions: np.ndarray  # (N,) in [0, 1), a hash of each image: below `fraction` for validation
    fraction: float | None  # None: the source has a split of its own

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
        labels = (self.labels[~self.validation], self.labels[self.validation])
        sides = [np.bincount(side, minlength=len(self.class_names)).tolist() for side in labels]
        return dict(zip(self.class_names, zip(*sides, strict=True), strict=True))

    def without(self, rows: Iterable[int]) -> "Dataset":
        """Return the data set without these rows; raises DataError if a class does not survive.

        Where the source has no split, an image changes its side if its class would otherwise have
        none on the other side.
        """
        keep = np.isin(self.rows, list(rows), invert=True)
        arrays = "rows", "labels", "validation", "positions"
        kept = {name: getattr(self, name)[keep] for name in arrays}
        kept |= {name: list(compress(getattr(self, name), keep)) for name in ("names", "digests")}
        smaller = _split(replace(self, **kept))
        _require_both_sides(smaller, empty=_empty_classes(self))
        return smaller


def load(
    source: str = "digits",
    train: str | None = None,
    test: str | None = None,
    validation_fraction: float = 0.2,
    left_out: Sequence[str] = (),
) -> Dataset:
    """Return the Dataset of `digits`, `tfds:NAME`, a folder, or the TFRecords of two globs.

    One pass reads every image and decodes none. Folders in `left_out` are not looked into. Where
    the source has no validation split, a hash of its name (in TFDS of its content) decides an
    image's side. In classes of about 20 images or more it keeps it when others come or go; in
    smaller ones it may change it, since each class needs both sides. Raises DataError.
    """
    # They import this module, and two of them TensorFlow, which nothing else here needs.
    if train is not None or test is not None:
        from records import list_tfrecords

        dataset = list_tfrecords(train, test)
    elif source.startswith("tfds:"):
        from tfds_source import list_tfds

        dataset = list_tfds(source.removeprefix("tfds:"), validation_fraction)
    elif source == "digits":
        dataset = _list_digits(validation_fraction)
    else:
        from folders import list_folder

        dataset = list_folder(source, validation_fraction, left_out)
    empty = _empty_classes(dataset) if source.startswith("tfds:") else []
    _require_both_sides(dataset, empty)
    notes = [f"classes without images: {', '.join(empty)}"] if empty else []
    notes += _imbalance(dataset) + _duplicates(dataset)
    return replace(dataset, notes=dataset.notes + notes)


def make_dataset(
    name: str,
    source: Source,
    entries: Sequence[Entry],
    classes: dict[int | str, str],
    fraction: float,
    notes: Sequence[str] = (),
) -> Dataset:
    """Return the Dataset of a source, whose row i is entry i; `classes` is {label: name}."""
    if not entries:
        raise DataError(problem_list(name, ["no images", *notes]))
    numbers = {label: number for number, label in enumerate(classes)}
    hashes = (hashlib.sha256(entry.key or entry.digest).digest() for entry in entries)
    dataset = Dataset(
        name=name,
        class_names=[one_line(name) for name in classes.values()],
        source=source,
        rows=np.arange(len(entries)),
        labels=np.array([numbers[entry.label] for entry in entries], np.int32),
        validation=np.array([bool(entry.validation) for entry in entries]),
        names=[entry.name for entry in entries],
        digests=[entry.digest for entry in entries],
        notes=list(notes),
        positions=np.array([int.from_bytes(first[:8], "big") / 2**64 for first in hashes]),
        fraction=fraction if entries[0].validation is None else None,
    )
    return _split(dataset)


def digest(encoded: bytes | OSError) -> bytes:
    """Return the sha256 of an encoded image; one that cannot be read counts as empty."""
    return hashlib.sha256(b"" if isinstance(encoded, OSError) else encoded).digest()


def one_line(text: str) -> str:
    """Return the text as it is if it prints on one line, else with escapes."""
    return text if text.isprintable() else repr(text)[1:-1]


def path_text(path: str | os.PathLike) -> str:
    """Return a path for messages, on one line, and the same under every locale."""
    return one_line(os.fsencode(path).decode(errors="surrogateescape"))


def problem_list(name: str, problems: Sequence[str]) -> str:
    """Return one line for one problem; for more, their number and then one line each."""
    if len(problems) == 1:
        return f"{name}: {problems[0]}"
    return "\n  ".join([f"{name}: {len(problems)} problems", *problems])


def damaged_images(dataset: Dataset, damaged: dict[int, str]) -> DataError:
    """Return the error that names all damaged images, {row: reason}, of a full data set."""
    problems = [f"{dataset.names[row]}: {reason}" for row, reason in sorted(damaged.items())]
    way_on = "mend or remove them, or leave them out with --skip-damaged"
    if len(problems) == 1:
        return DataError(f"{problems[0]}; {way_on}")
    heading = f"{dataset.name}: {len(problems)} damaged images; {way_on}"
    return DataError("\n  ".join([heading, *problems]))


def remark_notes(dataset: Dataset, remarks: dict[int, str]) -> list[str]:
    """Return a note for each kind of remark, with the number of images and their names.

    `remarks` is {row: remarks joined by "; "}; rows that were left out of the data set are skipped.
    """
    found = {}
    for row, name in zip(dataset.rows.tolist(), dataset.names, strict=True):
        for remark in remarks[row].split("; ") if row in remarks else ():
            found.setdefault(remark, []).append(name)
    return [f"images that {kind}: {len(have)} ({join_some(have)})" for kind, have in found.items()]


def join_some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _split(dataset: Dataset) -> Dataset:
    """Return the data set split by its hashes, with both sides in a class of two or more images."""
    if dataset.fraction is None:
        return dataset
    validation = dataset.positions < dataset.fraction
    for label in np.unique(dataset.labels):
        members = np.flatnonzero(dataset.labels == label)
        if len(members) > 1:
            members = members[np.argsort(dataset.positions[members], kind="stable")]
            validation[members[0]], validation[members[-1]] = True, False
    return replace(dataset, validation=validation)


def _empty_classes(dataset: Dataset) -> list[str]:
    return [name for name, sizes in dataset.counts().items() if not sum(sizes)]


def _require_both_sides(dataset: Dataset, empty: Sequence[str]) -> None:
    """Raise DataError with all classes that cannot be trained and validated, except `empty`."""
    counts = dataset.counts()
    problems = [
        f"class {name} needs training and validation images and has {train} and {validation}; "
        "add some or remove the class"
        for name, (train, validation) in counts.items()
        if name not in empty and not (train and validation)
    ]
    if len(counts) - len(empty) < 2:
        problems.append("only one class has images; at least two are needed")
    if problems:
        # A note may tell why.
        raise DataError(problem_list(dataset.name, [*problems, *dataset.notes]))


def _imbalance(dataset: Dataset) -> list[str]:
    counts = [(train, name) for name, (train, _) in dataset.counts().items() if train]
    (least, small), (most, large) = min(counts), max(counts)
    if IMBALANCE * least >= most:
        return []
    return [f"unbalanced: {most} training images of {large}, {least} of {small}"]


def _duplicates(dataset: Dataset) -> list[str]:
    """Return a note on validation images whose bytes are a training image's, too."""
    train = {dataset.digests[i]: i for i in np.flatnonzero(~dataset.validation)}
    # Files that are empty or unreadable are damaged, not alike.
    train.pop(digest(b""), None)
    twins = [(i, train.get(dataset.digests[i])) for i in np.flatnonzero(dataset.validation)]
    pairs = [[i, twin] for i, twin in twins if twin is not None]
    if not pairs:
        return []
    other = [pair for pair in pairs if len(set(dataset.labels[pair])) > 1]
    contradiction = f", {len(other)} of them with contradictory labels" if other else ""
    first = [
        f"{dataset.names[i]} ({dataset.class_names[dataset.labels[i]]})"
        for i in [*other, *pairs][0]
    ]
    note = f"{len(pairs)} validation images are training images too{contradiction}"
    return [f"{note}, e.g. {' is '.join(first)}"]


def _list_digits(fraction: float) -> Dataset:
    # Only this source needs scikit-learn, whose import takes a second.
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    # (1797, 64), 0 to 16
    encoded = []
    for pixels in (images.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "BMP")
        encoded.append(file.getvalue())
    entries = [
        Entry(f"digit {row}", label, digest(image), None, b"%d" % row)
        for row, (label, image) in enumerate(zip(labels.tolist(), encoded, strict=True))
    ]
    classes = {digit: str(digit) for digit in range(10)}
    note = "the embedded digits are used; for the folder digits give ./digits"
    notes = [note] if os.path.isdir("digits") else []
    return make_dataset("digits", Source(encoded), entries, classes, fraction, notes)
