"""The exported files hold one model, for images of every size and mode, and replace no file."""

import threading
import time

import numpy as np
import pytest
from experiment_files import write_experiment
from image_files import encode
from PIL import Image
from scipy.special import softmax

import export
import features
import intervals
import model
import predict
from audit import audit
from cli import Refusal
from data import decode
from features import ShardTask
from results import HEAD, run_directory
from sources import Source, digest


@pytest.fixture
def experiment(tmp_path):
    """An audited experiment whose run has the head of no training."""
    experiment = write_experiment(tmp_path / "one", {"exp": [50, 51]})
    kernel, bias = model.initial_kernel(3, 0), np.array([0.1, 0, -0.1], np.float32)
    np.savez(run_directory(experiment, "exp", 0) / HEAD, kernel=kernel, bias=bias)
    return audit(experiment)


def make_images():
    """Return encoded images of several sizes, modes and formats."""
    random = np.random.default_rng(0)
    for mode, kind in (("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"),
                       ("P", "PNG"), ("I;16", "PNG"), ("RGB", "WEBP"), ("L", "BMP")):  # fmt: skip
        for width, height in ((150, 150), (301, 77), (20, 33)):
            small = Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8))
            image = small.resize((width, height))
            grey = image.convert("L")
            image = grey.convert("I").point(lambda x: x * 257) if mode == "I;16" else image
            yield encode(image.convert(mode), kind)


def test_both_files_say_what_the_features_of_training_say(experiment, tmp_path):
    paths = [tmp_path / "a.keras", tmp_path / "a.tflite"]
    export.export(experiment, intervals.rank(experiment), paths)
    (names, keras), (same_names, litert) = map(predict.load_model, paths)
    assert names == same_names == experiment.config.data.class_names
    images = list(make_images())
    count, recipe = len(images), (features.engine(), 96, "scale", "imagenet")
    record = tmp_path / "cache/shard.json"
    digests = list(map(digest, images))
    features.extract_shard(
        ShardTask(Source(images), range(count), [""] * count, digests, record, *recipe)
    )
    found = features.map_features(record.parent, (count, model.FEATURES))
    with np.load(run_directory(experiment.directory, "exp", 0) / HEAD) as head:
        expected = softmax(found @ head["kernel"] + head["bias"], axis=1)
    pixels = list(map(decode, images))
    np.testing.assert_allclose(list(map(litert, pixels)), expected, atol=2e-6)
    np.testing.assert_allclose(list(map(keras, pixels)), expected, atol=1e-4)
    assert np.ptp(expected, axis=0).max() > 0.1


def test_a_model_that_is_there_already_stays_and_another_file_is_refused(experiment, tmp_path):
    path = tmp_path / "a.keras"
    export.export(experiment, intervals.rank(experiment), [path])
    before = path.read_bytes()
    # As a resume does.
    export.export(experiment, intervals.rank(experiment), [path])
    assert path.read_bytes() == before
    path.write_bytes(b"another")
    with pytest.raises(Refusal, match=r"a\.keras exists and is not this exp.*; move it"):
        export.export(experiment, intervals.rank(experiment), [path])
    assert path.read_bytes() == b"another"


def test_a_damaged_head_is_named_with_what_to_do(experiment, tmp_path):
    head = run_directory(experiment.directory, "exp", 0) / HEAD
    whole = head.read_bytes()
    head.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Refusal, match=r"head\.npz cannot be read.*; remove .*seed-0, and"):
        export.export(experiment, intervals.rank(experiment), [tmp_path / "b.keras"])
    head.write_bytes(whole)


def test_of_two_exports_to_one_name_at_once_the_first_stays_and_the_second_is_refused(
    experiment, tmp_path
):
    path, temporary = tmp_path / "a.keras", tmp_path / ".one.a.keras"

    def write_first():
        while not temporary.exists():
            time.sleep(0.001)
        path.write_bytes(b"first")

    thread = threading.Thread(target=write_first)
    thread.start()
    with pytest.raises(Refusal, match=r"a\.keras exists"):
        export.export(experiment, intervals.rank(experiment), [path])
    thread.join()
    assert path.read_bytes() == b"first" and not temporary.exists()
