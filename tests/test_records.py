"""TFRecord files and TFDS data sets, all made here: classes, order, damage, downloads."""

import gzip
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import PROJECT, run_python
from image_files import picture, read_all, refusal

import data
from runtime.tensorflow_setup import tf
from sources.decoding import decode
from sources.source import digest

IMAGE_KEY, LABEL_KEY, TEXT_KEY = "image/encoded", "image/class/label", "image/class/text"


def example(image, label, **others):
    """Return a serialized tf.train.Example of bytes and integers, or of lists of them."""
    features = tf.train.Features()
    for key, value in {IMAGE_KEY: image, LABEL_KEY: label, **others}.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        kind = "bytes_list" if isinstance([*values, b""][0], bytes) else "int64_list"
        if values:
            getattr(features.feature[key], kind).value.extend(values)
    return tf.train.Example(features=features).SerializeToString()


def examples(*labels, first=0, texts=None):
    pairs = enumerate(labels, first)
    return [example(picture(i), label, **{TEXT_KEY: texts and texts[label]}) for i, label in pairs]


@pytest.fixture
def records(tmp_path, monkeypatch):
    """Write a TFRecord file in the working directory, where there is one named test already."""
    monkeypatch.chdir(tmp_path)

    def write_records(name, content, compression=None):
        with tf.io.TFRecordWriter(name, compression) as file:
            for record in content:
                file.write(record)
        return Path(name)

    write_records("test", examples(0, 1, first=300))
    return write_records


FRUIT = {3: b"tulip", 7: b"daisy", 5: "käfer".encode()}
LABELS = {
    "1 to 6": ([1, 2, 3, 4, 5, 6], None, "1 2 3 4 5 6"),
    "10 after 9": ([10, 9, 0], None, "0 9 10"),
    "large": ([2**60, 1], None, f"1 {2**60}"),
    "named": ([7, 3, 5], FRUIT, "tulip käfer daisy"),
    "one name for two": ([7, 3], {3: b"tulip", 7: b"tulip"}, "3 7"),
    "one without a name": ([7, 3], {3: b"tulip", 7: None}, "3 7"),
}


@pytest.mark.parametrize("labels, texts, names", LABELS.values(), ids=LABELS)
def test_classes_are_the_integers_in_order_with_their_texts(records, labels, texts, names):
    records("train", examples(*labels, *labels, texts=texts))
    records("test", examples(*labels, first=50, texts=texts))
    dataset = data.load(train="train", test="test")
    assert dataset.class_names == names.split()
    assert [sorted(labels)[index] for index in dataset.labels] == labels * 3
    assert list(dataset.validation) == [False] * 2 * len(labels) + [True] * len(labels)
    assert dataset.names[-1] == f"test record {len(labels) - 1}"
    # A text that contradicts another is not a name.
    records("test", examples(*labels, first=50, texts=dict.fromkeys(labels, b"other")))
    digits = [str(label) for label in sorted(labels)]
    assert data.load(train="train", test="test").class_names == digits


def test_any_rows_are_read_again_from_another_folder_and_a_change_is_seen(records, tmp_path):
    records("train-1", examples(0, 1, 0))
    records("train-0", examples(1, 1, first=10))
    source = pickle.loads(pickle.dumps(data.load(train="train-?", test="test").source))
    os.chdir("/")
    images = [picture(number) for number in (10, 11, 0, 1, 2, 300, 301)]
    assert list(source.read(range(7))) == images
    assert list(source.subset([1, 3, 6]).read([0, 2])) == [images[1], images[6]]
    os.chdir(tmp_path)
    records("train-0", examples(0, 1, 0, first=77))
    Path("train-1").unlink()
    changed = list(source.read(range(7)))
    assert not set(changed[:2]) & set(images) and changed[5:] == images[5:]
    assert all(isinstance(image, OSError) for image in changed[2:5])


def flip(content, place):
    content[place] ^= 1
    return content


# The change, given the bytes of 40 records of one length; number of the first damaged record.
DAMAGE = {
    "in the first length": (lambda content, length: content[:5], 0),
    "in a length": (lambda content, length: content[: 35 * length + 7], 35),
    "flipped length": (lambda content, length: flip(content, 3 * length), 3),
    "flipped data": (lambda content, length: flip(content, 33 * length + 40), 33),
    "flipped last checksum": (lambda content, length: flip(content, len(content) - 1), 39),
    "gzip": (lambda content, length: gzip.compress(content), 0),
}


@pytest.mark.parametrize("change, number", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_named_with_its_first_damaged_record(records, change, number):
    path = records("train", examples(*[0, 1] * 20))
    content = bytearray(path.read_bytes())
    path.write_bytes(change(content, len(content) // 40))
    message = refusal(train="train", test="test")
    assert f": train cannot be read at record {number}: " in message
    assert message.endswith("; restore it, or unpack it if it is gzip")


def test_faults_of_a_files_records_are_told_once_with_their_count(records, tmp_path):
    image = picture(0)
    records("train-0", [example(None, None, id=number, other=image) for number in range(60)])
    records("train-1", [
        *examples(0, 1), example(image, [1, 2]), example(image, b"cat"),
        example(image, -3), example([image, image], 1), example(5, 1), b"",
        example(image, None, **{"odd\nkey": 1}), b"\xff" * 20, example(image, 1) + b"\xff",
    ])  # fmt: skip
    Path("test").write_bytes(b"nonsense, longer than a header")
    needed = f"needed are one image in {IMAGE_KEY} and one class from 0 in {LABEL_KEY}"
    needed += ", or --keys IMAGE,LABEL where they have other names"
    have = f"they have {LABEL_KEY}, {IMAGE_KEY}, odd\\nkey"
    assert refusal(train="train-*", test="test").split("\n  ")[:3] == [
        f"{tmp_path.name}: 3 problems",
        f"train-0: 60 of 60 records cannot be used (first: 0); they have id, other; {needed}",
        f"train-1: 9 of 11 records cannot be used (first: 2); {have}; {needed}",
    ]


def test_records_with_other_keys_are_read_by_them(records):
    pairs = enumerate([4, 1, 4, 1], 20)
    renamed = [example(None, None, photo=picture(i), kind=label) for i, label in pairs]
    records("train", renamed)
    records("test", renamed[:2])
    dataset = data.load(train="train", test="test", keys="photo,kind")
    assert dataset.class_names == ["1", "4"] and list(dataset.labels[:4]) == [1, 0, 1, 0]
    assert read_all(dataset)[:4] == [picture(i) for i in range(20, 24)]
    assert "they have kind, photo; needed are one image in image/enc" in refusal(
        train="train", test="test"
    )
    wrong = refusal(train="train", test="test", keys="image")
    assert wrong == "--keys must be IMAGE,LABEL, got 'image'"
    assert "--keys goes with --train and --test only" in refusal("digits", keys="photo,kind")


def test_an_empty_file_is_noted_and_globs_that_give_no_image_are_refused(records):
    records("train", examples(0, 1))
    records("empty", [])
    assert data.load(train="[te][rm]*", test="test").notes[:1] == ["empty is empty"]
    assert "at least two classes with images are" in refusal(train="empty", test="empty")
    assert refusal(train="x\0*", test="test") == "--train 'x\\x00*' matches no file"
    Path("folder").mkdir()
    assert refusal(train="train", test="fold*") == "--test 'fold*' matches no file"
    # As of a variable that is not set: never the digits.
    assert refusal(train="", test="") == "--train '' matches no file"


IMAGE_AND_LABEL = {
    "image": tfds.features.Image(encoding_format="png"),
    "label": tfds.features.ClassLabel(names=["wolf", "ant"]),
}


def prepare(name, features, file_format=None, **splits):
    """Store {split: [example]} as a real TFDS data set on disk."""
    features = tfds.features.FeaturesDict(features)
    splits = {split: list(enumerate(examples)) for split, examples in splits.items()}
    options = {"data_dir": os.environ["TFDS_DATA_DIR"], "file_format": file_format}
    tfds.dataset_builders.store_as_tfds_dataset(name, "1.0.0", features, splits, **options)


def arrays(*labels, first=0):
    images = (np.full((4, 5, 3), first + i, np.uint8) for i in range(len(labels)))
    return [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]


@pytest.fixture(scope="module", autouse=True)
def tfds_dir(tmp_path_factory):
    """The folder that TFDS looks into, with data sets of several kinds."""
    folder, train = tmp_path_factory.mktemp("tfds"), arrays("ant", "wolf", "ant", "wolf", "ant")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(folder))
        for kind, file_format in (("tiny", "tfrecord"), ("array", "array_record")):
            splits = {"train": train, "test": arrays("wolf", "ant", first=90)}
            prepare(f"{kind}_split", IMAGE_AND_LABEL, file_format, **splits)
            splits["test"] = arrays(-1, first=9)
            prepare(f"{kind}_unlabelled", IMAGE_AND_LABEL, file_format, **splits)
        prepare("tiny_odd", IMAGE_AND_LABEL, other=train)
        prepare("tiny_plain", {"x": tfds.features.Scalar(np.int64)}, train=[{"x": 1}])
        sparse = {**IMAGE_AND_LABEL, "label": tfds.features.ClassLabel(names=["c", "b", "a"])}
        prepare("tiny_sparse", sparse, train=arrays(*[2, 0] * 20))
        several = {"mask": tfds.features.Image(), "kind": tfds.features.ClassLabel(num_classes=9)}
        other = {"mask": np.zeros((4, 5, 3), np.uint8), "kind": 8}
        pets = [image | other for image in train]
        prepare("tiny_pets", IMAGE_AND_LABEL | several, train=pets)
        about = folder / "tiny_pets/1.0.0/dataset_info.json"
        items = [{"featureKey": "image"}, {"featureKey": "label"}]
        content = json.loads(about.read_text()) | {"supervisedKeys": {"tuple": {"items": items}}}
        about.write_text(json.dumps(content))
        yield folder


@pytest.mark.parametrize("name", ["tiny_split", "array_split"])
def test_label_and_name_of_each_image_are_the_data_sets_own(name):
    dataset = data.load(f"tfds:{name}")
    assert dataset.name == name and dataset.class_names == ["wolf", "ant"]
    values = [int(decode(encoded)[3, 4, 2]) for encoded in read_all(dataset)]
    # Value of the pixels, label, side.
    expected = {(0, 1, 0), (1, 0, 0), (2, 1, 0), (3, 0, 0), (4, 1, 0), (90, 0, 1), (91, 1, 1)}
    assert set(zip(values, dataset.labels, dataset.validation, strict=True)) == expected
    part = pickle.loads(pickle.dumps(dataset.source)).subset([1, 4, 6])
    some = [digest(encoded) for encoded in part.read(range(3))]
    assert some == [dataset.digests[row] for row in (1, 4, 6)]
    assert data.load(f"tfds:{name}").fingerprint == dataset.fingerprint


def test_a_class_without_images_keeps_its_output_and_is_noted():
    # Without a validation split the data set is split.
    dataset = data.load("tfds:tiny_sparse")
    assert min(dataset.counts()["a"]) > 0 and min(dataset.counts()["c"]) > 0
    assert dataset.class_names == ["c", "b", "a"] and set(dataset.labels) == {0, 2}
    assert dataset.notes[0] == "classes without images: b"
    assert len(dataset.without([3]).names) == 39


def test_of_several_images_and_labels_the_supervised_ones_are_taken():
    dataset = data.load("tfds:tiny_pets")
    assert dataset.class_names == ["wolf", "ant"]
    assert sorted(int(decode(image)[0, 0, 0]) for image in read_all(dataset)) == [*range(5)]


UNUSABLE = {
    "tiny_plain": "it has the features x and the splits train",
    "tiny_odd": "it has the features image, label and the splits other",
    "tiny_unlabelled": "1 of 1 records cannot be used",
    "array_unlabelled": "test example 0 has no label",
    "tf_flower": "cannot be prepared: Dataset tf_flower not found.; check the name, go online, or",
    "a\nb": "tfds:a\\nb is not in",
}


@pytest.mark.parametrize("name, reason", UNUSABLE.items(), ids=UNUSABLE)
def test_what_cannot_be_used_is_refused_in_one_line(name, reason):
    message = refusal(f"tfds:{name}")
    assert reason in message and "\n" not in message


@pytest.mark.parametrize("name", ["tiny_split", "array_split"])
def test_a_damaged_data_set_is_named_with_its_folder(tfds_dir, tmp_path, monkeypatch, name):
    shutil.copytree(tfds_dir / name, tmp_path / name)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    file = next(tmp_path.glob(f"{name}/1.0.0/*test.*"))
    content = bytearray(file.read_bytes())
    folder = str(tmp_path / name / "1.0.0")
    for damaged in (flip(content, 80), content[: len(content) // 2]):
        file.write_bytes(damaged)
        assert folder in refusal(f"tfds:{name}")
    file.unlink()
    assert folder in refusal(f"tfds:{name}")


@pytest.mark.parametrize("place", ["", "tiny_split", "tiny_split/1.0.0"])
def test_a_folder_that_tfds_prepared_says_how_it_is_used(tfds_dir, tmp_path, place):
    shutil.copytree(tfds_dir / "tiny_split", tmp_path / "tiny_split")
    use = f"it was prepared by TFDS; give --data tfds:tiny_split with TFDS_DATA_DIR={tmp_path}"
    assert refusal(tmp_path / place).endswith(use)


def test_a_package_that_is_missing_for_a_format_is_named():
    code = "import sys; sys.modules['array_record'] = None; import data"
    told = run_python("-c", f"{code}; data.load('tfds:array_split')").stderr
    last = told.splitlines()[-1]
    assert "Refusal" in last and "array_record" in last and "; install what is missing" in last


def test_a_download_is_announced_and_ends_at_ctrl_c(tmp_path):
    # A local address where nobody listens: TFDS tries again for minutes.
    proxy = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:1")
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path), **proxy}
    line = [sys.executable, PROJECT / "train.py", "--schedule", "exp", "--data", "tfds:tf_flowers"]
    options = {"env": environment, "cwd": tmp_path, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, **options) as process:
        announced = f"tfds:tf_flowers is not in {tmp_path}; downloading it"
        assert any(announced in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        assert "interrupted; repeat the command\n" in list(process.stderr)
        assert process.wait(20) == 130
