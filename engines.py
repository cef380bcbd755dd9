"""Engines pass images through preprocessing and backbone: LiteRT on processors, Keras on a GPU."""

import importlib.metadata
import importlib.util
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import model
from tensorflow_setup import tf

KERAS_BATCH = 64  # images that Keras passes at once; LiteRT is fastest with one
GRAPHS = ("preprocessing.tflite", "backbone.tflite")

# Takes pairs of a position and an image, uint8 (H, W, 3); yields position and features (1280,).
Engine = Callable[[Iterator[tuple[int, np.ndarray]]], Iterator[tuple[int, np.ndarray]]]


@dataclass(frozen=True)
class Recipe:
    """All that decides how an engine is built; picklable."""

    name: str  # as `engine` returns it
    image_size: int
    preprocessing: str
    weights: str
    directory: str  # of LiteRT's graphs


def engine() -> str:
    """Return what passes images here, with its version.

    It is LiteRT, or Keras where TensorFlow sees a GPU or LiteRT is not installed.
    """
    installed = importlib.util.find_spec("ai_edge_litert") is not None
    if installed and not tf.config.list_physical_devices("GPU"):
        return f"litert, {versions('ai-edge-litert')}"
    return f"keras, {versions('keras', 'tensorflow')}"


def make_graphs(recipe: Recipe) -> dict[str, bytes]:
    """Return the files that LiteRT's engines read from the recipe's directory, none for Keras.

    Raises model.WeightsError.
    """
    if not recipe.name.startswith("litert"):
        return {}
    graphs = model.litert_graphs(recipe.image_size, recipe.preprocessing, recipe.weights)
    return dict(zip(GRAPHS, graphs, strict=True))


def decoder() -> str:
    """Return what decodes images, with its version."""
    return versions("pillow", "simplejpeg")


def versions(*packages: str) -> str:
    """Return packages with their installed versions, in one line."""
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)


class _Thread(threading.local):
    """The engine of each thread, and its recipe."""

    recipe, built = None, None


_thread = _Thread()
_building = threading.Lock()


def thread_engine(recipe: Recipe) -> Engine:
    """Return this thread's own engine, which is built at its first call."""
    thread = _thread
    if thread.recipe != recipe:
        # One thread at a time: random weights depend on Keras' global seed.
        with _building:
            build = _litert_engine if recipe.name.startswith("litert") else _keras_engine
            thread.built, thread.recipe = build(recipe), recipe
    return thread.built


def drop_engines() -> None:
    """Free the memory of all threads' engines; threads that are using one keep it until then."""
    global _thread
    _thread = _Thread()


def _litert_engine(recipe: Recipe) -> Engine:
    """Return an engine for one core; its `invoke` releases the GIL."""
    # It is optional: Keras replaces it.
    from ai_edge_litert.interpreter import Interpreter

    graphs = [(Path(recipe.directory) / name).read_bytes() for name in GRAPHS]
    prepare, backbone = (Interpreter(model_content=graph, num_threads=1) for graph in graphs)
    backbone.allocate_tensors()
    (image_in, pixels_out), (pixels_in, features_out) = map(_ends, (prepare, backbone))

    def pass_images(images: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
        shape = None
        for position, image in images:
            if image.shape != shape:
                shape = image.shape
                prepare.resize_tensor_input(image_in, (1, *shape))
                prepare.allocate_tensors()
            prepare.set_tensor(image_in, image[None])
            prepare.invoke()
            # tensor() gives a view, get_tensor() would copy the pixels once more.
            backbone.set_tensor(pixels_in, prepare.tensor(pixels_out)())
            backbone.invoke()
            yield position, backbone.get_tensor(features_out)[0]

    return pass_images


def _ends(graph) -> tuple[int, int]:
    """Return the indices of an interpreter's only input and only output."""
    return graph.get_input_details()[0]["index"], graph.get_output_details()[0]["index"]


def _keras_engine(recipe: Recipe) -> Engine:
    prepare = model.preprocessing(recipe.image_size, recipe.preprocessing)
    backbone = model.backbone(recipe.image_size, recipe.weights)
    run = tf.function(lambda pixels: backbone(pixels, training=False), reduce_retracing=True)

    def pass_images(images: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
        prepared = ((position, prepare(image[None])) for position, image in images)
        while batch := list(itertools.islice(prepared, KERAS_BATCH)):
            positions, pixels = zip(*batch, strict=True)
            yield from zip(positions, run(tf.concat(pixels, 0)).numpy(), strict=True)

    return pass_images
