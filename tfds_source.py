"""TFDS data sets as a source; one that is stored as TFRecord is read as records.py reads them."""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import tensorflow_datasets as tfds

import data
from data import DataError
from records import list_files


@dataclass(frozen=True)
class Tfds(data.Source):
    """Images of a prepared data set that is not stored as TFRecord; a place is (split, number)."""

    data_dir: str
    image_key: str

    def read(self, rows: Iterable[int]) -> Iterator[bytes]:
        """Yield the encoded image of each row."""
        return (example[self.image_key] for example in self.examples(rows))

    def examples(self, rows: Iterable[int]) -> Iterator[dict]:
        """Yield the examples of some rows with encoded images."""
        builder = tfds.builder_from_directory(self.data_dir)
        features = builder.info.features.items()
        images = [key for key, feature in features if isinstance(feature, tfds.features.Image)]
        stored = builder.as_data_source(decoders=dict.fromkeys(images, tfds.decode.SkipDecoding()))
        for split, number in (self.places[row] for row in rows):
            yield stored[split][number]


def list_tfds(name: str, fraction: float) -> data.Dataset:
    """Return a TFDS data set, downloaded and prepared if it is not on disk; raises DataError.

    Label i is the data set's own label i, with its own name, whether it has images or not.
    """
    # TFDS warns of folders that it does not find, and goes on.
    logging.getLogger("absl").setLevel(logging.ERROR)
    name = data.one_line(name)
    title = f"tfds:{name}"
    builder = _prepared_builder(name)
    info, splits = builder.info, builder.info.splits
    image_key = _only_key(info, tfds.features.Image)
    label_key = _only_key(info, tfds.features.ClassLabel)
    if not (image_key and label_key and "train" in splits):
        have = f"it has the features {', '.join(info.features)} and the splits {', '.join(splits)}"
        raise DataError(f"{title} needs one image, one class label and a train split; {have}")
    sides = {"train": None}
    for split in ("test", "val", "validation"):
        if split in splits:
            sides = {"train": False, split: True}
    classes = dict(enumerate(info.features[label_key].names))
    if info.file_format == tfds.core.FileFormat.TFRECORD:
        files = [(str(path), sides[split]) for split in sides for path in splits[split].filepaths]
        return list_files(name, files, (image_key, label_key), classes, fraction)
    places = [(split, number) for split in sides for number in range(splits[split].num_examples)]
    source, entries = Tfds(places, str(builder.data_dir), image_key), []
    try:
        examples = source.examples(range(len(places)))
        for (split, number), example in zip(places, examples, strict=True):
            image, label = example[image_key], int(example[label_key])
            if label not in classes:
                raise DataError(f"{title} has images without labels; use other data")
            place = f"{title} {split} example {number}"
            entries.append(data.Entry(place, label, data.digest(image), sides[split]))
    # The readers' errors where a package is missing and where a file is damaged or missing.
    except (ImportError, RuntimeError) as error:
        way_on = "install what is missing, or remove that folder to prepare it anew"
        reason = f"{title} in {builder.data_dir} cannot be read: {_first_line(error)}"
        raise DataError(f"{reason}; {way_on}") from error
    return data.make_dataset(name, source, entries, classes, fraction)


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
        raise DataError(f"tfds:{name} {problem}: {_first_line(error)}") from error
    if builder.is_prepared():
        return builder
    absent = f"tfds:{name} is not in {builder.data_dir}"
    print(f"{absent}; downloading it (Ctrl-C stops)", file=sys.stderr)
    try:
        builder.download_and_prepare()
    # A data set's own code may raise anything.
    except Exception as error:
        way_on = "go online, or set TFDS_DATA_DIR to the folder that holds it"
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise DataError(f"{absent} and cannot be prepared: {reason}; {way_on}") from error
    return builder


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return data.one_line(lines[0][:200].rstrip("."))
