"""TFDS data sets as a source; one that is stored as TFRecord is read as records.py reads them."""

import difflib
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import tensorflow_datasets as tfds

from data import DataError, Dataset, Entry, Source, digest, make_dataset, one_line
from records import list_files


@dataclass(frozen=True)
class Tfds(Source):
    """Images of a prepared TFDS data set that is stored in another format than TFRecord."""

    data_dir: str
    image_key: str
    splits: tuple[tuple[str, int], ...]  # name and number of images

    @property
    def places(self) -> list[tuple[str, int]]:
        """Split and number of each row."""
        return [(split, number) for split, count in self.splits for number in range(count)]

    def read(self, rows: Iterable[int]) -> Iterator[bytes]:
        """Yield the encoded image of each row."""
        return (example[self.image_key] for example in self.examples(rows))

    def examples(self, rows: Iterable[int]) -> Iterator[dict]:
        """Yield the examples of some rows with encoded images."""
        builder = tfds.builder_from_directory(self.data_dir)
        features = builder.info.features.items()
        images = [key for key, feature in features if isinstance(feature, tfds.features.Image)]
        decoders = dict.fromkeys(images, tfds.decode.SkipDecoding())
        data = {split: builder.as_data_source(split, decoders=decoders) for split, _ in self.splits}
        places = self.places
        for row in rows:
            split, number = places[row]
            yield data[split][number]


def list_tfds(name: str, fraction: float) -> Dataset:
    """Return a TFDS data set, downloaded and prepared if it is not on disk; raises DataError.

    Label i is the data set's own label i, with its own name, whether it has images or not.
    """
    # TFDS warns of folders that it does not find, and goes on.
    logging.getLogger("absl").setLevel(logging.ERROR)
    title = f"tfds:{one_line(name)}"
    builder = _prepared_builder(name, title)
    features, splits = builder.info.features, builder.info.splits
    image_key = _only_key(builder.info, tfds.features.Image, title)
    label_key = _only_key(builder.info, tfds.features.ClassLabel, title)
    if "train" not in splits:
        raise DataError(f"{title} has no train split, only {', '.join(splits) or 'empty ones'}")
    sides = {"train": None}
    for split in ("test", "val", "validation"):
        if split in splits:
            sides = {"train": False, split: True}
    classes = dict(enumerate(features[label_key].names))
    if builder.info.file_format == tfds.core.FileFormat.TFRECORD:
        files = [(str(path), sides[split]) for split in sides for path in splits[split].filepaths]
        return list_files(one_line(name), files, (image_key, label_key), classes, fraction)
    counts = tuple((split, splits[split].num_examples) for split in sides)
    source, entries = Tfds(str(builder.data_dir), image_key, counts), []
    try:
        examples = source.examples(range(len(source.places)))
        for (split, number), example in zip(source.places, examples, strict=True):
            image, label = example[image_key], int(example[label_key])
            place = f"{title} {split} example {number}"
            entries.append(Entry(place, label, digest(image), sides[split]))
    # The readers' errors where a package is missing and where a file is damaged or missing.
    except (ImportError, RuntimeError) as error:
        missing = isinstance(error, ImportError)
        way_on = "install that package" if missing else "remove that folder to prepare it anew"
        reason = f"{title} in {builder.data_dir} cannot be read: {_first_line(error)}"
        raise DataError(f"{reason}; {way_on}") from error
    # TFDS' own label of an image without one is -1.
    if not classes.keys() >= {entry.label for entry in entries}:
        raise DataError(f"{title} has images without labels; use other data")
    return make_dataset(one_line(name), source, entries, classes, fraction)


def _only_key(info: tfds.core.DatasetInfo, kind: type, title: str) -> str:
    """Return the key of a kind of feature: the supervised one, else the only one."""
    keys = [key for key, feature in info.features.items() if isinstance(feature, kind)]
    keys = [key for key in keys if key in (info.supervised_keys or ())] or keys
    if len(keys) != 1:
        have = f"its features are {', '.join(info.features)}"
        raise DataError(f"{title} is not an image classification data set: {have}")
    return keys[0]


def _prepared_builder(name: str, title: str) -> tfds.core.DatasetBuilder:
    # TFDS itself looks only when it is imported.
    folder = os.environ.get("TFDS_DATA_DIR")
    try:
        builder = tfds.builder(name, data_dir=folder)
    # An AssertionError tells of an unknown version.
    except (ValueError, AssertionError) as error:
        known = tfds.list_builders(with_community_datasets=False)
        close = " or ".join(difflib.get_close_matches(name, known))
        meant = f"; did you mean {close}?" if close else ""
        problem = f"is neither in {folder or 'its data folder'} nor known to TFDS"
        raise DataError(f"{title} {problem}: {_first_line(error)}{meant}") from error
    if builder.is_prepared():
        return builder
    absent = f"{title} is not in {builder.data_dir}"
    print(f"{absent}; downloading it (Ctrl-C stops)", file=sys.stderr)
    try:
        builder.download_and_prepare()
    # What a data set's own code raises is not known beforehand.
    except Exception as error:
        way_on = "go online, or set TFDS_DATA_DIR to the folder that holds it"
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise DataError(f"{absent} and cannot be prepared: {reason}; {way_on}") from error
    return builder


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return one_line(lines[0][:200].rstrip("."))
