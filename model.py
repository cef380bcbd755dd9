"""The model in its parts: preprocessing, frozen MobileNetV2 backbone, head; and all three in one.

uint8 (H, W, 3) --preprocessing--> float32 (S, S, 3) --backbone--> (1280,) --head--> (classes,)
"""

import hashlib
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from runtime import files
from runtime.messages import Refusal, describe
from runtime.tensorflow_setup import keras, tf

FEATURES = 1280  # numbers that MobileNetV2 gives for one image after pooling
IMAGENET = Path(__file__).parent / "weights" / "mobilenet_v2_1.0_224_imagenet.weights.h5"
# Of the arrays, not of the file: another HDF5 file may hold the same numbers.
IMAGENET_SHA256 = "c009b1f1262c1f55420ed4f95d0f338acb97548930c6f6c8f3383b79544088a8"
# In front of block_1 to block_16: how often the sides were halved, and channels (Sandler et al.
# 2018, MobileNetV2, table 2).
HALVINGS = [1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5]
CHANNELS = [16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160]
WAY_ON = "--weights takes imagenet, random or a file"


@dataclass(frozen=True)
class Recipe:
    """How an image becomes the numbers that are trained on."""

    image_size: int  # side in pixels
    preprocessing: str  # scale or standardize
    weights: str  # imagenet, random or a file
    cut: str | None = None  # the block in front of which it ends; None: the pooled features

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one image's numbers."""
        if self.cut is None:
            return (FEATURES,)
        number = int(self.cut.removeprefix("block_")) - 1
        side = self.image_size
        for _ in range(HALVINGS[number]):
            side = -(-side // 2)
        return side, side, CHANNELS[number]

    @property
    def outputs(self) -> list["Recipe"]:
        """The recipes that one pass of an image serves; the pooled features are the last."""
        return [self] if self.cut is None else [self, replace(self, cut=None)]


def weights_key(weights: str) -> str:
    """Return what identifies weights: the file's sha256, or `random`; raises Refusal."""
    if weights == "random":
        return weights
    path = IMAGENET if weights == "imagenet" else Path(weights)
    try:
        return files.hash_file(path)
    except OSError as error:
        raise Refusal(f"{describe(error, path)}; {WAY_ON}") from None


def backbone(recipe: Recipe) -> keras.Model:
    """Return the frozen MobileNetV2 without its top: float32 (N, S, S, 3) -> (N, 1280).

    Its weights are `imagenet`, whose sha256 is verified, `random`, or a `.weights.h5` file of the
    same architecture. Raises Refusal.
    """
    size, weights = recipe.image_size, recipe.weights
    if weights == "random":
        keras.utils.set_random_seed(0)
    base = keras.applications.MobileNetV2(
        input_shape=(size, size, 3), include_top=False, weights=None, pooling="avg"
    )
    base.trainable = False
    if weights == "random":
        return base
    path = IMAGENET if weights == "imagenet" else Path(weights)
    try:
        with warnings.catch_warnings():
            # Keras only warns of a layer that it does not find in the file.
            warnings.simplefilter("error")
            base.load_weights(path)
    # Keras raises ValueError and its own warnings, h5py OSError, KeyError, RuntimeError and more.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise Refusal(f"{path} does not fit MobileNetV2 ({reason}); {WAY_ON}") from error
    arrays = base.get_weights()
    if not all(np.isfinite(array).all() for array in arrays):
        raise Refusal(f"{path} holds values that are not finite; restore the file")
    found = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
    if weights == "imagenet" and found != IMAGENET_SHA256:
        raise Refusal(f"{path} is not the project's file (sha256 {found}); restore it")
    return base


def front(recipe: Recipe) -> keras.Model:
    """Return the frozen backbone with an output for each of `recipe.outputs`; raises Refusal."""
    base = backbone(recipe)
    if recipe.cut is None:
        return base
    return keras.Model(base.input, [base.get_layer(f"{recipe.cut}_expand").input, base.output])


def tail(recipe: Recipe) -> keras.Model:
    """Return the rest of the backbone, to be trained: float32 (N, *recipe.row_shape) -> (N, 1280).

    Convolution kernels, and gamma and beta of BatchNorm are its trainable variables. Its moving
    statistics stay as they are if it is called with training=False. Raises Refusal.
    """
    base = backbone(recipe)
    rest = keras.Model(base.get_layer(f"{recipe.cut}_expand").input, base.output)
    for layer in rest.layers:
        layer.trainable = True
    return rest


def preprocessing(recipe: Recipe) -> keras.Model:
    """Return the model uint8 (N, H, W, 3) -> float32 (N, S, S, 3): bilinear resizing, then scaling.

    `scale`: to [-1, 1], as the ImageNet weights were trained. `standardize`: each image to mean 0
    and variance 1, as tf.image.per_image_standardization.
    """
    size, kind = recipe.image_size, recipe.preprocessing
    factor, offset = (1 / 127.5, -1.0) if kind == "scale" else (1.0, 0.0)
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    # To float before resizing: Keras resizes integers to integers eagerly, to floats in a graph.
    pixels = keras.layers.Rescaling(factor, offset, name="scale")(image)
    pixels = keras.layers.Resizing(size, size, "bilinear", name="resize")(pixels)
    if kind == "standardize":
        # Operations of Keras, not a layer of our own: an exported model loads without this module.
        pixels -= keras.ops.mean(pixels, axis=(1, 2, 3), keepdims=True)
        variance = keras.ops.mean(keras.ops.square(pixels), axis=(1, 2, 3), keepdims=True)
        # The floor keeps the noise of a nearly constant image small.
        pixels /= keras.ops.sqrt(keras.ops.maximum(variance, 1 / (size * size * 3)))
    return keras.Model(image, pixels, name="preprocessing")


def initial_kernel(classes: int, seed: int) -> np.ndarray:
    """Return a head's kernel before training, float32 (1280, classes), as Keras' Dense makes it."""
    return np.asarray(keras.initializers.GlorotUniform(seed)((FEATURES, classes)))


def join_model(recipe: Recipe, weights: dict[str, np.ndarray], dropout: float) -> keras.Model:
    """Return preprocessing, backbone and head in one: uint8 (N, H, W, 3) -> float32 (N, classes).

    `weights` are all that was trained: kernel (1280, classes) and bias of the head, and of the
    backbone what a tail trained, by path. The outputs are probabilities. Raises Refusal.
    """
    head = keras.layers.Dense(len(weights["bias"]), activation="softmax", name="probabilities")
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    base = backbone(recipe)
    for variable in base.variables:
        if variable.path in weights:
            variable.assign(weights[variable.path])
    layers = image, preprocessing(recipe), base, keras.layers.Dropout(dropout), head
    model = keras.Sequential(layers, name="classifier")
    head.set_weights([weights["kernel"], weights["bias"]])
    model.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    # Loading a model whose optimizer was not built gives a warning.
    model.optimizer.build(model.trainable_variables)
    return model


def convert(part: keras.Model, half: bool = False) -> bytes:
    """Return a model of images as a LiteRT flatbuffer, for one image at a time.

    `half`: its weights are stored as float16, and computed with as float32.
    """
    kinds = part.trainable_variables, part.non_trainable_variables
    weights = [[variable.numpy() for variable in kind] for kind in kinds]
    function = tf.function(lambda x: part.stateless_call(*weights, x, training=False)[0])
    shape, dtype = part.inputs[0].shape[1:], part.inputs[0].dtype
    traced = function.get_concrete_function(tf.TensorSpec((1, *shape), dtype))
    # The weights are constants already. TensorFlow 2's converter would look for variables, which
    # takes longer than the conversion and gives the same numbers.
    graph = traced.graph.as_graph_def()
    converter = tf.compat.v1.lite.TFLiteConverter(graph, traced.inputs, traced.outputs)
    if half:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()
