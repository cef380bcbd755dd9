"""Files of random features, and the tasks that train on them."""

from dataclasses import replace

import numpy as np

import model
from features.shards import Rows, Samples, Store
from training.heads import Heads
from training.trainer import Task

RECIPE = model.Recipe(32, "scale", "imagenet")
RATES = {"a": [0.0, 1e-3, 2e-3], "b": [1e-3, 1e-3], "c": [3e-4, 1e-2, 1e-4]}


def make_task(folder, classes=6, count=330, **changes):
    """A task on random features of `count` images, whose last batches are smaller than the rest."""
    random = np.random.default_rng(classes)
    labels = np.arange(count, dtype=np.int32) % classes
    centres = random.normal(size=(classes, model.FEATURES))
    values = np.maximum(centres[labels] + random.normal(0, 3, (count, model.FEATURES)), 0)
    (values / 8).astype(np.float32).tofile(folder / "features.f32")
    train, validation = np.split(np.arange(count), [count * 2 // 3])
    samples = Samples(
        Rows(Store(folder, (model.FEATURES,)), count), labels, classes, train, validation
    )
    task = Task(Heads, samples, RECIPE, RATES, seed=0, batch_size=64, dropout=0.2)
    return replace(task, **changes)
