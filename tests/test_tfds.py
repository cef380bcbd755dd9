"""TFDS data sets that are made here: labels, splits, formats, damage, and downloads that fail."""

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
from image_files import read_all, refusal

import data

PROJECT = Path(data.__file__).parent
IMAGE_AND_LABEL = {
    "image": tfds.features.Image(encoding_format="png"),
    "label": tfds.features.ClassLabel(names=["wolf", "ant"]),
}


def prepare(name, data_dir, features, splits, **options):
    """Store {split: [example]} as a real TFDS data set on disk."""

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            wanted = tfds.features.FeaturesDict(features)
            keys = ("image", "label") if "mask" in features else None
            return tfds.core.DatasetInfo(builder=self, features=wanted, supervised_keys=keys)

        def _split_generators(self, download_manager):
            return {split: enumerate(examples) for split, examples in splits.items()}

        def _generate_examples(self):
            raise AssertionError("the splits are given")

    Tiny.name = name
    Tiny(data_dir=data_dir, **options).download_and_prepare()


def examples(*labels, first=0):
    images = (np.full((4, 5, 3), first + i, np.uint8) for i in range(len(labels)))
    return [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """A TFDS data folder with data sets of several kinds."""
    folder = tmp_path_factory.mktemp("tfds")
    train = examples("ant", "wolf", "ant", "wolf", "ant")
    both = {"train": train, "test": examples("wolf", "ant", first=90)}
    unlabelled = {"train": train, "test": examples(-1, first=9)}
    for kind, options in (("tiny", {}), ("array", {"file_format": "array_record"})):
        prepare(f"{kind}_split", folder, IMAGE_AND_LABEL, both, **options)
        prepare(f"{kind}_unlabelled", folder, IMAGE_AND_LABEL, unlabelled, **options)
    prepare("tiny_odd", folder, IMAGE_AND_LABEL, {"other": train})
    prepare("tiny_plain", folder, {"x": tfds.features.Scalar(np.int64)}, {"train": [{"x": 1}]})
    mask = {"mask": np.zeros((4, 5, 3), np.uint8), "kind": 8}
    several = {"mask": tfds.features.Image(), "kind": tfds.features.ClassLabel(num_classes=9)}
    many = {"train": [{**each, **mask} for each in train]}
    prepare("tiny_pets", folder, {**IMAGE_AND_LABEL, **several}, many)
    sparse = {**IMAGE_AND_LABEL, "label": tfds.features.ClassLabel(names=["c", "b", "a"])}
    prepare("tiny_sparse", folder, sparse, {"train": examples(*[2, 0] * 20)})
    return folder


@pytest.fixture(autouse=True)
def tfds_data_dir(tfds_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_dir))


@pytest.mark.parametrize("name", ["tiny_split", "array_split"])
def test_label_and_name_of_each_image_are_the_data_sets_own(name):
    dataset = data.load(f"tfds:{name}")
    assert dataset.name == name and dataset.class_names == ["wolf", "ant"]
    values = [int(data.decode(encoded)[3, 4, 2]) for encoded in read_all(dataset)]
    # Value of the pixels, label, side.
    expected = {(0, 1, 0), (1, 0, 0), (2, 1, 0), (3, 0, 0), (4, 1, 0), (90, 0, 1), (91, 1, 1)}
    assert set(zip(values, dataset.labels, dataset.validation, strict=True)) == expected
    part = pickle.loads(pickle.dumps(dataset.source)).subset([1, 4, 6])
    some = [data.digest(encoded) for encoded in part.read(range(3))]
    assert some == [dataset.digests[row] for row in (1, 4, 6)]
    assert data.load(f"tfds:{name}").fingerprint == dataset.fingerprint


def test_a_class_without_images_keeps_its_output_and_is_noted():
    # Without a validation split the data set is split.
    dataset = data.load("tfds:tiny_sparse")
    assert min(dataset.counts()["a"]) > 0 and min(dataset.counts()["c"]) > 0
    assert dataset.class_names == ["c", "b", "a"] and set(dataset.labels) == {0, 2}
    assert dataset.notes == ["classes without images: b"]
    assert len(dataset.without([3]).names) == 39


def test_of_several_images_and_labels_the_supervised_ones_are_taken():
    dataset = data.load("tfds:tiny_pets")
    assert dataset.class_names == ["wolf", "ant"]
    values = [int(data.decode(encoded)[0, 0, 0]) for encoded in read_all(dataset)]
    assert sorted(values) == [0, 1, 2, 3, 4]


UNUSABLE = {
    "tiny_plain": "it has the features x and the splits train",
    "tiny_odd": " and the splits other",
    "tiny_unlabelled": "1 of 1 records cannot be used",
    "array_unlabelled": "test example 0 has no label",
    "tf_flower": "cannot be prepared: Dataset tf_flower not found.; check the name, go online, or",
    "mnist/no_such_config": "cannot be prepared: ",
    "tf_flowers:9.9.9": "cannot be prepared: ",
    "a\nb": "tfds:a\\nb is not in",
    "imagenet2012": "imagenet2012 is not in",
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
    content[80] ^= 1
    file.unlink()
    assert str(tmp_path / name / "1.0.0") in refusal(f"tfds:{name}")
    file.write_bytes(content)
    assert str(tmp_path / name / "1.0.0") in refusal(f"tfds:{name}")


def test_a_package_that_is_missing_for_a_format_is_named():
    code = "import sys; sys.modules['array_record'] = None; import data"
    line = [sys.executable, "-c", f"{code}; data.load('tfds:array_split')"]
    last = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True).stderr.splitlines()[-1]
    assert "DataError" in last and "array_record" in last and "; install what is missing" in last


def test_a_download_is_announced_and_ends_at_ctrl_c(tmp_path):
    # A local address where nobody listens: TFDS tries again for minutes.
    proxy = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:1")
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path), **proxy}
    line = [sys.executable, "-c", "import data; data.load('tfds:tf_flowers')"]
    options = {"env": environment, "cwd": PROJECT, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, **options) as process:
        announced = f"tfds:tf_flowers is not in {tmp_path}; downloading it"
        assert any(announced in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) != 0
