"""TFRecords and TFDS data sets as sources: `list_tfrecords` and `list_tfds`.

The first pass over a TFRecord file verifies its checksums and notes where in the file each encoded
image lies, so that reading an image later needs neither TensorFlow nor the records before it.
"""

import difflib
import glob
import gzip
import itertools
import logging
import os
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError

from data import (
    VALIDATION_NAMES,
    DataError,
    Dataset,
    digest,
    list_problems,
    make_dataset,
    one_line,
    path_text,
)
from tensorflow_setup import tf

# The keys that TensorFlow's own image data sets use.
IMAGE_KEY, LABEL_KEY = "image/encoded", "image/class/label"
# How a gzip file begins. A TFRecord file could only if its first record were 559,903 bytes long,
# or longer by a multiple of 16,777,216.
GZIP_MAGIC = b"\x1f\x8b\x08"
# A record's data have a length and its checksum before them, and their own checksum behind.
BEFORE_DATA, AROUND_DATA = 12, 16


@dataclass(frozen=True, eq=False)
class Records:
    """Images inside TFRecord files, plain or gzip."""

    files: tuple[str, ...]
    file: np.ndarray  # (N,) int32, an index into files
    offset: np.ndarray  # (N,) int64, where the image begins in the unpacked file
    size: np.ndarray  # (N,) int64, bytes
    sequential: bool  # True if a file is gzip

    def read(self, rows: Iterable[int]) -> Iterator[bytes | OSError]:
        """Yield the encoded image of each row; each file is opened once."""
        for number, group in itertools.groupby(rows, key=lambda row: self.file[row]):
            remaining = list(group)
            try:
                with _open(self.files[number]) as file:
                    while remaining:
                        file.seek(self.offset[remaining[0]])
                        encoded = file.read(self.size[remaining[0]])
                        del remaining[0]
                        yield encoded
            except (OSError, EOFError, zlib.error) as error:
                yield from [OSError(str(error))] * len(remaining)


def list_tfrecords(train: str | None, test: str | None, fraction: float) -> Dataset:
    """Return the data set in the TFRecord files that two globs match; raises DataError.

    Its classes are the integers that occur as labels, in ascending order.
    """
    files = []
    for flag, pattern, validation in (("--train", train, False), ("--test", test, True)):
        if pattern is None:
            raise DataError(f"{flag} GLOB is missing; TFRecords need --train and --test")
        # A file may have glob characters in its name.
        found = [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern, recursive=True))
        paths = [path for path in found if os.path.isfile(path)]
        if not paths:
            raise DataError(f"{flag} {pattern!r} matches no file")
        files += [(path, validation) for path in paths]
    name = path_text(os.path.basename(os.path.dirname(os.path.abspath(train)))) or "TFRecords"
    return _list_files(name, files, IMAGE_KEY, LABEL_KEY, None, fraction)


def _list_files(
    name: str,
    files: list[tuple[str, bool | None]],
    image_key: str,
    label_key: str,
    class_names: list[str] | None,
    fraction: float,
) -> Dataset:
    """Return the data set in TFRecord files, each with its side; None: there is no split.

    Without class names, the integers that occur as labels are the classes, in ascending order.
    """
    places, labels, sides, names, digests, problems = [], [], [], [], [], []
    for index, (path, side) in enumerate(files):
        images = _images(path, image_key, label_key, class_names, problems)
        for number, begin, encoded, label in images:
            places.append((index, begin, len(encoded)))
            labels.append(label)
            sides.append(side)
            names.append(f"{path_text(path)} record {number}")
            digests.append(digest(encoded))
    if problems:
        raise DataError(list_problems(name, problems))
    if class_names is None:
        integers = sorted(set(labels))
        labels = np.searchsorted(integers, labels)
        class_names = [str(integer) for integer in integers]
    file, offset, size = np.array(places, np.int64).reshape(-1, 3).T
    paths = tuple(os.path.abspath(path) for path, _ in files)
    return make_dataset(
        name=name,
        source=Records(paths, file, offset, size, any(map(_is_gzip, paths))),
        class_names=class_names,
        labels=labels,
        names=names,
        digests=digests,
        fraction=fraction,
        notes=[f"{path_text(path)} is empty" for path, _ in files if not os.path.getsize(path)],
        validation=None if None in sides else sides,
    )


def _images(
    path: str, image_key: str, label_key: str, class_names: list[str] | None, problems: list[str]
) -> Iterator[tuple[int, int, bytes, int]]:
    """Yield number, offset, encoded image and label of each record of a file.

    What is wrong with the file is added to `problems`: one line for each kind of fault.
    """
    faults, keys, number = defaultdict(list), set(), -1
    try:
        for number, (begin, record) in enumerate(_verified_records(path)):
            features = {}
            try:
                features = tf.train.Example.FromString(record).features.feature
                encoded = _value(features, image_key, "bytes_list", "one encoded image")
                label = _value(features, label_key, "int64_list", "one integer")
                if label < 0:
                    raise DataError(f"{label_key} is negative")
                if class_names and label >= len(class_names):
                    raise DataError(f"{label_key} is {len(class_names)} or more")
            except DecodeError:
                faults["the data are not a tf.train.Example"].append(number)
            except DataError as fault:
                faults[str(fault)].append(number)
                keys.update(features)
            else:
                yield number, begin + record.find(encoded), encoded, label
    except OSError as error:
        problems.append(f"{path_text(path)} cannot be read: {error.strerror or error}")
    except tf.errors.OpError:
        damaged = f"damaged at record {number + 1}, or not a TFRecord file; restore it"
        problems.append(f"{path_text(path)} is {damaged}")
    for fault, numbers in faults.items():
        where = f"{len(numbers)} of {number + 1} records (first: record {numbers[0]})"
        if len(numbers) == number + 1:
            where = f"all {number + 1} records"
        have = f"they have {one_line(', '.join(sorted(keys))) or 'no keys'}"
        needed = f"needed are one encoded image in {image_key} and one integer in {label_key}"
        problems.append(f"{path_text(path)}: {fault} in {where}; {have}; {needed}")


def _value(features, key: str, kind: str, wanted: str) -> bytes | int:
    """Return the value of a feature that must be one value of a kind; raises DataError."""
    if key not in features:
        raise DataError(f"{key} is missing")
    values = getattr(features[key], kind).value
    if len(values) != 1:
        raise DataError(f"{key} is not {wanted}")
    return values[0]


def _verified_records(path: str) -> Iterator[tuple[int, bytes]]:
    """Yield where the data of each record begin, and the data, with both checksums verified.

    Raises TensorFlow's OpError at the first damaged record.
    """
    options = tf.io.TFRecordOptions("GZIP" if _is_gzip(path) else "")
    begin = 0
    for record in tf.compat.v1.io.tf_record_iterator(path, options):
        yield begin + BEFORE_DATA, record
        begin += len(record) + AROUND_DATA
    # TensorFlow takes a rest shorter than a length and its checksum for the end of the file.
    if begin != _unpacked_size(path):
        raise tf.errors.DataLossError(None, None, "truncated")


def _is_gzip(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(3) == GZIP_MAGIC


def _open(path: str):
    """Open a file for reading what is in it once unpacked."""
    return gzip.open(path) if _is_gzip(path) else open(path, "rb")


def _unpacked_size(path: str) -> int:
    """Return the bytes in a file once unpacked; -1 if it cannot be unpacked to its end."""
    try:
        with _open(path) as file:
            return file.seek(0, os.SEEK_END)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return -1


# --- TFDS -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tfds:
    """Images of a TFDS data set that is stored in another format than TFRecord."""

    data_dir: str  # of the prepared version
    image_key: str
    splits: tuple[str, ...]
    sequential: ClassVar[bool] = False

    def read(self, rows: Iterable[int]) -> Iterator[bytes | OSError]:
        """Yield the encoded image of each row; rows are numbered through all splits."""
        remaining = list(rows)
        try:
            for example in self.examples(tuple(remaining)):
                del remaining[0]
                yield example[self.image_key]
        # The readers' own error for a file that is damaged or gone.
        except RuntimeError as error:
            yield from [OSError(str(error))] * len(remaining)

    def examples(self, rows: Iterable[int] | None = None) -> Iterator[dict]:
        """Yield the examples of some rows, or of all, with encoded images."""
        builder = tfds.builder_from_directory(self.data_dir)
        features = builder.info.features.items()
        images = [key for key, feature in features if isinstance(feature, tfds.features.Image)]
        decoders = dict.fromkeys(images, tfds.decode.SkipDecoding())
        sources = [builder.as_data_source(split, decoders=decoders) for split in self.splits]
        starts = np.cumsum([0, *map(len, sources)])
        for row in range(starts[-1]) if rows is None else rows:
            split = np.searchsorted(starts, row, side="right") - 1
            yield sources[split][row - starts[split]]


def list_tfds(name: str, fraction: float) -> Dataset:
    """Return a TFDS data set, downloaded and prepared if it is not on disk; raises DataError.

    Label i is the data set's own label i, with its own name, whether it has images or not.
    """
    # TFDS warns of folders that it does not find, and goes on.
    logging.getLogger("absl").setLevel(logging.ERROR)
    title = f"tfds:{one_line(name)}"
    builder = _prepared_builder(name, title)
    features, splits = builder.info.features, builder.info.splits
    image_key = _only_key(builder, tfds.features.Image, title)
    label_key = _only_key(builder, tfds.features.ClassLabel, title)
    if "train" not in splits:
        have = ", ".join(splits) or "empty ones"
        raise DataError(f"{title} has no train split, only {have}")
    validation = next((split for split in VALIDATION_NAMES if split in splits), None)
    sides = {"train": False, validation: True} if validation else {"train": None}
    class_names = [one_line(class_name) for class_name in features[label_key].names]
    if builder.info.file_format == tfds.core.FileFormat.TFRECORD:
        files = [(str(path), sides[split]) for split in sides for path in splits[split].filepaths]
        return _list_files(one_line(name), files, image_key, label_key, class_names, fraction)
    source = Tfds(str(builder.data_dir), image_key, tuple(sides))
    labels, digests = [], []
    try:
        for example in source.examples():
            labels.append(int(example[label_key]))
            digests.append(digest(example[image_key]))
    except (ImportError, RuntimeError) as error:
        way_on = "remove that folder to prepare it anew"
        if isinstance(error, ImportError):
            way_on = "install that package"
        reason = " ".join(str(error).split())[:300]
        where = f"{title} in {builder.data_dir}"
        raise DataError(f"{where} cannot be read: {reason}; {way_on}") from error
    if min(labels, default=0) < 0:
        raise DataError(f"{title} has images without labels; use other data")
    names, validation = [], []
    for split, side in sides.items():
        names += [f"{title} {split} example {i}" for i in range(splits[split].num_examples)]
        validation += [side] * splits[split].num_examples
    return make_dataset(
        name=one_line(name),
        source=source,
        class_names=class_names,
        labels=labels,
        names=names,
        digests=digests,
        fraction=fraction,
        notes=[],
        validation=None if None in validation else validation,
    )


def _only_key(builder: tfds.core.DatasetBuilder, kind: type, title: str) -> str:
    """Return the key of a kind of feature: one of the supervised keys, else the only one."""
    features = builder.info.features
    keys = [key for key, feature in features.items() if isinstance(feature, kind)]
    keys = [key for key in keys if key in (builder.info.supervised_keys or ())] or keys
    if len(keys) != 1:
        have = f"its features are {', '.join(features)}"
        raise DataError(f"{title} is not an image classification data set: {have}")
    return keys[0]


def _prepared_builder(name: str, title: str) -> tfds.core.DatasetBuilder:
    # TFDS itself looks only when it is imported.
    folder = os.environ.get("TFDS_DATA_DIR")
    try:
        builder = tfds.builder(name, data_dir=folder)
    except tfds.core.DatasetNotFoundError as error:
        known = set(tfds.list_builders(with_community_datasets=False))
        close = " or ".join(difflib.get_close_matches(name, known))
        way_on = f"did you mean {close}?" if close else "tfds.list_builders() lists what there is"
        where = f"neither TFDS nor {folder or 'its data folder'} has it"
        raise DataError(f"{title}: {where}; {way_on}") from error
    # An AssertionError tells of an unknown version.
    except (ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{title} is not a data set that TFDS can give: {reason}") from error
    if builder.is_prepared():
        return builder
    absent = f"{title} is not in {builder.data_dir}"
    print(f"{absent}; downloading it (Ctrl-C stops)", file=sys.stderr)
    try:
        builder.download_and_prepare()
    # What a data set's own code raises is not known beforehand.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        way_on = "go online, or set TFDS_DATA_DIR to the folder that holds it"
        raise DataError(f"{absent} and cannot be prepared: {reason}; {way_on}") from error
    return builder
