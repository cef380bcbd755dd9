"""TFRecord files as a source.

The first pass over a TFRecord file verifies its checksums and notes where in the file each encoded
image lies, so that reading an image later touches none of the others.
"""

import glob
import gzip
import itertools
import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

from google.protobuf.message import DecodeError

import data
from data import DataError, path_text
from tensorflow_setup import tf

# The keys that TensorFlow's own image data sets use.
KEYS, TEXT_KEY = ("image/encoded", "image/class/label"), "image/class/text"
# A plain file begins so only if its first record has 559,903 bytes, or 2**24 times n more.
GZIP_MAGIC = b"\x1f\x8b\x08"
# A record's data have a length and its checksum before them, and their own checksum behind.
BEFORE_DATA, AROUND_DATA = 12, 16


@dataclass(frozen=True)
class Records(data.Source):
    """Images in TFRecord files; a place is (index into files, offset once unpacked, bytes)."""

    files: tuple[str, ...]
    sequential: bool  # True if a file is gzip

    def read(self, rows: Iterable[int]) -> Iterator[bytes | OSError]:
        """Yield the encoded image of each row; each file is opened once."""
        places = (self.places[row] for row in rows)
        for file, group in itertools.groupby(places, lambda place: place[0]):
            remaining = list(group)
            try:
                with _open(self.files[file]) as opened:
                    while remaining:
                        _, offset, size = remaining[0]
                        opened.seek(offset)
                        encoded = opened.read(size)
                        del remaining[0]
                        yield encoded
            except (OSError, EOFError, zlib.error) as error:
                yield from [OSError(str(error))] * len(remaining)


def list_tfrecords(train: str | None, test: str | None) -> data.Dataset:
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
    return list_files(name, files, KEYS, None, fraction=None)


def list_files(
    name: str,
    files: list[tuple[str, bool | None]],
    keys: tuple[str, str],
    classes: dict[int, str] | None,
    fraction: float | None,
) -> data.Dataset:
    """Return the data set in TFRecord files, each with its side; raises DataError.

    `keys` are those of image and label. `classes` is {label: name}; None: all integers that occur,
    named by TEXT_KEY if it tells names.
    """
    places, entries, problems, texts = [], [], [], defaultdict(set)
    for index, (path, side) in enumerate(files):
        number, faulty, keys_found, example = -1, [], set(), tf.train.Example()
        try:
            for number, (begin, record) in enumerate(_verified_records(path)):
                try:
                    example.ParseFromString(record)
                except DecodeError:
                    example.Clear()
                features = example.features.feature
                keys_found.update(features)
                images = features[keys[0]].bytes_list.value
                labels = features[keys[1]].int64_list.value
                known = labels and (labels[0] in classes if classes else labels[0] >= 0)
                if not (known and len(images) == len(labels) == 1):
                    faulty.append(number)
                    continue
                image, label = images[0], labels[0]
                texts[label].add(b"".join(features[TEXT_KEY].bytes_list.value))
                places.append((index, begin + record.find(image), len(image)))
                title = f"{path_text(path)} record {number}"
                entries.append(data.Entry(title, label, data.digest(image), side))
        except (OSError, EOFError, zlib.error, tf.errors.OpError) as error:
            where, reason = f"record {number + 1}", getattr(error, "strerror", None) or error
            problems.append(f"{path_text(path)} cannot be read at {where}: {reason}; restore it")
        if faulty:
            count = f"{len(faulty)} of {number + 1} records cannot be used (first: {faulty[0]})"
            have = data.one_line(", ".join(sorted(keys_found))) or "no keys"
            needed = f"needed are one encoded image in {keys[0]} and one class from 0 in {keys[1]}"
            problems.append(f"{path_text(path)}: {count}; they have {have}; {needed}")
    if problems:
        raise DataError(data.problem_list(name, problems))
    paths = tuple(os.path.abspath(path) for path, _ in files)
    source = Records(places, paths, any(map(_is_gzip, paths)))
    notes = [f"{path_text(path)} is empty" for path, _ in files if not os.path.getsize(path)]
    return data.make_dataset(name, source, entries, classes or _class_names(texts), fraction, notes)


def _class_names(texts: dict[int, set[bytes]]) -> dict[int, str]:
    """Return {label: its text}, or its digits unless each label has one text of its own."""
    labels = sorted(texts)
    names = [text.decode(errors="replace") for label in labels for text in texts[label]]
    if "" in names or not len(labels) == len(names) == len(set(names)):
        names = map(str, labels)
    return dict(zip(labels, names, strict=True))


def _verified_records(path: str) -> Iterator[tuple[int, bytes]]:
    """Yield where the data of each record begin, and the data, with both checksums verified."""
    options = tf.io.TFRecordOptions("GZIP" if _is_gzip(path) else "")
    begin = 0
    for record in tf.compat.v1.io.tf_record_iterator(path, options):
        yield begin + BEFORE_DATA, record
        begin += len(record) + AROUND_DATA
    # TensorFlow takes a rest shorter than a length and its checksum for the end of the file.
    with _open(path) as file:
        if file.seek(0, os.SEEK_END) != begin:
            raise EOFError("truncated")


def _is_gzip(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(3) == GZIP_MAGIC


def _open(path: str) -> IO[bytes]:
    """Open a file for reading what is in it once unpacked."""
    return gzip.open(path) if _is_gzip(path) else open(path, "rb")
