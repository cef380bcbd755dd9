"""Sources that need TensorFlow: TFRecord files, and the data sets of TFDS.

The first pass over a TFRecord file verifies its checksums and notes where each image lies.
"""

import glob
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError

from cli import Refusal
from sources import Entry, FileParts, Listing, Source, digest, one_line, problem_list
from tensorflow_setup import tf

# The keys that TensorFlow's own image data sets use.
KEYS, TEXT_KEY = ("image/encoded", "image/class/label"), "image/class/text"


def list_files(train: str, test: str) -> Listing:
    """Return what is in the TFRecord files that two globs match; raises Refusal.

    The classes are the integers that occur as labels, named by TEXT_KEY if it tells names.
    """
    files = []
    for flag, pattern, validation in (("--train", train, False), ("--test", test, True)):
        paths = sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True)))
        if not paths:
            raise Refusal(f"{flag} {pattern!r} matches no file")
        files += [(path, validation) for path in paths]
    name = os.path.basename(os.path.dirname(os.path.abspath(train)))
    return _list_records(one_line(name), files, *KEYS)


def _list_records(
    name: str, files: list[tuple], image_key: str, label_key: str, classes: dict | None = None
) -> Listing:
    """Return what is in TFRecord files, (path, validation or not); `classes` is {label: name}."""
    places, entries, problems, notes, texts = [], [], [], [], defaultdict(set)
    for path, side in files:
        title, number, faulty, present, end = one_line(path), -1, [], set(), 0
        try:
            # It verifies both checksums: of the length, before the data, and of the data, behind.
            for number, record in enumerate(tf.compat.v1.io.tf_record_iterator(path)):
                begin = end + 12
                end = begin + len(record) + 4
                try:
                    features = tf.train.Example.FromString(record).features.feature
                    present.update(features)
                    (image,) = features[image_key].bytes_list.value
                    (label,) = features[label_key].int64_list.value
                except (DecodeError, ValueError):
                    label = -1
                if label not in (classes or range(2**63)):
                    faulty.append(number)
                    continue
                texts[label].add(b"".join(features[TEXT_KEY].bytes_list.value))
                places.append((os.path.abspath(path), begin + record.find(image), len(image)))
                entries.append(Entry(f"{title} record {number}", label, digest(image), side))
            # TensorFlow takes a rest of less than 12 bytes for the end of the file.
            if os.path.getsize(path) != end:
                raise OSError("truncated")
        except (OSError, tf.errors.OpError) as error:
            reason = f"{_first_line(error)}; restore it, or unpack it if it is gzip"
            problems.append(f"{title} cannot be read at record {number + 1}: {reason}")
        if faulty:
            count = f"{len(faulty)} of {number + 1} records cannot be used (first: {faulty[0]})"
            have = one_line(", ".join(sorted(present))) or "no keys"
            needed = f"needed are one image in {image_key} and one class from 0 in {label_key}"
            problems.append(f"{title}: {count}; they have {have}; {needed}")
        elif number < 0:
            notes.append(f"{title} is empty")
    if problems:
        raise Refusal(problem_list(name, problems))
    return Listing(name, FileParts(places), entries, classes or _class_names(texts), notes)


def _class_names(texts: dict[int, set[bytes]]) -> dict[int, str]:
    """Return {label: its text}, or its digits unless each label has one text of its own."""
    labels = sorted(texts)
    names = [text.decode(errors="replace") for label in labels for text in texts[label]]
    if "" in names or not len(labels) == len(names) == len(set(names)):
        names = map(str, labels)
    return dict(zip(labels, map(one_line, names), strict=True))


@dataclass(frozen=True)
class Tfds(Source):
    """Images of a data set that is not stored as TFRecord; their places are (split, number)."""

    data_dir: str
    image_key: str

    def read(self, rows: Iterable[int]) -> Iterator[bytes]:
        return (example[self.image_key] for example in self.examples(rows))

    def examples(self, rows: Iterable[int]) -> Iterator[dict]:
        """Yield some rows with everything in them, images encoded; raises Refusal."""
        try:
            builder = tfds.builder_from_directory(self.data_dir)
            data = builder.as_data_source(decoders={self.image_key: tfds.decode.SkipDecoding()})
            for split, number in super().read(rows):
                example = data[split][number]
                if example[self.image_key] is None:  # what the reader returns behind a file's end
                    raise OSError(f"{split} ends before example {number}")
                yield example
        # Raised where a package is missing, and where a file is damaged or missing.
        except (ImportError, OSError, RuntimeError) as error:
            reason = f"{one_line(self.data_dir)} cannot be read: {_first_line(error)}"
            advice = "install what is missing, or remove that folder to prepare it anew"
            raise Refusal(f"{reason}; {advice}") from error


def list_tfds(source: str) -> Listing:
    """Return what is in `tfds:NAME`, which is prepared if it is not yet; raises Refusal.

    Label i is the data set's own label i, with its own name, whether it has images or not.
    """
    name = one_line(source.removeprefix("tfds:"))
    builder = _prepare(name)
    features, splits = builder.info.features, builder.info.splits
    image_key = _only_key(builder.info, tfds.features.Image)
    label_key = _only_key(builder.info, tfds.features.ClassLabel)
    if not (image_key and label_key and "train" in splits):
        have = (
            f"it has the features {', '.join(sorted(features))} and the splits {', '.join(splits)}"
        )
        raise Refusal(f"tfds:{name} needs one image, one class label and a train split; {have}")
    other = next((split for split in ("validation", "val", "test") if split in splits), None)
    sides = {"train": False, other: True} if other else {"train": None}
    classes = dict(enumerate(map(one_line, features[label_key].names)))
    if builder.info.file_format == tfds.core.FileFormat.TFRECORD:
        files = [(str(path), sides[split]) for split in sides for path in splits[split].filepaths]
        return _list_records(name, files, image_key, label_key, classes)
    places = [(split, number) for split in sides for number in range(splits[split].num_examples)]
    stored, entries = Tfds(places, str(builder.data_dir), image_key), []
    for row, example in enumerate(stored.examples(range(len(places)))):
        (split, number), label = places[row], int(example[label_key])
        title = f"tfds:{name} {split} example {number}"
        if label not in classes:
            raise Refusal(f"{title} has no label; use another data set")
        entries.append(Entry(title, label, digest(example[image_key]), sides[split]))
    return Listing(name, stored, entries, classes, [])


def _only_key(info: tfds.core.DatasetInfo, kind: type) -> str | None:
    """Return the key of a kind of feature: the supervised one, else the only one, else None."""
    keys = [key for key, feature in info.features.items() if isinstance(feature, kind)]
    keys = [key for key in keys if key in (info.supervised_keys or ())] or keys
    return keys[0] if len(keys) == 1 else None


def _prepare(name: str) -> tfds.core.DatasetBuilder:
    # TFDS warns of folders that it does not find, and goes on.
    logging.getLogger("absl").setLevel(logging.ERROR)
    # TFDS itself looks only when it is imported.
    folder = os.environ.get("TFDS_DATA_DIR", tfds.core.constants.DATA_DIR)
    absent = f"tfds:{name} is not in {folder}"
    try:
        builder = tfds.builder(name, data_dir=folder)
        if not builder.is_prepared():
            print(f"{absent}; downloading it (Ctrl-C stops)", file=sys.stderr)
            builder.download_and_prepare()
    # A data set's own code may raise anything.
    except Exception as error:
        reason = f"{absent} and cannot be prepared: {_first_line(error)}"
        advice = "check the name, go online, or set TFDS_DATA_DIR to the folder that holds it"
        raise Refusal(f"{reason}; {advice}") from error
    return builder


def _first_line(error: Exception) -> str:
    return one_line(str(error).strip().partition("\n")[0][:200])
