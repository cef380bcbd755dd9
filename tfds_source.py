"""TFDS data sets as a source; one that is stored as TFRecord is read as records.py reads them."""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import tensorflow_datasets as tfds

from records import list_files
from sources import DataError, Entry, Listing, Source, describe, digest


@dataclass(frozen=True)
class Tfds(Source):
    """Images of a data set that is not stored as TFRecord; their places are (split, number)."""

    data_dir: str = ""
    image_key: str = ""

    def read(self, rows: Iterable[int]) -> Iterator[bytes]:
        """Yield the encoded image of each row."""
        return (example[self.image_key] for example in self.examples(rows))

    def examples(self, rows: Iterable[int]) -> Iterator[dict]:
        """Yield the examples of some rows with encoded images."""
        builder = tfds.builder_from_directory(self.data_dir)
        data = builder.as_data_source(decoders={self.image_key: tfds.decode.SkipDecoding()})
        return (data[split][number] for split, number in (self.places[row] for row in rows))


def list_tfds(name: str) -> Listing:
    """Return what is in a TFDS data set, which is prepared if it is not yet; raises DataError.

    Label i is the data set's own label i, with its own name, whether it has images or not.
    """
    # TFDS warns of folders that it does not find, and goes on.
    logging.getLogger("absl").setLevel(logging.ERROR)
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
    classes = dict(enumerate(features[label_key].names))
    if builder.info.file_format == tfds.core.FileFormat.TFRECORD:
        files = [(str(path), sides[split]) for split in sides for path in splits[split].filepaths]
        return list_files(name, files, (image_key, label_key), classes)
    places = [(split, number) for split in sides for number in range(splits[split].num_examples)]
    source, entries = Tfds(places, False, str(builder.data_dir), image_key), []
    try:
        examples = source.examples(range(len(places)))
        for (split, number), example in zip(places, examples, strict=True):
            title, label = f"tfds:{name} {split} example {number}", int(example[label_key])
            if label not in classes:
                raise DataError(f"{title} has no label; use another data set")
            entries.append(Entry(title, label, digest(example[image_key]), sides[split]))
    # The readers' errors where a package is missing and where a file is damaged or missing.
    except (ImportError, RuntimeError) as error:
        reason = f"tfds:{name} in {builder.data_dir} cannot be read: {describe(error)}"
        way_on = "install what is missing, or remove that folder to prepare it anew"
        raise DataError(f"{reason}; {way_on}") from error
    return Listing(name, source, entries, classes, [])


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
        raise DataError(f"tfds:{name} {problem}: {describe(error)}") from error
    if not builder.is_prepared():
        absent = f"tfds:{name} is not in {builder.data_dir}"
        print(f"{absent}; downloading it (Ctrl-C stops)", file=sys.stderr)
        try:
            builder.download_and_prepare()
        # A data set's own code may raise anything.
        except Exception as error:
            way_on = "go online, or set TFDS_DATA_DIR to the folder that holds it"
            raise DataError(
                f"{absent} and cannot be prepared: {describe(error)}; {way_on}"
            ) from error
    return builder
