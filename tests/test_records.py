"""TFRecord files, plain and gzip: labels, order, damage at every place, and change while in use."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from image_files import classes, open_path, ordinary_user, picture, read_all, refusal, write

import data
from tensorflow_setup import tf

__all__ = ["open_path"]

IMAGE_KEY, LABEL_KEY = "image/encoded", "image/class/label"
NEEDED = f"needed are one encoded image in {IMAGE_KEY} and one integer in {LABEL_KEY}"


def feature(value):
    """Return a tf.train.Feature of a bytes, integer or float value, or of a list of them."""
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def example(image, label, **others):
    """Return a serialized tf.train.Example; None leaves a key out."""
    features = {IMAGE_KEY: image, LABEL_KEY: label, **others}
    filled = {key: feature(value) for key, value in features.items() if value is not None}
    return tf.train.Example(features=tf.train.Features(feature=filled)).SerializeToString()


def pairs(*labels, first=0):
    return [(picture(first + number), label) for number, label in enumerate(labels)]


@pytest.fixture
def records(tmp_path, monkeypatch):
    """Write a TFRecord file of (image, label) or bytes in the working directory."""
    monkeypatch.chdir(tmp_path)

    def write_records(name, content, compression=None):
        with tf.io.TFRecordWriter(name, compression) as file:
            for record in content:
                file.write(record if isinstance(record, bytes) else example(*record))
        return Path(name)

    return write_records


LABELS = {
    "1 to 6": ([1, 2, 3, 4, 5, 6], "1 2 3 4 5 6"),
    "3 and 7": ([7, 3], "3 7"),
    "10 after 9": ([10, 9, 0], "0 9 10"),
    "large": ([2**60, 1], f"1 {2**60}"),
}


@pytest.mark.parametrize("labels, names", LABELS.values(), ids=LABELS)
def test_classes_are_the_integers_in_ascending_order(records, labels, names):
    records("train", pairs(*labels, *labels))
    records("test", pairs(*labels, first=50))
    dataset = data.load(train="train", test="test")
    names = names.split()
    assert dataset.class_names == names
    assert [int(names[index]) for index in dataset.labels] == labels * 3
    assert list(dataset.validation) == [False] * 2 * len(labels) + [True] * len(labels)
    assert dataset.names[0] == "train record 0"
    assert dataset.names[-1] == f"test record {len(labels) - 1}"


@pytest.mark.parametrize("compression", [None, "GZIP"])
def test_any_rows_are_read_again_also_from_another_folder(records, tmp_path, compression):
    records("train-1", pairs(0, 1, 0), compression)
    records("train-0", pairs(1, 1, first=10))
    records("test", pairs(0, 1, first=20))
    dataset = data.load(train="train-?", test="test")
    assert dataset.source.sequential == bool(compression)
    source = pickle.loads(pickle.dumps(dataset.source))
    os.chdir("/")
    assert list(source.read(range(7))) == [picture(n) for n in (10, 11, 0, 1, 2, 20, 21)]
    assert list(source.read([1, 3, 4, 6])) == [picture(n) for n in (11, 1, 2, 21)]
    assert list(source.read([])) == []


def test_a_plain_file_that_begins_like_gzip_is_read(records):
    image = picture(0)
    missing = 0x8B1F - len(example(image, 0, padding=b""))
    padded = (example(image, 0, padding=b"x" * n) for n in range(missing - 20, missing + 1))
    record = next(record for record in padded if len(record) == 0x8B1F)
    path = records("train", [record, *pairs(1, first=1)])
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    records("test", pairs(0, 1, first=5))
    assert read_all(data.load(train="train", test="test"))[0] == image


def test_a_file_with_glob_characters_in_its_name_can_be_named(records):
    records("train[1]*", pairs(0, 1))
    records("test", pairs(0, 1, first=5))
    assert len(data.load(train="train[1]*", test="test").names) == 4


def test_records_and_folder_of_the_same_images_are_the_same(records, tmp_path):
    files = {**classes(5, 5, prefix="train/"), **classes(2, 2, prefix="val/")}
    folder = data.load(write(tmp_path / "pets", files))
    images = read_all(folder)
    for side, rows in (("train", ~folder.validation), ("test", folder.validation)):
        chosen = np.flatnonzero(rows)
        records(side, [(images[row], int(folder.labels[row])) for row in chosen])
    both = data.load(train="train", test="test")
    assert both.images_fingerprint == folder.images_fingerprint
    np.testing.assert_array_equal(both.labels, folder.labels)
    np.testing.assert_array_equal(both.validation, folder.validation)


# --- Damage ---------------------------------------------------------------------------------------


def flip(content, place):
    content[place] ^= 1
    return content


# The change, given the bytes of 40 records of one length; number of the first damaged record.
PLAIN = {
    "in the first length": (lambda content, length: content[:5], 0),
    "in the first record": (lambda content, length: content[: length // 2], 0),
    "in a length": (lambda content, length: content[: 35 * length + 7], 35),
    "in a record": (lambda content, length: content[: 35 * length + 13], 35),
    "last byte": (lambda content, length: content[:-1], 39),
    "flipped length": (lambda content, length: flip(content, 3 * length), 3),
    "flipped checksum of a length": (lambda content, length: flip(content, 33 * length + 9), 33),
    "flipped data": (lambda content, length: flip(content, 33 * length + 40), 33),
    "flipped last checksum": (lambda content, length: flip(content, len(content) - 1), 39),
    "an image": (lambda content, length: picture(0), 0),
}
PACKED = {
    "magic": lambda content: content[:3],
    "header": lambda content: content[:10],
    "half": lambda content: content[: len(content) // 2],
    "before the checksum": lambda content: content[:-9],
    "last byte": lambda content: content[:-1],
    "flipped data": lambda content: flip(content, len(content) // 2),
    "flipped checksum": lambda content: flip(content, len(content) - 6),
}


@pytest.mark.parametrize("change, number", PLAIN.values(), ids=PLAIN)
def test_a_damaged_file_is_named_with_its_first_damaged_record(records, change, number):
    path = records("train", pairs(*[0, 1] * 20))
    content = bytearray(path.read_bytes())
    path.write_bytes(change(content, len(content) // 40))
    records("test", pairs(0, 1, first=300))
    fault = f"train is damaged at record {number}, or not a TFRecord file; restore it"
    assert refusal(train="train", test="test").endswith(f": {fault}")


@pytest.mark.parametrize("change", PACKED.values(), ids=PACKED)
def test_a_damaged_gzip_file_is_noticed_wherever_it_is(records, change):
    path = records("train", pairs(*[0, 1] * 20), "GZIP")
    path.write_bytes(change(bytearray(path.read_bytes())))
    records("test", pairs(0, 1, first=300))
    assert "train is damaged at record " in refusal(train="train", test="test")


def test_each_kind_of_fault_of_a_file_is_told_once_with_its_count(records, tmp_path):
    image = picture(0)
    records("train-0", [example(image, None, id=number) for number in range(60)])
    records("train-1", [
        *pairs(0, 1, first=5), example(image, 1.0), example(image, [1, 2]), example(image, b"cat"),
        example(image, -3), example([image, image], 1), example(5, 1), example(None, None), b"",
        example(image, None, **{"odd\nkey": 1}), b"\xff" * 20,
    ])  # fmt: skip
    records("train-2", pairs(0, 1)).write_bytes(b"nonsense, longer than a header")
    records("test", [*pairs(0, 1, first=9), example(image, -1)])
    have = f"they have {LABEL_KEY}, {IMAGE_KEY}, odd\\nkey; {NEEDED}"
    no_id = f"they have id, {IMAGE_KEY}; {NEEDED}"
    assert refusal(train="train-*", test="test").split("\n  ") == [
        f"{tmp_path.name}: 9 problems",
        f"train-0: {LABEL_KEY} is missing in all 60 records; {no_id}",
        *(
            f"train-1: {fault} in {count} of 12 records (first: record {first}); {have}"
            for fault, count, first in (
                (f"{LABEL_KEY} is not one integer", 3, 2),
                (f"{LABEL_KEY} is negative", 1, 5),
                (f"{IMAGE_KEY} is not one encoded image", 2, 6),
                (f"{IMAGE_KEY} is missing", 2, 8),
                (f"{LABEL_KEY} is missing", 1, 10),
                ("the data are not a tf.train.Example", 1, 11),
            )
        ),
        "train-2 is damaged at record 0, or not a TFRecord file; restore it",
        f"test: {LABEL_KEY} is negative in 1 of 3 records (first: record 2); "
        f"they have {LABEL_KEY}, {IMAGE_KEY}; {NEEDED}",
    ]


def test_an_empty_file_is_noted_and_only_empty_ones_are_refused(records, tmp_path):
    records("train", pairs(0, 1))
    records("test", pairs(0, 1, first=5))
    records("nothing-0", [])
    assert data.load(train="[tn]*[n0]", test="test").notes == ["nothing-0 is empty"]
    message = refusal(train="nothing-?", test="nothing-?")
    assert message == f"{tmp_path.name} holds no images"


def test_globs_that_give_nothing_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    assert refusal(train="x*", test="file") == "--train 'x*' matches no file"
    assert refusal(train="file", test="fold*") == "--test 'fold*' matches no file"
    # As of a variable that is not set: never the digits.
    assert refusal(train="", test="") == "--train '' matches no file"
    assert refusal(train="nul\0*", test="file") == "--train 'nul\\x00*' matches no file"
    missing = "GLOB is missing; TFRecords need --train and --test"
    assert refusal(train="file") == f"--test {missing}"
    assert refusal(test="file") == f"--train {missing}"


def test_a_record_file_that_cannot_be_read_is_named(records, open_path, monkeypatch):
    for name in ("train", "test"):
        shutil.copy(records(name, pairs(0, 1)), open_path)
    monkeypatch.chdir(open_path)
    os.chmod("train", 0)
    with ordinary_user():
        message = refusal(train="train", test="test")
    assert message == f"{open_path.name}: train cannot be read: Permission denied"


def test_files_that_change_while_they_are_used_give_other_bytes_or_errors(records):
    content = pairs(0, 1, 0, 1)
    records("train", content)
    packed = records("test", content, "GZIP")
    dataset = data.load(train="train", test="test")
    records("train", pairs(0, 1, 0, first=77))
    shutil.copy("train", packed)
    changed = [data.digest(encoded) for encoded in read_all(dataset)]
    assert not set(changed) & set(dataset.digests)
    packed.unlink()
    assert all(isinstance(encoded, OSError) for encoded in dataset.source.read(range(4, 8)))
