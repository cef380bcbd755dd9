"""The model in its parts: preprocessing, frozen MobileNetV2 backbone, head; and the three joined for export.

uint8 (H, W, 3) --preprocessing--> float32 (S, S, 3) --backbone--> features (1280,) --head--> probabilities (C,)
"""

import hashlib
import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import quiet

FEATURES = 1280  # what MobileNetV2 gives for one image after pooling
IMAGENET = Path(__file__).parent / "weights" / "mobilenet_v2_1.0_224_imagenet.weights.h5"
# sha256 of all arrays in layer order as little-endian float32; the file may be written anew, the numbers may not.
IMAGENET_SHA256 = "c009b1f1262c1f55420ed4f95d0f338acb97548930c6f6c8f3383b79544088a8"
RANDOM_SEED = 0  # of a backbone without trained weights
CLASS_NAMES = (
    "class_names.json"  # the member of an exported .keras file that holds them, as a JSON list
)
PREPROCESSING = ("scale", "standardize")


class WeightsError(Exception):
    """The backbone's weights cannot be used; the message says what, where, and what to do."""


def weights_key(weights):
    """Return what identifies `imagenet`, `random` or a file of weights without TensorFlow: a sha256, or its recipe.

    Raises WeightsError where there is no such file.
    """
    if weights == "random":
        return f"random, seed {RANDOM_SEED}"
    path = IMAGENET if weights == "imagenet" else Path(weights)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        reason = f"{path} cannot be read: {error.strerror}"
        raise WeightsError(f"{reason}; --weights takes imagenet, random or a file") from None


def backbone(image_size, weights="imagenet"):
    """Return MobileNetV2 without its top, frozen, with average pooling: float32 (N, S, S, 3) -> (N, 1280).

    `weights`: `imagenet`, whose sha256 is checked; `random`; or a `.weights.h5` file of the same architecture.
    Raises WeightsError where they cannot be loaded or are not what they should be.
    """
    quiet.tensorflow()
    import keras

    if weights == "random":
        keras.utils.set_random_seed(RANDOM_SEED)
    shape = (image_size, image_size, 3)
    base = keras.applications.MobileNetV2(
        input_shape=shape, include_top=False, weights=None, pooling="avg"
    )
    base.trainable = False
    if weights == "random":
        return base
    path = IMAGENET if weights == "imagenet" else Path(weights)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "error"
            )  # Keras only warns of a layer that finds nothing in the file
            base.load_weights(path)
    except Exception as error:  # Keras raises ValueError, h5py OSError, KeyError and more
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path} does not fit MobileNetV2 without its top: {reason}") from error
    arrays = base.get_weights()
    if not all(np.isfinite(array).all() for array in arrays):
        raise WeightsError(f"{path} holds values that are not finite; restore the file")
    if weights == "imagenet" and sha256(arrays) != IMAGENET_SHA256:
        raise WeightsError(
            f"{path} is not the file this project came with (sha256 {sha256(arrays)}); restore it"
        )
    return base


def sha256(arrays):
    """Return the sha256 of arrays, flattened and concatenated as little-endian float32."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, "<f4"))
    return digest.hexdigest()


def preprocessing(image_size, kind="scale"):
    """Return the Keras model uint8 (N, H, W, 3) -> float32 (N, S, S, 3): bilinear resizing, then `kind`.

    `scale`: [-1, 1], what the ImageNet weights were trained with. `standardize`: each image to mean 0 and variance 1,
    as the report did with tf.image.per_image_standardization; LayerNormalization over a whole image is the same.
    """
    quiet.tensorflow()
    import keras

    # Float before resizing: on integers Keras resizes to integers when called eagerly, and to floats in a graph.
    factor, offset = (1 / 127.5, -1.0) if kind == "scale" else (1.0, 0.0)
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    pixels = keras.layers.Rescaling(factor, offset, name="scale")(image)
    pixels = keras.layers.Resizing(image_size, image_size, interpolation="bilinear", name="resize")(
        pixels
    )
    if kind == "standardize":
        smallest = 1 / (
            image_size * image_size * 3
        )  # tf.image.per_image_standardization's floor of the variance
        over = {"axis": [1, 2, 3], "epsilon": smallest, "center": False, "scale": False}
        pixels = keras.layers.LayerNormalization(**over, name="standardize")(pixels)
    return keras.Model(image, pixels, name="preprocessing")


def head_layers(classes, dropout, seed):
    """Return the trainable end, dropout and a dense softmax; initial weights and dropout depend on the seed alone."""
    quiet.tensorflow()
    import keras

    start = keras.initializers.GlorotUniform(seed=seed)
    return [
        keras.layers.Dropout(dropout, seed=seed, name="dropout"),
        keras.layers.Dense(
            classes, activation="softmax", kernel_initializer=start, name="probabilities"
        ),
    ]


def joined(layers, image_size, kind="scale", weights="imagenet"):
    """Return preprocessing, backbone and head layers as one compiled model: uint8 images -> probabilities (N, C)."""
    quiet.tensorflow()
    import keras

    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    pixels = preprocessing(image_size, kind)(image)
    output = backbone(image_size, weights)(pixels, training=False)
    for layer in layers:
        output = layer(output)
    model = keras.Model(image, output, name="classifier")
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="categorical_accuracy")
    model.compile(loss="sparse_categorical_crossentropy", metrics=[accuracy])
    return model


def save_with_names(model, path, class_names):
    """Save a model in Keras' own format, with `class_names.json` inside, in the order of its outputs."""
    model.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(CLASS_NAMES, json.dumps(class_names, ensure_ascii=False))


def litert_graphs(image_size, kind="scale", weights="imagenet"):
    """Return preprocessing and backbone as two LiteRT flatbuffers, for one image at a time.

    Two, so that an image of another size makes only the small first graph allocate its tensors anew.
    """
    tf = quiet.tensorflow()
    graphs = []
    parts = (
        (preprocessing(image_size, kind), tf.TensorSpec((1, None, None, 3), tf.uint8)),
        (backbone(image_size, weights), tf.TensorSpec((1, image_size, image_size, 3), tf.float32)),
    )
    for part, spec in parts:
        traced = tf.function(lambda x, part=part: part(x, training=False)).get_concrete_function(
            spec
        )
        # Without the model as second argument variables become constants; from_keras_model takes five times as long.
        with quiet.stderr():
            graphs.append(tf.lite.TFLiteConverter.from_concrete_functions([traced]).convert())
    return graphs
