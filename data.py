"""Where images come from: the embedded digits, an image folder, TFRecords, or any TFDS image classification data set.

Whatever the source, `load` makes one pass over it and returns one `Dataset`: every image has a row, a label, a side
(training or validation) and a name for messages. Images stay where they are and are read again, in the same order, by
`encoded`. All checks of user data live here.
"""

import difflib
import glob
import gzip
import hashlib
import io
import logging
import os
import queue
import threading
import urllib.error
import urllib.request
import warnings
import zlib
from collections import Counter
from typing import NamedTuple

import numpy as np
import quiet
import simplejpeg
from PIL import Image

FORMATS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
}
EXTENSIONS = tuple(extension for extensions in FORMATS.values() for extension in extensions)
NO_IMAGES = (
    ".txt",
    ".md",
    ".csv",
    ".json",
    ".xml",
    ".html",
    ".db",
    ".ini",
    ".log",
)  # beside images and never noted
VALIDATION_NAMES = ("validation", "val", "test")
IMAGE_KEY, LABEL_KEY = (
    "image/encoded",
    "image/class/label",
)  # of a record, as TensorFlow's image data sets name them
GZIP = b"\x1f\x8b\x08"  # how such a file begins; a plain one could only if its first record had one of few lengths
AROUND_RECORD = 16  # bytes: its length and two checksums
READ_AT_ONCE = 32  # records; one by one TensorFlow takes 0.3 ms each, and more would hold many large images in memory
MAX_PIXELS = 50_000_000  # decoded: 150 MB; a phone's largest photograph has 48 million
IMBALANCE = 10  # a class with this many times the images of another is worth a note
TFDS_HOST = "http://storage.googleapis.com/"  # where most of what TFDS downloads lies
ANSWER_WITHIN = 10  # seconds; without a network TFDS itself would try again for minutes

# What matters comes as an exception, and a warning would not say in which file; MAX_PIXELS is checked here.
warnings.filterwarnings("ignore", module=r"PIL\.")


class DataError(Exception):
    """The data cannot be used as they are; the message says what, where, and what to do."""


class DamagedImage(Exception):
    """One image cannot be decoded; the message says why."""


class Record(NamedTuple):
    """One image as its source gives it; `encoded` is an OSError where the file could not be read."""

    name: str  # what a message calls it: a path, or a file and a record number
    key: str | None  # what decides its side where the source has no split; None: its content does
    label: object  # anything sortable: a folder's name, a number
    validation: bool | None  # None: the source has no split, for all of its records
    encoded: bytes | OSError | None  # None: was not asked for


class Dataset(NamedTuple):
    """Images with labels and sides, in a fixed order; N images."""

    name: str
    class_names: list  # sorted
    rows: (
        np.ndarray
    )  # (N,) int64, each image's place in its source: 0..N-1 unless some are left out
    labels: np.ndarray  # (N,) int32, an index into class_names
    validation: np.ndarray  # (N,) bool
    names: list  # (N,) str
    digests: list  # (N,) sha256 of each encoded image
    notes: list  # str, what the user should know
    records: object  # (wanted) -> iterator of Record, one for each row
    places: np.ndarray | None  # (N,) in [0, 1), what decides the side; None: the source has a split
    fraction: float  # of validation, where the source has no split

    @property
    def images_fingerprint(self):
        """sha256 of the images in their order, whatever their labels and sides: what features depend on."""
        return hashlib.sha256(b"".join(self.digests)).hexdigest()

    @property
    def fingerprint(self):
        """sha256 of images, labels, class names and split: what a run's numbers depend on."""
        parts = [
            self.images_fingerprint,
            repr(self.class_names),
            self.labels.tobytes(),
            self.validation.tobytes(),
        ]
        return hashlib.sha256(
            b"\0".join(p if isinstance(p, bytes) else p.encode() for p in parts)
        ).hexdigest()

    def counts(self):
        """`{class name: (training images, validation images)}`."""
        sides = [
            np.bincount(self.labels[self.validation == side], minlength=len(self.class_names))
            for side in (0, 1)
        ]
        return {
            name: (int(train), int(held_out))
            for name, train, held_out in zip(self.class_names, *sides)
        }

    def without(self, rows):
        """Return the data set without some rows; raises DataError where a class does not survive it.

        An image may change its side if it is the only one left for it; see _split.
        """
        keep = np.isin(self.rows, list(rows), invert=True)
        kept = {name: getattr(self, name)[keep] for name in ("rows", "labels", "validation")}
        if self.places is not None:
            kept["places"] = self.places[keep]
            kept["validation"] = _split(kept["labels"], kept["places"], self.fraction)
        for name in ("names", "digests"):
            kept[name] = [getattr(self, name)[i] for i in np.flatnonzero(keep)]
        return checked(self._replace(**kept))

    def encoded(self, wanted):
        """Yield `(row, what decode takes)` of the rows for which `wanted` (N,) bool is true, where none was left out.

        Raises DataError where an image is not what it was when the data set was loaded.
        """
        rows = 0
        for row, record in enumerate(
            self.records(np.append(wanted, True))
        ):  # one more, to notice if there is one
            rows = row + 1
            if rows > len(wanted):
                break
            if wanted[row]:
                if _digest(record) != self.digests[row]:
                    raise DataError(
                        f"{self.names[row]} changed or vanished while it was being used; start again"
                    )
                yield row, record.encoded
        if rows != len(wanted):
            raise DataError(
                f"{self.name}: images came or vanished while they were being used; start again"
            )


def shown(text):
    """The text with unprintable characters escaped, so that it stays on one line; different texts stay different."""
    return text if text.isprintable() and "\\" not in text else repr(text)[1:-1]


def decode(encoded):
    """Return an encoded image as uint8 (height, width, 3); of an animation the first frame.

    Transparency and EXIF orientation are ignored, as by TensorFlow. Raises DamagedImage for anything that is not a
    whole image in one of FORMATS with at most MAX_PIXELS pixels; also for the OSError that reading the file gave.
    """
    if isinstance(encoded, OSError):
        raise DamagedImage(f"cannot be read: {encoded.strerror or encoded}")
    if not encoded:
        raise DamagedImage("empty")
    try:
        image = Image.open(io.BytesIO(encoded), formats=list(FORMATS))
    except Image.DecompressionBombError:
        raise DamagedImage(f"more than {MAX_PIXELS:,} pixels") from None
    except Exception:
        raise DamagedImage(f"damaged, or no {', '.join(FORMATS)} image") from None
    if image.width * image.height > MAX_PIXELS:
        raise DamagedImage(f"{image.width} x {image.height} is more than {MAX_PIXELS:,} pixels")
    try:
        if image.mode.startswith(
            "I"
        ):  # 16 bits of grey, which convert() would clip instead of scale
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=-1)
        if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
            # As tf.io.decode_jpeg does unless told otherwise, to the last bit: the fast transform. Pillow has the exact
            # one only, and validation accuracies of the same runs differ by up to 0.004 between the two.
            return simplejpeg.decode_jpeg(encoded, "RGB", fastdct=True)
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        return np.asarray(image.convert("RGB"))
    except MemoryError:
        raise  # which says nothing about the image
    except Exception as error:  # Pillow's decoders raise anything from OSError to SyntaxError
        raise DamagedImage(f"damaged: {_one_line(error)}") from None


def _one_line(error):
    """What an exception of another library says, in one line that is not too long."""
    return shown(" ".join(str(error).split())[:300]) or type(error).__name__


def load(source="digits", train=None, test=None, validation_fraction=0.2):
    """Return the Dataset of `digits`, `tfds:NAME` or a folder, or of the TFRecords that two globs match.

    One pass reads every image once and decodes none. A source without a validation split gets one: an image goes to
    validation by a hash of its own name, so it stays on its side when others come or go. Raises DataError.
    """
    if train is not None or test is not None:
        if train is None or test is None:
            missing = "--train" if train is None else "--test"
            raise DataError(f"{missing} GLOB is missing; TFRecords need --train and --test")
        name = os.path.basename(os.path.dirname(os.path.abspath(train)))
        return _scanned(
            shown(name) or "TFRecords", validation_fraction, *_record_files(train, test)
        )
    if source == "digits":
        return _scanned("digits", validation_fraction, _digits)
    if source.startswith("tfds:"):
        return _scanned(shown(source[5:]), validation_fraction, _tfds(source[5:]))
    return _scanned(
        shown(os.path.basename(os.path.abspath(source)) or source),
        validation_fraction,
        *_folder(source),
    )


def _scanned(name, fraction, records, notes=(), classes=()):
    """The Dataset of a source, after one pass over all its records; `classes` are labels that must have images."""
    names, labels, sides, places, digests = [], [], [], [], []
    for record in records(None):
        digest = _digest(record)
        names.append(shown(record.name))
        labels.append(record.label)
        sides.append(record.validation)
        places.append(_place(digest if record.key is None else os.fsencode(record.key)))
        digests.append(digest)
    if not names:
        raise DataError(f"{name} holds no images")
    class_names = sorted({*labels, *classes})
    index = {label: number for number, label in enumerate(class_names)}
    labels = np.array([index[label] for label in labels], np.int32)
    places = np.array(places) if sides[0] is None else None
    dataset = Dataset(
        name=name,
        class_names=[shown(str(label)) for label in class_names],
        rows=np.arange(len(names)),
        labels=labels,
        validation=np.array(sides) if places is None else _split(labels, places, fraction),
        names=names,
        digests=digests,
        notes=notes,
        records=records,
        places=places,
        fraction=fraction,
    )
    return checked(dataset._replace(notes=[*notes, *_imbalance(dataset)]))


def _digest(record):
    """sha256 of an image as its source gives it; one that cannot be read counts as empty."""
    return hashlib.sha256(b"" if isinstance(record.encoded, OSError) else record.encoded).digest()


def _place(key):
    """A number in [0, 1) that depends on the key (bytes) alone: all keys are spread evenly."""
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64


def _split(labels, places, fraction):
    """Sides (N,) bool: places below `fraction` are validation, but a class of two or more is on both sides."""
    validation = places < fraction
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) > 1:
            rows = rows[np.argsort(places[rows], kind="stable")]
            validation[rows[0]], validation[rows[-1]] = True, False
    return validation


def checked(dataset):
    """Return the data set if every class can be trained and validated; raises DataError, all that is wrong at once."""
    problems = []
    counts = dataset.counts()
    if len(counts) < 2:
        problems.append(f"only one class, {dataset.class_names[0]}; at least two are needed")
    for name, (train, held_out) in counts.items():
        if not train + held_out:
            problems.append(f"class {name} has no images; add some or remove the class")
        elif train + held_out < 2:
            problems.append(f"class {name} has only one image; add some or remove the class")
        elif not train:
            problems.append(
                f"class {name} has no training image; add some or remove its validation images"
            )
        elif not held_out:
            problems.append(f"class {name} has no validation image; add some or remove the class")
    if problems:
        raise DataError(listed(dataset.name, problems + dataset.notes))  # a note may tell why
    return dataset


def _imbalance(dataset):
    """A list with a note where one class has many times the images of another, else an empty one."""
    sizes = {name: train for name, (train, _) in dataset.counts().items()}
    most, least = max(sizes, key=sizes.get), min(sizes, key=sizes.get)
    if not 0 < IMBALANCE * sizes[least] < sizes[most]:  # none at all is worse than a note
        return []
    return [f"unbalanced: {sizes[most]} training images of {most}, {sizes[least]} of {least}"]


def listed(name, problems):
    """One line for one problem; for more, their number and then one line each."""
    if len(problems) == 1:
        return f"{name}: {problems[0]}"
    return f"{name}: {len(problems)} problems\n  " + "\n  ".join(problems)


def damaged_images(dataset, damaged):
    """The DataError that names every damaged image; `damaged` is `{row: reason}`, of a data set with all its rows."""
    problems = [f"{dataset.names[row]}: {reason}" for row, reason in sorted(damaged.items())]
    way_on = "mend or remove them, or leave them out with --skip-damaged"
    if len(problems) == 1:
        return DataError(f"{problems[0]}; {way_on}")
    return DataError(
        f"{dataset.name}: {len(problems)} damaged images; {way_on}\n  " + "\n  ".join(problems)
    )


def on_both_sides(dataset, pixels):
    """List `(training name, validation name)` of images with equal pixels.

    `pixels` are digests of all images as they were loaded, by row; None where damaged.
    """
    named = [
        (pixels[row], name, held_out)
        for row, name, held_out in zip(dataset.rows, dataset.names, dataset.validation)
    ]
    in_training = {digest: name for digest, name, held_out in named if digest and not held_out}
    return [
        (in_training[digest], name)
        for digest, name, held_out in named
        if held_out and digest in in_training
    ]


# --- Sources: functions that yield records, in the same order every time; some come with notes and classes -----------


def _digits(wanted):
    """scikit-learn's 1,797 handwritten digits, 8 x 8 grey, embedded in the library: no download."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    for row, (pixels, label) in enumerate(zip(images, labels)):
        file = io.BytesIO()
        Image.fromarray((pixels.reshape(8, 8) * (255 / 16)).round().astype(np.uint8)).save(
            file, "BMP"
        )
        yield Record(f"digit {row}", f"{row}", int(label), None, file.getvalue())


def _folder(source):
    """The records of `train/CLASS/*` with a validation folder beside it, or of `CLASS/*`; notes; all classes."""
    if not os.path.isdir(source):
        reason = "no folder" if os.path.exists(source) else "no such folder"
        raise DataError(
            f"{shown(source) or 'no name'}: {reason}; --data takes digits, tfds:NAME or a folder"
        )
    problems, classes, files, others, subfolders, strays = [], set(), [], Counter(), 0, 0
    sides, notes = _sides(source, problems)
    for side, validation in sides:
        for folder in _visible(side, problems):
            if not os.path.isdir(folder):
                strays += folder.name.lower().endswith(EXTENSIONS)
                continue
            classes.add(folder.name)
            for entry in _visible(folder.path, problems):
                extension = os.path.splitext(entry.name)[1].lower()
                if os.path.isdir(entry):
                    subfolders += 1
                elif extension in EXTENSIONS and (
                    os.path.isfile(entry) or not os.path.exists(entry)
                ):  # a broken link
                    files.append((entry.path, folder.name, validation))
                elif extension not in NO_IMAGES:
                    others[shown(extension) or "no extension"] += 1
    if problems:
        raise DataError(listed(shown(source), problems))
    if not files:
        raise DataError(
            f"{shown(source)} holds no images; CLASS/* with {' '.join(EXTENSIONS)} is looked for"
        )
    if others:
        found = ", ".join(f"{count} {extension}" for extension, count in sorted(others.items()))
        notes.append(f"files that are not read, by their extension: {found}")
    if subfolders:
        notes.append(f"folders inside class folders, which are not read: {subfolders}")
    if strays:
        notes.append(f"images outside class folders, which are not read: {strays}")

    def records(wanted):
        for row, (path, label, validation) in enumerate(files):
            encoded = None
            if wanted is None or wanted[row]:
                try:
                    with open(path, "rb") as file:
                        encoded = file.read()
                except OSError as error:
                    encoded = error
            yield Record(path, f"{label}/{os.path.basename(path)}", label, validation, encoded)

    return records, notes, classes


def _sides(source, problems):
    """`[(folder of class folders, whether it is for validation or None)]`, and notes on folders that are not used."""
    train = os.path.join(source, "train")
    if not (
        os.path.isdir(train) and any(os.path.isdir(entry) for entry in _visible(train, problems))
    ):
        return [(source, None)], []
    folders = [entry.name for entry in _visible(source, problems) if os.path.isdir(entry)]
    held_out = next((name for name in VALIDATION_NAMES if name in folders), None)
    notes = [
        f"{shown(os.path.join(source, name))} is not used: validation images come from {held_out or 'train'}"
        for name in folders
        if name not in ("train", held_out)
    ]
    return [(train, False), (os.path.join(source, held_out), True)] if held_out else [
        (train, None)
    ], notes


def _visible(folder, problems):
    """The entries of a folder that are not hidden, sorted by name; what keeps it from being read joins `problems`."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        problem = f"{shown(folder)} cannot be read: {error.strerror}"
        problems += [problem] if problem not in problems else []
        return []
    return sorted(found, key=lambda entry: os.fsencode(entry.name))


def _record_files(train, test):
    """The records of the TFRecord files that two globs match, plain or gzip, and notes."""
    sides = []
    for flag, pattern, validation in (("--train", train, False), ("--test", test, True)):
        matches = (
            [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern, recursive=True))
        )
        files = [path for path in matches if os.path.isfile(path)]
        if not files:
            raise DataError(f"{flag} {pattern!r} matches no file")
        sides += [(path, validation) for path in files]
    notes = [f"{shown(path)} is empty" for path, _ in sides if not os.path.getsize(path)]

    def records(wanted):
        tf = quiet.tensorflow()
        row, problems = 0, []
        for path, validation in sides:
            number = 0
            try:
                with open(path, "rb") as file:
                    compression = "GZIP" if file.read(3) == GZIP else None
                for record in _raw(tf, path, compression):
                    name = f"{path} record {number}"
                    if wanted is None or wanted[row]:
                        encoded, label = _parsed(tf.train.Example, record, name, problems)
                        yield Record(name, None, label, validation, encoded)
                    else:
                        yield Record(name, None, None, validation, None)
                    row, number = row + 1, number + 1
            except OSError as error:
                problems.append(f"{shown(path)} cannot be read: {error.strerror}")
            except tf.errors.OpError as error:
                reason = "truncated" if "truncated" in error.message else "corrupt"
                problems.append(
                    f"{shown(path)} is {reason} from record {number} on, or no TFRecord file; restore it"
                )
        if problems:
            raise DataError(listed("TFRecords", problems))

    return records, notes


def _raw(tf, path, compression):
    """Yield the bytes of every record of a TFRecord file, up to a damaged one; then raises TensorFlow's OpError."""
    dataset, done, size = untuned(tf.data.TFRecordDataset(path, compression)), 0, 0
    try:
        for batch in dataset.batch(READ_AT_ONCE).as_numpy_iterator():
            yield from batch
            done += len(batch)
            size += sum(len(record) + AROUND_RECORD for record in batch)
    except tf.errors.OpError:
        # The whole batch is lost with the damaged record; one by one, those before it are found, and its number.
        yield from dataset.skip(done).as_numpy_iterator()
    if size != _unpacked_size(
        path, compression
    ):  # TensorFlow takes less than a length and its checksum for the end
        raise tf.errors.DataLossError(None, None, "truncated")


def untuned(dataset):
    """Return a tf.data.Dataset without autotuning.

    With it the end of an iterator waits for the tuning thread's next turn, and turns are up to a minute apart.
    """
    options = quiet.tensorflow().data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _unpacked_size(path, compression):
    """The number of bytes in a file, after unpacking if it is compressed; -1 where it cannot be unpacked whole."""
    if not compression:
        return os.path.getsize(path)
    try:
        with gzip.open(path) as file:
            return sum(map(len, iter(lambda: file.read(2**20), b"")))
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return -1


def _parsed(example, record, name, problems):
    """`(encoded image, label)` of a serialized tf.train.Example; what is wrong with it is added to `problems`."""
    try:
        features = example.FromString(record).features.feature
    except Exception:  # protobuf's DecodeError, which moves from release to release
        problems.append(f"{shown(name)} is no tf.train.Example")
        return b"", 0
    for key, kind in ((IMAGE_KEY, "bytes_list"), (LABEL_KEY, "int64_list")):
        if key not in features:
            have = ", ".join(sorted(features)) or "none"
            problems.append(f"{shown(name)} lacks the key {key}; it has {shown(have)}")
            return b"", 0
        if features[key].WhichOneof("kind") != kind or len(getattr(features[key], kind).value) != 1:
            wanted = "one encoded image" if key == IMAGE_KEY else "one integer"
            problems.append(f"{shown(name)}: {key} must be {wanted}")
            return b"", 0
    label = features[LABEL_KEY].int64_list.value[0]
    if label < 0:
        problems.append(f"{shown(name)}: {LABEL_KEY} must not be negative, got {label}")
        return b"", 0
    return features[IMAGE_KEY].bytes_list.value[0], label


def _tfds(name):
    """The records of a TFDS data set, which is downloaded and prepared if it is not on disk."""
    tf = quiet.tensorflow()
    import tensorflow_datasets as tfds

    logging.getLogger("absl").setLevel(
        logging.ERROR
    )  # TFDS warns of folders it does not find, and goes on
    shown_name = f"tfds:{shown(name)}"
    builder = _tfds_builder(tfds, name, shown_name)
    features, splits = builder.info.features, builder.info.splits

    def key(kind):
        """The feature of a kind: the one that TFDS calls an input or a target, else the only one."""
        keys = [key for key, feature in features.items() if isinstance(feature, kind)]
        keys = [key for key in keys if key in (builder.info.supervised_keys or ())] or keys
        if len(keys) != 1:
            raise DataError(
                f"{shown_name} is no image classification data set: its features are {', '.join(features)}"
            )
        return keys[0]

    image, label = key(tfds.features.Image), key(tfds.features.ClassLabel)
    if "train" not in splits:
        raise DataError(
            f"{shown_name} has no train split, only {', '.join(splits) or 'empty ones'}"
        )
    held_out = next((split for split in VALIDATION_NAMES if split in splits), None)
    sides = [("train", False), (held_out, True)] if held_out else [("train", None)]
    class_names = features[label].names
    only = tfds.decode.PartialDecoding(
        {image: True, label: True}, {image: tfds.decode.SkipDecoding()}
    )

    def records(wanted):
        row = 0
        for split, validation in sides:
            try:
                examples = untuned(builder.as_dataset(split, decoders=only)).as_numpy_iterator()
                for number, example in enumerate(examples):
                    if example[label] < 0:  # TFDS' way to say that there is none
                        raise DataError(
                            f"{shown_name} has no labels in its {split} split; use other data"
                        )
                    encoded = example[image] if wanted is None or wanted[row] else None
                    example_name, class_name = (
                        f"tfds:{name} {split} example {number}",
                        class_names[example[label]],
                    )
                    yield Record(example_name, None, class_name, validation, encoded)
                    row += 1
            except (OSError, tf.errors.OpError) as error:
                problem = (
                    f"its {split} split in {builder.data_dir} cannot be read: {_one_line(error)}"
                )
                raise DataError(
                    f"{shown_name}: {problem}; remove that folder to prepare it anew"
                ) from error

    return records


def _tfds_builder(tfds, name, shown_name):
    """The prepared builder of a TFDS data set; raises DataError."""
    where = os.environ.get("TFDS_DATA_DIR")  # asked again: TFDS does so only when it is imported
    try:
        builder = tfds.builder(name, data_dir=where)
    except tfds.core.DatasetNotFoundError as error:
        close = difflib.get_close_matches(
            name, set(tfds.list_builders(with_community_datasets=False))
        )
        meant = (
            f"did you mean {' or '.join(close)}?"
            if close
            else "tfds.list_builders() lists what there is"
        )
        raise DataError(
            f"{shown_name}: neither TFDS nor {where or 'its data folder'} has it; {meant}"
        ) from error
    except Exception as error:
        raise DataError(
            f"{shown_name} is no data set that TFDS can give: {_one_line(error)}"
        ) from error
    if builder.is_prepared():
        return builder
    absent = f"{shown_name} is not in {builder.data_dir} and cannot be downloaded"
    way_on = "go online, or set TFDS_DATA_DIR to the folder that holds it"
    if trouble := _network_trouble():
        raise DataError(f"{absent}: {TFDS_HOST} does not answer ({trouble}); {way_on}")
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise DataError(f"{absent}: {_one_line(error)}; {way_on}") from error
    return builder


def _network_trouble():
    """Why TFDS' host gives no answer, found out within ANSWER_WITHIN seconds; None if it gives one."""
    answers = queue.SimpleQueue()

    def ask():
        try:
            # By the proxy, where there is one; an opener of its own, since urlopen's would be everybody's from now on.
            urllib.request.build_opener().open(TFDS_HOST).close()
        except urllib.error.HTTPError:
            answers.put(None)  # a refusal is an answer
        except Exception as error:
            answers.put(_one_line(getattr(error, "reason", error)))
        else:
            answers.put(None)

    threading.Thread(
        target=ask, daemon=True
    ).start()  # a name server or several addresses could each take as long
    try:
        return answers.get(timeout=ANSWER_WITHIN)
    except queue.Empty:
        return f"within {ANSWER_WITHIN} s"
