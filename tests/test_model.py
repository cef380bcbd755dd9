"""The parts of the model do what they say, and weights are verified before they are used."""

import warnings

import numpy as np
import pytest

import model
from runtime.messages import Refusal
from runtime.tensorflow_setup import keras, tf


def make_picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)


def test_the_backbone_is_frozen_and_its_weights_are_those_of_their_readme():
    backbone = model.backbone(model.Recipe(32, "scale", "imagenet"))
    assert not backbone.trainable_variables
    assert backbone.output_shape == (None, model.FEATURES)
    assert model.IMAGENET_SHA256 in (model.IMAGENET.parent / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "reason"), [(1e-3, "not the project's file"), (np.nan, "values that are not finite")]
)
def test_changed_weights_are_refused(tmp_path, monkeypatch, change, reason):
    backbone = model.backbone(model.Recipe(32, "scale", "imagenet"))
    backbone.weights[0].assign_add(np.full(backbone.weights[0].shape, change))
    backbone.save_weights(tmp_path / "changed.weights.h5")
    monkeypatch.setattr(model, "IMAGENET", tmp_path / "changed.weights.h5")
    with pytest.raises(Refusal, match=rf"changed\.weights\.h5 .*{reason}.*; restore"):
        model.backbone(model.Recipe(32, "scale", "imagenet"))


@pytest.mark.parametrize("content", [b"", b"no weights at all", "another model"])
def test_a_file_without_the_backbones_weights_is_refused(tmp_path, content):
    path = tmp_path / "own.weights.h5"
    if content == "another model":
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(path)
    else:
        path.write_bytes(content)
    with pytest.raises(Refusal, match=r"own\.weights\.h5 does not.*--weights.*\Z"):
        model.backbone(model.Recipe(32, "scale", str(path)))


def test_random_weights_are_the_same_every_time_and_not_imagenet():
    names = ("random", "random", "imagenet")
    recipes = [model.Recipe(32, "scale", name) for name in names]
    first, second, imagenet = (model.backbone(recipe).get_weights()[0] for recipe in recipes)
    np.testing.assert_array_equal(first, second)
    assert np.any(first != imagenet)


@pytest.mark.parametrize("kind", ["scale", "standardize"])
def test_preprocessing_is_that_of_tensorflow_eagerly_and_in_a_graph(kind):
    prepare = model.preprocessing(model.Recipe(48, kind, "imagenet"))
    graph = tf.function(lambda image: prepare(image))
    constant, nearly_constant = np.full((2, 1, 48, 48, 3), 7, np.uint8)
    nearly_constant[0, 5, 5, 0] = 8
    for picture in (make_picture(40, 60), make_picture(130, 20), constant, nearly_constant):
        resized = tf.image.resize(picture, (48, 48))
        standard = tf.image.per_image_standardization(resized)
        expected = standard if kind == "standardize" else resized / 127.5 - 1
        for ours in (prepare(picture), graph(picture)):
            np.testing.assert_allclose(ours, expected, atol=1e-5 * max(1, np.max(np.abs(expected))))


def test_a_head_begins_as_a_dense_layer_of_keras_with_that_seed():
    layer = keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(seed=5))
    layer.build((None, model.FEATURES))
    np.testing.assert_array_equal(model.initial_kernel(3, 5), layer.get_weights()[0])
    assert np.any(model.initial_kernel(3, 5) != model.initial_kernel(3, 6))


def test_the_saved_whole_loads_without_warnings_and_is_its_parts_one_after_another(tmp_path):
    kernel, bias = model.initial_kernel(3, 0), np.array([0.1, 0.2, 0.3], np.float32)
    recipe = model.Recipe(48, "standardize", "imagenet")
    whole = model.join_model(recipe, {"kernel": kernel, "bias": bias}, 0.2)
    whole.save(tmp_path / "a.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = keras.models.load_model(tmp_path / "a.keras")
    picture = make_picture(40, 60)
    pixels = model.preprocessing(recipe)(picture)
    logits = model.backbone(recipe)(pixels, training=False).numpy() @ kernel + bias
    np.testing.assert_allclose(loaded(picture), tf.nn.softmax(logits), atol=1e-6)
    assert loaded.inputs[0].dtype == "uint8"
    assert loaded.evaluate(picture, np.argmax(logits, -1), verbose=0)[1] == 1
