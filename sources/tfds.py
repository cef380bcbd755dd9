"""Image classification data sets of TFDS, downloaded if they are not there yet."""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import tensorflow_datasets as tfds

from runtime.messages import Refusal, first_line, one_line
from sources.records import list_records
from sources.source import Entry, Listing, Source, digest


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
            reason = f"{one_line(self.data_dir)} cannot be read: {first_line(error)}"
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
        return list_records(name, files, image_key, label_key, classes)
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
        reason = f"{absent} and cannot be prepared: {first_line(error)}"
        advice = "check the name, go online, or set TFDS_DATA_DIR to the folder that holds it"
        raise Refusal(f"{reason}; {advice}") from error
    return builder
