"""The images of a source as one `Dataset`: labels, training and validation side, notes, checks."""

import functools
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from runtime.messages import Refusal, join_some, problem_list
from sources.digits import list_digits
from sources.folders import list_folder
from sources.source import Entry, Listing, Source, digest
from sources.table import is_table, list_table

IMBALANCE = 10  # a class with so many times the images of another is worth a note
MOST = 0.6  # part of the images in one class that is worth a note
FEW = 5  # validation images of a class; intervals are wide where there are fewer
DUPLICATES = "duplicates.txt"  # where an experiment lists equal images


@dataclass(frozen=True)
class Dataset:
    """N images of a listing, with labels and sides, in the source's order."""

    listing: Listing  # of all images of the source
    rows: np.ndarray  # (N,) int64, each image's row in the source: 0..N-1 unless some are left out
    labels: np.ndarray  # (N,) int32
    validation: np.ndarray  # (N,) bool
    fraction: float  # of the images for validation, where the source has no split
    notes: list[str]  # what the user should know

    @property
    def name(self) -> str:
        """The name of the source."""
        return self.listing.name

    @property
    def source(self) -> Source:
        """Where the encoded images of all rows of the source are read."""
        return self.listing.source

    @property
    def class_names(self) -> list[str]:
        """The name of each label."""
        return list(self.listing.classes.values())

    @functools.cached_property
    def names(self) -> list[str]:
        """The names of the N images, each printable on one line."""
        return [self.listing.entries[row].name for row in self.rows]

    @functools.cached_property
    def digests(self) -> list[bytes]:
        """The sha256 of each of the N encoded images."""
        return [self.listing.entries[row].digest for row in self.rows]

    @property
    def images_fingerprint(self) -> str:
        """sha256 of the images in their order: what features depend on."""
        return hashlib.sha256(b"".join(self.digests)).hexdigest()

    @property
    def fingerprint(self) -> str:
        """sha256 of images, class names, labels and split: what a run's numbers depend on."""
        texts = [text.encode() for text in (self.images_fingerprint, *self.class_names)]
        arrays = [self.labels.tobytes(), self.validation.tobytes()]
        return hashlib.sha256(b"\0".join(texts + arrays)).hexdigest()

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return {class name: (training images, validation images)}."""
        labels = (self.labels[~self.validation], self.labels[self.validation])
        sides = [np.bincount(side, minlength=len(self.class_names)).tolist() for side in labels]
        return dict(zip(self.class_names, zip(*sides, strict=True), strict=True))

    def duplicates(self) -> list[list[int]]:
        """Return groups of equal images, of those that are in two classes or on both sides."""
        groups = defaultdict(list)
        for image, known in enumerate(self.digests):
            groups[known].append(image)
        # Files that are empty or unreadable are damaged, not alike.
        groups.pop(digest(b""), None)
        places = list(zip(self.labels, self.validation, strict=True))
        return [group for group in groups.values() if len({places[i] for i in group}) > 1]

    def describe(self, image: int) -> str:
        """Return the name of an image with its class and side."""
        side = "validation" if self.validation[image] else "training"
        return f"{self.names[image]} ({self.class_names[self.labels[image]]}, {side})"

    def without(self, rows: Iterable[int]) -> "Dataset":
        """Return the data set without these rows; raises Refusal if a class does not survive.

        Where the source has no split, an image changes its side if its class would otherwise have
        none on the other side.
        """
        return _select(self.listing, np.setdiff1d(self.rows, list(rows)), self.fraction)


def load(
    source: str | None = "digits",
    train: str | None = None,
    test: str | None = None,
    validation_fraction: float = 0.2,
    left_out: Sequence[str] = (),
    columns: str | None = None,
    keys: str | None = None,
) -> Dataset:
    """Return the Dataset of `digits`, `tfds:NAME`, a folder, a table or TFRecords of two globs.

    `columns` are those of a table, `keys` those of TFRecords. One pass reads every image and
    decodes none. Folders in `left_out` are not looked into. Without a validation split, a hash of
    an image's name (in TFDS of its content) decides its side, which it keeps when others come or
    go, except in classes of fewer than about 20. Raises Refusal.
    """
    if columns is not None and not (source and is_table(source)):
        raise Refusal("--columns goes with --data FILE.csv only; leave it out")
    if keys is not None and train is None:
        raise Refusal("--keys goes with --train and --test only; leave it out")
    if train is None and source == "digits":
        listing = list_digits()
    elif train is None and is_table(source):
        listing = list_table(source, columns, left_out)
    elif train is None and not source.startswith("tfds:"):
        listing = list_folder(source, left_out)
    # These import TensorFlow, which nothing else here needs.
    elif train is None:
        from sources.tfds import list_tfds

        listing = list_tfds(source)
    else:
        from sources.records import list_files

        listing = list_files(train, test, keys)
    dataset = _select(listing, np.arange(len(listing.entries)), validation_fraction)
    notes = [*listing.notes, *_class_notes(dataset), *_duplicate_notes(dataset)]
    return replace(dataset, notes=notes)


def list_duplicates(dataset: Dataset) -> str:
    """Return the content of DUPLICATES: a line for each group of equal images."""
    groups = ["\t".join(map(dataset.describe, group)) for group in dataset.duplicates()]
    return "".join(f"{line}\n" for line in groups)


def check_flags(dataset: Dataset, is_fraction_given: bool, is_tuned: bool) -> None:
    """Raise Refusal where the data leave flags without effect, or without what they need."""
    if is_fraction_given and dataset.listing.has_split:
        reason = "the data have a validation split, so it changes nothing; leave it out"
        raise Refusal(f"--validation-fraction: {reason}")
    enough = [name for name, (train, _) in dataset.counts().items() if train > 1]
    if is_tuned and len(enough) < 2:
        reason = "holds out training images of each class, and fewer than two classes have two"
        raise Refusal(f"{dataset.name}: --tune {reason}; add images, or leave out --tune")


def remark_notes(names: Sequence[str], remarks: dict[int, str]) -> list[str]:
    """Return a note for each kind of remark, {number of an image: remarks joined by "; "}."""
    kinds = defaultdict(list)
    for image, text in sorted(remarks.items()):
        for remark in text.split("; "):
            kinds[remark].append(names[image])
    return [f"images that {kind}: {len(some)} ({join_some(some)})" for kind, some in kinds.items()]


def _select(listing: Listing, rows: np.ndarray, fraction: float) -> Dataset:
    """Return some rows of a source as a data set, split if the source is not; raises Refusal."""
    entries = [listing.entries[row] for row in rows]
    numbers = {label: number for number, label in enumerate(listing.classes)}
    labels = np.array([numbers[entry.label] for entry in entries], np.int32)
    if listing.has_split:
        validation = np.array([entry.validation for entry in entries], bool)
    else:
        validation = _draw_validation(entries, labels, fraction)
    dataset = Dataset(listing, rows, labels, validation, fraction, listing.notes)
    if problems := _problems(dataset):
        # A note may tell why.
        raise Refusal(problem_list(listing.name, [*problems, *listing.notes]))
    return dataset


def _problems(dataset: Dataset) -> list[str]:
    """Return what makes training senseless."""
    # In TFDS a class may have no image at all.
    filled = {dataset.listing.classes[entry.label] for entry in dataset.listing.entries}
    problems = [] if len(filled) > 1 else ["at least two classes with images are needed"]
    for name, (train, held_out) in dataset.counts().items():
        if name in filled and not (train and held_out):
            has = f"has {train} and {held_out}; add some or remove the class"
            problems.append(f"class {name} needs training and validation images and {has}")
    digests = {dataset.digests[image] for image in np.flatnonzero(~dataset.validation)}
    if not problems and len(digests) == 1 and digests != {digest(b"")}:
        problems.append("all training images are equal; give others")
    return problems


def _draw_validation(entries: list[Entry], labels: np.ndarray, fraction: float) -> np.ndarray:
    """Return which images are for validation, by a hash of each; both sides get every class."""
    hashes = (hashlib.sha256(entry.key or entry.digest).digest() for entry in entries)
    # Spread evenly over [0, 1).
    positions = np.array([int.from_bytes(value[:8], "big") / 2**64 for value in hashes])
    validation = positions < fraction
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) > 1:
            members = members[np.argsort(positions[members], kind="stable")]
            validation[members[0]], validation[members[-1]] = True, False
    return validation


def _class_notes(dataset: Dataset) -> list[str]:
    """Return notes on the sizes of classes."""
    notes, counts = [], dataset.counts()
    if empty := [name for name, sides in counts.items() if not any(sides)]:
        notes.append(f"classes without images: {', '.join(empty)}")
    sizes = sorted((train, name) for name, (train, _) in counts.items() if train)
    (least, small), (most, large) = sizes[0], sizes[-1]
    if most > IMBALANCE * least:
        notes.append(f"unbalanced: {most} training images of {large}, {least} of {small}")
    if most > MOST * (~dataset.validation).sum():
        share = counts[large][1] / dataset.validation.sum()
        score = f"the accuracy of always answering it is {share:.4f}"
        notes.append(f"most training images are of one class, {large}; {score}")
    few = [f"{name} {held_out}" for name, (_, held_out) in counts.items() if 0 < held_out < FEW]
    if few:
        notes.append(f"classes with few validation images, so wide intervals: {join_some(few)}")
    return notes


def _duplicate_notes(dataset: Dataset) -> list[str]:
    """Return notes on images that are in several classes, and on both sides."""
    labels, validation, groups, notes = dataset.labels, dataset.validation, dataset.duplicates(), []
    if several := [group for group in groups if len({*labels[group]}) > 1]:
        first = " is ".join(map(dataset.describe, _first_two(several[0], labels)))
        notes.append(f"{len(several)} images are in two classes, e.g. {first}")
    if both := [group for group in groups if len({*validation[group]}) > 1]:
        first = " is ".join(map(dataset.describe, _first_two(both[0], validation)))
        count = sum(int(validation[group].sum()) for group in both)
        notes.append(f"{count} validation images are training images too, e.g. {first}")
    return [f"{note}; {DUPLICATES} lists all" for note in notes]


def _first_two(group: list[int], values: np.ndarray) -> tuple[int, int]:
    """Return the first image of a group, and the first that has another value."""
    return group[0], next(image for image in group if values[image] != values[group[0]])
