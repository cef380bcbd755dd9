"""The parts of the model do what they say, and weights are verified before they are used."""

import json
import shutil
import warnings
import zipfile

import h5py
import numpy as np
import pytest

import model
from tensorflow_setup import keras, tf


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(0)
    sizes = ((40, 60), (96, 96), (130, 20))
    return [random.integers(0, 256, (1, *size, 3), dtype=np.uint8) for size in sizes]


def test_backbone_is_frozen_and_gives_1280_features():
    backbone = model.backbone(32)
    assert not backbone.trainable_variables
    assert backbone.output_shape == (None, model.FEATURES)


def test_imagenet_weights_are_those_of_their_readme():
    assert model.sha256(model.backbone(32).get_weights()) == model.IMAGENET_SHA256
    assert model.IMAGENET_SHA256 in (model.IMAGENET.parent / "README.md").read_text()


def test_a_changed_weight_is_refused(tmp_path, monkeypatch):
    copy = tmp_path / model.IMAGENET.name
    shutil.copy(model.IMAGENET, copy)
    with h5py.File(copy, "r+") as file:
        arrays = []
        file.visititems(
            lambda _, item: arrays.append(item) if isinstance(item, h5py.Dataset) else None
        )
        arrays[0][...] = arrays[0][...] + np.float32(1e-3)
    monkeypatch.setattr(model, "IMAGENET", copy)
    with pytest.raises(model.WeightsError, match=r"is not the project's file.*restore it"):
        model.backbone(32)


@pytest.mark.parametrize("content", [b"", b"no weights at all", None, "another model"])
def test_a_file_without_the_backbones_weights_is_refused(tmp_path, content):
    path = tmp_path / "own.weights.h5"
    if content == "another model":
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(
        model.WeightsError, match=r"own\.weights\.h5 does not.*--weights"
    ) as refusal:
        model.backbone(32, str(path))
    assert "\n" not in str(refusal.value)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    own = keras.applications.MobileNetV2(input_shape=(32, 32, 3), include_top=False, weights=None)
    own.layers[1].set_weights([np.full_like(own.layers[1].get_weights()[0], np.nan)])
    own.save_weights(tmp_path / "own.weights.h5")
    with pytest.raises(model.WeightsError, match="not finite"):
        model.backbone(32, str(tmp_path / "own.weights.h5"))


def test_random_weights_are_the_same_every_time_and_not_imagenet():
    first, second = (model.sha256(model.backbone(32, "random").get_weights()) for _ in range(2))
    assert first == second != model.IMAGENET_SHA256


def test_the_key_of_weights_is_known_without_loading_them(tmp_path):
    shutil.copy(model.IMAGENET, tmp_path / "copy.weights.h5")
    assert model.weights_key(str(tmp_path / "copy.weights.h5")) == model.weights_key("imagenet")
    assert model.weights_key("random") != model.weights_key("imagenet")
    with pytest.raises(model.WeightsError, match=r"none\.h5: No such file.*--weights"):
        model.weights_key("none.h5")


def test_scaling_maps_0_to_minus_1_and_255_to_1():
    extremes = np.stack([np.zeros((9, 7, 3), np.uint8), np.full((9, 7, 3), 255, np.uint8)])
    scaled = model.preprocessing(32, "scale")(extremes).numpy()
    np.testing.assert_allclose(scaled[0], -1)
    np.testing.assert_allclose(scaled[1], 1, rtol=1e-6)


def test_standardizing_is_per_image_standardization_also_of_nearly_constant_images(pictures):
    constant, nearly = np.full((2, 1, 48, 48, 3), 7, np.uint8)
    nearly[0, 5, 5, 0] = 8
    for picture in [*pictures, constant, nearly]:
        ours = model.preprocessing(48, "standardize")(picture).numpy()
        theirs = tf.image.per_image_standardization(tf.image.resize(picture, (48, 48))).numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize("kind", model.PREPROCESSING)
def test_preprocessing_is_the_same_eagerly_and_in_a_graph(pictures, kind):
    prepare = model.preprocessing(48, kind)
    graph = tf.function(lambda image: prepare(image))
    for picture in pictures:
        eager = prepare(tf.constant(picture))
        assert eager.dtype == tf.float32
        np.testing.assert_allclose(eager, graph(tf.constant(picture)), atol=1e-5)


def test_a_head_begins_as_a_dense_layer_of_keras_with_that_seed():
    initializer = keras.initializers.GlorotUniform(seed=5)
    layer = keras.layers.Dense(3, kernel_initializer=initializer)
    layer.build((None, model.FEATURES))
    np.testing.assert_array_equal(model.initial_kernel(3, 5), layer.get_weights()[0])
    assert np.any(model.initial_kernel(3, 5) != model.initial_kernel(3, 6))


def test_the_saved_whole_loads_without_warnings_and_is_its_parts_one_after_another(
    pictures, tmp_path
):
    kernel, bias = model.initial_kernel(3, 0), np.array([0.1, 0.2, 0.3], np.float32)
    whole = model.joined(kernel, bias, 48, "standardize", "imagenet", 0.2)
    model.save_with_names(whole, tmp_path / "whole.keras", ["a", "b", "ü"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = keras.models.load_model(tmp_path / "whole.keras")
    pixels = model.preprocessing(48, "standardize")(pictures[0])
    logits = model.backbone(48)(pixels, training=False).numpy() @ kernel + bias
    np.testing.assert_allclose(loaded(pictures[0]), tf.nn.softmax(logits), atol=1e-6)
    assert loaded.evaluate(pictures[0], np.argmax(logits, -1), verbose=0)[1] == 1
    with zipfile.ZipFile(tmp_path / "whole.keras") as archive:
        assert json.loads(archive.read(model.CLASS_NAMES)) == ["a", "b", "ü"]
