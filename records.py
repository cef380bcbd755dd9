"""Sources of images that need TensorFlow: TFRecord files, and the data sets of TFDS.

The first pass over a TFRecord file verifies its checksums and notes where in the file each encoded
image lies, so that reading an image later touches none of the others. A TFDS data set is read in
the same way if it is stored as TFRecord.
"""

import glob
import gzip
import logging
import os
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError

import sources
from sources import DataError, Entry, Listing, digest, one_line
from tensorflow_setup import tf

# The keys that TensorFlow's own image data sets use.
KEYS, TEXT_KEY = ("image/encoded", "image/class/label"), "image/class/text"
# A plain file begins so only if its first record has 559,903 bytes, or 2**24 times n more.
GZIP_MAGIC = b"\x1f\x8b\x08"
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
    return _list_files(name, files, KEYS)


def _list_files(
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
    packed = all(map(_is_gzip, (path for path, _ in files)))
    example, wanted = tf.train.Example(), classes or range(2**63)
    for path, side in files:
        title, number, faulty, found = one_line(path), -1, [], set()
        try:
            for number, (begin, record) in enumerate(_verified_records(path, packed)):
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
                entry = Entry(f"{title} record {number}", label, digest(image), side)
                entries.append(entry)
        except (OSError, EOFError, zlib.error, tf.errors.OpError) as error:
            where = f"record {number + 1}: {error!r:.200}"
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
    source = sources.FileParts(places, packed)
    return Listing(name, source, entries, classes or _class_names(texts), notes)


def _class_names(texts: dict[int, set[bytes]]) -> dict[int, str]:
    """Return {label: its text}, or its digits unless each label has one text of its own."""
    labels = sorted(texts)
    names = [text.decode(errors="replace") for label in labels for text in texts[label]]
    if "" in names or not len(labels) == len(names) == len(set(names)):
        names = map(str, labels)
    return dict(zip(labels, map(one_line, names), strict=True))


def _is_gzip(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(3) == GZIP_MAGIC


def _verified_records(path: str, packed: bool) -> Iterator[tuple[int, bytes]]:
    """Yield where the data of each record begin, and the data, with both checksums verified."""
    begin, options = 0, tf.io.TFRecordOptions("GZIP" if packed else "")
    for record in tf.compat.v1.io.tf_record_iterator(path, options):
        yield begin + BEFORE_DATA, record
        begin += len(record) + AROUND_DATA
    # TensorFlow takes a rest shorter than a length and its checksum for the end of the file.
    with (gzip.open if packed else open)(path, "rb") as file:
        if file.seek(0, os.SEEK_END) != begin:
            raise EOFError("truncated")


@dataclass(frozen=True)
class Tfds(sources.Source):
    """Images of a data set that is not stored as TFRecord; their places are (split, number)."""

    data_dir: str
    image_key: str

    def read(self, rows: Iterable[int]) -> Iterator[bytes]:
        """Yield the encoded image of each row."""
        return (example[self.image_key] for example in self.examples(rows))

    def examples(self, rows: Iterable[int]) -> Iterator[dict]:
        """Yield the examples of some rows with encoded images."""
        builder = tfds.builder_from_directory(self.data_dir)
        data = builder.as_data_source(decoders={self.image_key: tfds.decode.SkipDecoding()})
        return (data[split][number] for split, number in super().read(rows))


def list_tfds(source: str) -> Listing:
    """Return what is in `tfds:NAME`, which is prepared if it is not yet; raises DataError.

    Label i is the data set's own label i, with its own name, whether it has images or not.
    """
    # TFDS warns of folders that it does not find, and goes on.
    logging.getLogger("absl").setLevel(logging.ERROR)
    name = one_line(source.removeprefix("tfds:"))
    builder = _prepared_builder(name)
    features, splits = builder.info.features, builder.info.splits
    image_key = _only_key(builder.info, tfds.features.Image)
    label_key = _only_key(builder.info, tfds.features.ClassLabel)
    if not (image_key and label_key and "train" in splits):
        have = f"it has the features {', '.join(features)} and the splits {', '.join(splits)}"
        raise DataError(f"tfds:{name} needs one image, one class label and a train split; {have}")
    sides = {"train": None}
    for split in ("test", "val", "validation"):
        if split in splits:
            sides = {"train": False, split: True}
    classes = dict(enumerate(map(one_line, features[label_key].names)))
    if builder.info.file_format == tfds.core.FileFormat.TFRECORD:
        files = [(str(path), sides[split]) for split in sides for path in splits[split].filepaths]
        return _list_files(name, files, (image_key, label_key), classes)
    places = [(split, number) for split in sides for number in range(splits[split].num_examples)]
    stored, entries = Tfds(places, str(builder.data_dir), image_key), []
    try:
        examples = stored.examples(range(len(places)))
        for (split, number), example in zip(places, examples, strict=True):
            title, label = f"tfds:{name} {split} example {number}", int(example[label_key])
            if label not in classes:
                raise DataError(f"{title} has no label; use another data set")
            entries.append(Entry(title, label, digest(example[image_key]), sides[split]))
    # The readers' errors where a package is missing and where a file is damaged or missing.
    except (ImportError, RuntimeError) as error:
        reason = f"tfds:{name} in {builder.data_dir} cannot be read: {error!r:.200}"
        way_on = "install what is missing, or remove that folder to prepare it anew"
        raise DataError(f"{reason}; {way_on}") from error
    return Listing(name, stored, entries, classes, [])


def _only_key(info: tfds.core.DatasetInfo, kind: type) -> str | None:
    """Return the key of a kind of feature: the supervised one, else the only one, else None."""
    keys = [key for key, feature in info.features.items() if isinstance(feature, kind)]
    keys = [key for key in keys if key in (info.supervised_keys or ())] or keys
    return keys[0] if len(keys) == 1 else None


def _prepared_builder(name: str) -> tfds.core.DatasetBuilder:
    # TFDS itself looks only when it is imported.
    folder = os.environ.get("TFDS_DATA_DIR")
    try:
        builder = tfds.builder(name, data_dir=folder)
    # An AssertionError tells of an unknown version.
    except (ValueError, AssertionError) as error:
        problem = f"is neither in {folder or 'its data folder'} nor known to TFDS"
        raise DataError(f"tfds:{name} {problem}: {error!r:.200}") from error
    if not builder.is_prepared():
        absent = f"tfds:{name} is not in {builder.data_dir}"
        print(f"{absent}; downloading it (Ctrl-C stops)", file=sys.stderr)
        try:
            builder.download_and_prepare()
        # A data set's own code may raise anything.
        except Exception as error:
            way_on = "go online, or set TFDS_DATA_DIR to the folder that holds it"
            raise DataError(f"{absent} and cannot be prepared: {error!r:.200}; {way_on}") from error
    return builder
