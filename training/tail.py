"""Fine-tunes the last blocks of the backbone with the head, on cached activations before them.

The layers are Keras' own, called with training=False: BatchNorm keeps the statistics of its weights
file, while gamma and beta are trained. `model(x, training=False)` under a tape is the only way that
does both (keras-team/keras #20285).
"""

from collections.abc import Hashable, Mapping

import numpy as np

import model
from runtime.tensorflow_setup import keras, tf
from storage.results import Outputs
from training.trainer import (
    VALIDATION_BATCH,
    Task,
    Training,
    chunks,
    drop_out,
    judge,
    map_rows,
)


class Tail:
    """A Trainer of one schedule at a time; what is trained is large enough to fill a core."""

    START = (2e-4, 5e-4, 1e-3)

    def __init__(self, task: Task, width: int):
        self._batch_size, self._dropout = task.batch_size, task.dropout
        self._classes = task.samples.classes
        self._rows = map_rows(task.samples)
        self._labels = tf.constant(task.samples.labels, tf.int32)
        self._tail = model.tail(task.recipe)
        self._kernel = keras.Variable(tf.zeros((model.FEATURES, self._classes)), name="kernel")
        self._bias = keras.Variable(tf.zeros(self._classes), name="bias")
        self._pretrained = [variable.numpy() for variable in self._tail.trainable_variables]
        self._trained = [*self._tail.trainable_variables, self._kernel, self._bias]
        self._optimizer = keras.optimizers.Adam()
        self._optimizer.build(self._trained)

    @classmethod
    def width(cls, task: Task) -> int:
        """Return 1: schedules do not share what is trained."""
        return 1

    @classmethod
    def split(cls, task: Task, labels: list, parts: int = 1) -> list[list]:
        """Return a group for each schedule, so that they go to different cores."""
        return [[label] for label in labels]

    def reset(self, seed: int, labels: list) -> None:
        """Return to the pretrained blocks and to the head of a seed, and forget Adam's moments."""
        self._seed, (self._label,) = np.int64(seed), labels
        for variable in self._optimizer.variables:
            variable.assign(tf.zeros_like(variable))
        initial = [*self._pretrained, model.initial_kernel(self._classes, seed)]
        for variable, value in zip(self._trained, [*initial, np.zeros(self._classes)], strict=True):
            variable.assign(value)

    def set_rates(self, rates: Mapping[Hashable, float]) -> None:
        """Set the rate of an epoch, one for all that is trained."""
        self._optimizer.learning_rate.assign(rates[self._label])

    def train_epoch(self, rows: np.ndarray) -> dict[Hashable, Training]:
        """Train on rows in this order."""
        right, losses = (float(total) / len(rows) for total in self._train(rows, self._seed))
        used = float(self._optimizer.learning_rate.numpy())
        return {self._label: Training(used, right, losses)}

    def validate(self, rows: np.ndarray) -> dict[Hashable, Outputs]:
        """Return the outputs of rows."""
        parts = [[part.numpy() for part in self._validate(chunk)] for chunk in chunks(rows)]
        losses, predicted = (np.concatenate(part) for part in zip(*parts, strict=True))
        return {self._label: Outputs(predicted, self._labels.numpy()[rows], losses)}

    def weights(self, label: Hashable) -> dict[str, np.ndarray]:
        """Return all that was trained, by its path in the model."""
        return {variable.path: variable.numpy() for variable in self._trained}

    def _logits(self, rows: tf.Tensor, dropout: float = 0.0, seed: int = 0) -> tf.Tensor:
        """Return the logits of rows, (B, classes)."""
        features = self._tail(tf.gather(self._rows, rows), training=False)
        features = drop_out(features, dropout, seed, self._optimizer.iterations)
        return features @ self._kernel.value + self._bias.value

    @tf.function(reduce_retracing=True)
    def _train(self, rows: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Train on rows (N,); returns how many were right, and the sum of losses."""
        right = losses = tf.zeros((), tf.float64)
        for start in tf.range(0, tf.size(rows), self._batch_size):
            batch = rows[start : start + self._batch_size]
            labels = tf.gather(self._labels, batch)
            with tf.GradientTape() as tape:
                found, predicted = judge(self._logits(batch, self._dropout, seed), labels)
                loss = tf.reduce_mean(found)
            gradients = tape.gradient(loss, [variable.value for variable in self._trained])
            self._optimizer.apply(gradients, self._trained)
            right += tf.reduce_sum(tf.cast(predicted == labels, tf.float64))
            losses += tf.reduce_sum(tf.cast(found, tf.float64))
        return right, losses

    @tf.function(reduce_retracing=True)
    def _validate(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return losses and classes of rows (N,)."""
        losses = tf.TensorArray(tf.float32, 0, True, infer_shape=False, element_shape=(None,))
        predicted = tf.TensorArray(tf.int32, 0, True, infer_shape=False, element_shape=(None,))
        for start in tf.range(0, tf.size(rows), VALIDATION_BATCH):
            batch = rows[start : start + VALIDATION_BATCH]
            found = judge(self._logits(batch), tf.gather(self._labels, batch))
            losses = losses.write(losses.size(), found[0])
            predicted = predicted.write(predicted.size(), found[1])
        return losses.concat(), predicted.concat()
