"""What passes images through the backbone: LiteRT, an interpreter for each thread, or Keras."""

import contextlib
import importlib.metadata
import itertools
import threading
from collections.abc import Iterator

import numpy as np

import model
from features import litert
from model import Recipe
from runtime.tensorflow_setup import tf

KERAS_BATCH = 64  # images that Keras passes at once; LiteRT is fastest with one

Images = Iterator[tuple[int, np.ndarray]]  # number of a row, and its uint8 (H, W, 3)
Outputs = Iterator[tuple[int, list[np.ndarray]]]  # likewise, and an array for each output


class LiteRTEngine:
    """Passes images one by one, in any number of threads."""

    def __init__(self, recipe: Recipe):
        # Two graphs: an image of another size makes only the small first one allocate again.
        parts = model.preprocessing(recipe), model.front(recipe)
        self._graphs = [model.convert(part) for part in parts]
        self._thread = threading.local()

    def pass_images(self, images: Images) -> Outputs:
        """Yield the arrays of `recipe.outputs` for images, float32."""
        if not hasattr(self._thread, "graphs"):
            self._thread.graphs = [litert.Graph(content) for content in self._graphs]
        prepare, backbone = self._thread.graphs
        for row, image in images:
            # LiteRT does not run while a view of its memory has a name.
            yield row, [output[0].copy() for output in backbone.run(prepare.run(image[None])[0])]


class KerasEngine:
    """Passes images in batches, on a GPU where there is one."""

    def __init__(self, recipe: Recipe):
        self._prepare, backbone = model.preprocessing(recipe), model.front(recipe)
        self._run = tf.function(
            lambda x: tf.nest.flatten(backbone(x, training=False)), reduce_retracing=True
        )

    def pass_images(self, images: Images) -> Outputs:
        """Yield the arrays of `recipe.outputs` for images, float32."""
        prepared = ((row, self._prepare(image[None])) for row, image in images)
        while batch := list(itertools.islice(prepared, KERAS_BATCH)):
            rows, pixels = zip(*batch, strict=True)
            outputs = [output.numpy() for output in self._run(tf.concat(pixels, 0))]
            yield from zip(rows, zip(*outputs, strict=True), strict=True)


class Engines:
    """The engines of this process, each built once and shared by all threads."""

    def __init__(self):
        self._lock, self._built = threading.Lock(), {}

    def find(self, kind: str, recipe: Recipe) -> LiteRTEngine | KerasEngine:
        """Return the engine of a kind, as `engine` names it, for a recipe."""
        # The lock lets one thread build an engine, which takes seconds; the others reuse it.
        with self._lock:
            if (kind, recipe) not in self._built:
                build = LiteRTEngine if kind.startswith("litert") else KerasEngine
                self._built[kind, recipe] = build(recipe)
            return self._built[kind, recipe]

    def close(self) -> None:
        """Free the engines, because training needs their memory."""
        self._built.clear()


# One for each process, because a worker of a cluster gets a new task for every few images.
ENGINES = Engines()


def engine() -> str:
    """Return what passes images, with its version: Keras with a GPU or without LiteRT."""
    if not tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"litert, {versions('ai-edge-litert')}"
    return f"keras, {versions('keras', 'tensorflow')}"


def versions(*packages: str) -> str:
    """Return packages with their versions, for people and for keys."""
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
