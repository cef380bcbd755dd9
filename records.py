"""TFRecord files as a source.

The first pass over a TFRecord file verifies its checksums and notes where in the file each encoded
image lies, so that reading an image later touches none of the others.
"""

import glob
import os
import zlib
from collections import defaultdict
from collections.abc import Iterator

from google.protobuf.message import DecodeError

import sources
from sources import DataError, Entry, Listing, describe, one_line
from tensorflow_setup import tf

# The keys that TensorFlow's own image data sets use.
KEYS, TEXT_KEY = ("image/encoded", "image/class/label"), "image/class/text"
# A record's data have a length and its checksum before them, and their own checksum behind.
BEFORE_DATA, AROUND_DATA = 12, 16


def list_tfrecords(train: str, test: str) -> Listing:
    """Return what is in the TFRecord files that two globs match; raises DataError.

    The classes are the integers that occur as labels, in ascending order.
    """
    files = []
    for flag, pattern, validation in (("--train", train, False), ("--test", test, True)):
        paths = sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True)))
        if not paths:
            raise DataError(f"{flag} {pattern!r} matches no file")
        files += [(path, validation) for path in paths]
    name = one_line(os.path.basename(os.path.dirname(os.path.abspath(train)))) or "TFRecords"
    return list_files(name, files, KEYS)


def list_files(
    name: str,
    files: list[tuple[str, bool | None]],
    keys: tuple[str, str],
    classes: dict[int, str] | None = None,
) -> Listing:
    """Return what is in TFRecord files, each with its side; raises DataError.

    `keys` are those of image and label. `classes` is {label: name}; None: all integers that occur,
    named by TEXT_KEY if it tells names.
    """
    places, entries, problems, notes, texts = [], [], [], [], defaultdict(set)
    example, wanted = tf.train.Example(), classes or range(2**63)
    for path, side in files:
        title, number, faulty, found = one_line(path), -1, [], set()
        try:
            for number, (begin, record) in enumerate(_verified_records(path)):
                try:
                    example.ParseFromString(record)
                except DecodeError:
                    example.Clear()
                features = example.features.feature
                found.update(features)
                images = features[keys[0]].bytes_list.value
                labels = features[keys[1]].int64_list.value
                if not (len(images) == len(labels) == 1 and labels[0] in wanted):
                    faulty.append(number)
                    continue
                image, label = images[0], labels[0]
                texts[label].add(b"".join(features[TEXT_KEY].bytes_list.value))
                places.append((os.path.abspath(path), begin + record.find(image), len(image)))
                entry = Entry(f"{title} record {number}", label, sources.digest(image), side)
                entries.append(entry)
        except (OSError, EOFError, zlib.error, tf.errors.OpError) as error:
            where = f"record {number + 1}: {describe(error)}"
            problems.append(f"{title} cannot be read at {where}; restore it")
        if faulty:
            count = f"{len(faulty)} of {number + 1} records cannot be used (first: {faulty[0]})"
            have = one_line(", ".join(sorted(found))) or "no keys"
            needed = f"needed are one encoded image in {keys[0]} and one class from 0 in {keys[1]}"
            problems.append(f"{title}: {count}; they have {have}; {needed}")
        elif number < 0:
            notes.append(f"{title} is empty")
    if problems:
        raise DataError(sources.problem_list(name, problems))
    source = sources.Source(places, any(sources.is_gzip(path) for path, _ in files))
    return Listing(name, source, entries, classes or _class_names(texts), notes)


def _class_names(texts: dict[int, set[bytes]]) -> dict[int, str]:
    """Return {label: its text}, or its digits unless each label has one text of its own."""
    labels = sorted(texts)
    names = [text.decode(errors="replace") for label in labels for text in texts[label]]
    if "" in names or not len(labels) == len(names) == len(set(names)):
        names = map(str, labels)
    return dict(zip(labels, names, strict=True))


def _verified_records(path: str) -> Iterator[tuple[int, bytes]]:
    """Yield where the data of each record begin, and the data, with both checksums verified."""
    begin, options = 0, tf.io.TFRecordOptions("GZIP" if sources.is_gzip(path) else "")
    for record in tf.compat.v1.io.tf_record_iterator(path, options):
        yield begin + BEFORE_DATA, record
        begin += len(record) + AROUND_DATA
    # TensorFlow takes a rest shorter than a length and its checksum for the end of the file.
    with sources.open_unpacked(path) as file:
        if file.seek(0, os.SEEK_END) != begin:
            raise EOFError("truncated")
