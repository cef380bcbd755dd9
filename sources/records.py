"""TFRecord files, as they are and as TFDS writes them.

The first pass over a TFRecord file verifies its checksums and notes where each image lies.
"""

import glob
import os
from collections import defaultdict

from google.protobuf.message import DecodeError

from runtime.messages import Refusal, first_line, one_line, problem_list
from runtime.tensorflow_setup import tf
from sources.source import Entry, FileParts, Listing, digest

# The keys that TensorFlow's own image data sets use.
KEYS, TEXT_KEY = ("image/encoded", "image/class/label"), "image/class/text"
OTHER_KEYS = ", or --keys IMAGE,LABEL where they have other names"


def list_files(train: str, test: str, keys: str | None = None) -> Listing:
    """Return what is in the TFRecord files that two globs match; raises Refusal.

    `keys` is IMAGE,LABEL where they are not KEYS. The classes are the integers that occur as
    labels, named by TEXT_KEY if it tells names.
    """
    image_key, _, label_key = keys.partition(",") if keys is not None else (KEYS[0], "", KEYS[1])
    if not (image_key and label_key):
        raise Refusal(f"--keys must be IMAGE,LABEL, got {one_line(keys)!r}")
    files = []
    for flag, pattern, validation in (("--train", train, False), ("--test", test, True)):
        paths = sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True)))
        if not paths:
            raise Refusal(f"{flag} {pattern!r} matches no file")
        files += [(path, validation) for path in paths]
    name = os.path.basename(os.path.dirname(os.path.abspath(train)))
    return list_records(one_line(name), files, image_key, label_key)


def list_records(
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
            reason = f"{first_line(error)}; restore it, or unpack it if it is gzip"
            problems.append(f"{title} cannot be read at record {number + 1}: {reason}")
        if faulty:
            count = f"{len(faulty)} of {number + 1} records cannot be used (first: {faulty[0]})"
            have = one_line(", ".join(sorted(present))) or "no keys"
            needed = f"needed are one image in {image_key} and one class from 0 in {label_key}"
            problems.append(f"{title}: {count}; they have {have}; {needed}{OTHER_KEYS}")
        elif number < 0:
            notes.append(f"{title} is empty")
    if problems:
        raise Refusal(problem_list(name, problems))
    return Listing(name, FileParts(places), entries, classes or _class_names(texts), notes)


def _class_names(texts: dict[int, set[bytes]]) -> dict[int, str]:
    """Return {label: its text}, or its digits unless each label has one text of its own."""
    labels = sorted(texts)
    names = [one_line(text.decode(errors="replace")) for label in labels for text in texts[label]]
    if "" in names or not len(labels) == len(names) == len(set(names)):
        names = map(str, labels)
    return dict(zip(labels, names, strict=True))
