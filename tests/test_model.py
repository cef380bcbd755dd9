"""The parts of the model are what they claim to be, and weights are checked before they are used."""

import shutil

import h5py
import numpy as np
import pytest

import model

keras = pytest.importorskip("keras")
import tensorflow as tf  # noqa: E402


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(0)
    return [
        random.integers(0, 256, (1, *size, 3), dtype=np.uint8)
        for size in ((40, 60), (96, 96), (130, 20))
    ]


def test_backbone_is_frozen_and_gives_1280_features():
    backbone = model.backbone(32)
    assert not backbone.trainable_variables
    assert backbone.output_shape == (None, model.FEATURES)


def test_imagenet_weights_have_the_sha256_of_their_note():
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
    with pytest.raises(
        model.WeightsError, match=r"is not the file this project came with.*restore it"
    ):
        model.backbone(32)


@pytest.mark.parametrize("content", [b"", b"no weights at all", None])
def test_a_file_that_holds_no_such_weights_is_refused(tmp_path, content):
    path = tmp_path / "own.weights.h5"
    if content is None:
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(path)
    else:
        path.write_bytes(content)
    with pytest.raises(
        model.WeightsError, match=r"own\.weights\.h5 does not fit MobileNetV2"
    ) as refusal:
        model.backbone(32, path)
    assert "\n" not in str(refusal.value)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    own = keras.applications.MobileNetV2(input_shape=(32, 32, 3), include_top=False, weights=None)
    own.layers[1].set_weights([np.full_like(own.layers[1].get_weights()[0], np.nan)])
    own.save_weights(tmp_path / "own.weights.h5")
    with pytest.raises(model.WeightsError, match="not finite"):
        model.backbone(32, tmp_path / "own.weights.h5")


def test_random_weights_are_the_same_every_time_and_not_imagenet():
    first, second = (model.sha256(model.backbone(32, "random").get_weights()) for _ in range(2))
    assert first == second != model.IMAGENET_SHA256


def test_a_missing_weights_file_is_refused_without_loading_anything():
    with pytest.raises(model.WeightsError, match=r"none\.h5 cannot be read"):
        model.weights_key("none.h5")


def test_scaling_maps_0_to_minus_1_and_255_to_1():
    black_and_white = np.stack([np.zeros((9, 7, 3), np.uint8), np.full((9, 7, 3), 255, np.uint8)])
    scaled = model.preprocessing(32, "scale")(black_and_white).numpy()
    np.testing.assert_allclose(scaled[0], -1)
    np.testing.assert_allclose(scaled[1], 1, rtol=1e-6)


def test_standardizing_is_per_image_standardization(pictures):
    for picture in [*pictures, np.full((1, 8, 8, 3), 7, np.uint8)]:
        ours = model.preprocessing(48, "standardize")(picture).numpy()
        resized = tf.image.resize(picture, (48, 48))
        np.testing.assert_allclose(ours, tf.image.per_image_standardization(resized), atol=2e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_head_depends_on_its_seed_alone(seed):
    def weights(seed):
        head = keras.Sequential([keras.Input((model.FEATURES,)), *model.head_layers(3, 0.2, seed)])
        return head.get_weights()[0]

    np.testing.assert_array_equal(weights(seed), weights(seed))
    assert np.any(weights(seed) != weights(seed + 1))


@pytest.mark.parametrize("kind", model.PREPROCESSING)
def test_preprocessing_is_the_same_eagerly_and_in_a_graph(pictures, kind):
    prepare = model.preprocessing(48, kind)
    graph = tf.function(lambda image: prepare(image))
    for picture in pictures:
        eager = prepare(tf.constant(picture))
        assert eager.dtype == tf.float32
        np.testing.assert_allclose(eager, graph(tf.constant(picture)), atol=1e-5)
