"""Trains all heads of one seed side by side: one matrix product serves all schedules and rates.

The heads of a seed share initial weights, order of images and dropout, so a batch (B, 1280) is
gathered once, gets dropout once, and is multiplied by all kernels, (1280, heads x classes). The
losses are summed, so each head gets the gradient it would get alone. A head's numbers do not
depend, to the last bit, on which heads are trained beside it.
"""

import math
from collections.abc import Hashable, Mapping

import numpy as np

import model
from runtime.tensorflow_setup import keras, tf
from storage.results import Outputs
from training.trainer import (
    PEAKS,
    VALIDATION_BATCH,
    Task,
    Training,
    chunks,
    drop_out,
    judge,
    map_rows,
)

# If a size does not fill the processor's blocks, its last rows or columns round differently. With
# these shapes a head has the same bits in a group of any width (measured with AVX2).
PADDED_FEATURES = 1296  # 1,280 + 16 zeros: a multiple of blocks of 4, 6, 8, 16, 24 and 48
MOST_PRODUCTS = 4096 * 64  # columns x rows of a batch


class ColumnAdam(keras.optimizers.Adam):
    """Adam with a rate for each column, which works because its step is linear in the rate."""

    def __init__(self, columns: int):
        super().__init__(learning_rate=1.0)
        self.column_rates = tf.Variable(tf.zeros(columns))

    def update_step(self, gradient, variable, learning_rate):
        """Update a variable (..., columns) as Adam does, each column at its own rate."""
        super().update_step(gradient, variable, learning_rate * self.column_rates)


class Heads:
    """A Trainer of heads on a frozen backbone."""

    # Heads cost little, so their grid is wide.
    START = PEAKS[PEAKS.index(1e-5) : PEAKS.index(1e-1) + 1]

    def __init__(self, task: Task, width: int):
        self._batch_size, self._dropout = task.batch_size, task.dropout
        self._heads, self._classes = width, task.samples.classes
        self._columns: dict[Hashable, int] = {}  # label -> its head, of those that still train
        # On the CPU also where a GPU passes the images, so that numbers do not depend on it.
        with tf.device("/CPU:0"):
            self._features = map_rows(task.samples)
            self._labels = tf.constant(task.samples.labels, tf.int32)
            self._kernel = keras.Variable(tf.zeros((PADDED_FEATURES, width * self._classes)))
            self._bias = keras.Variable(tf.zeros(width * self._classes))
            self._optimizer = ColumnAdam(width * self._classes)
            self._optimizer.build([self._kernel, self._bias])

    @classmethod
    def width(cls, task: Task) -> int:
        """Return how many heads fill whole blocks of columns."""
        unit = _fewest_heads(task.samples.classes)
        return math.ceil(len(task.rates) / unit) * unit

    @classmethod
    def split(cls, task: Task, labels: list, parts: int = 1) -> list[list]:
        """Split heads into `parts` groups, more if they are too wide, fewer if they are too few."""
        classes = task.samples.classes
        unit = _fewest_heads(classes)
        widest = max(1, MOST_PRODUCTS // (task.batch_size * classes * unit)) * unit
        size = min(widest, math.ceil(len(labels) / parts) or 1)
        return [labels[start : start + size] for start in range(0, len(labels), size)]

    def reset(self, seed: int, labels: list) -> None:
        """Give every head the initial weights of a seed, and forget Adam's moments."""
        self._seed, self._columns = np.int64(seed), {label: i for i, label in enumerate(labels)}
        self._labelled = dict(self._columns)
        for variable in (self._bias, *self._optimizer.variables):
            variable.assign(tf.zeros_like(variable))
        self._optimizer.learning_rate.assign(1.0)
        kernel = np.tile(model.initial_kernel(self._classes, seed), self._heads)
        self._kernel.assign(np.pad(kernel, [(0, PADDED_FEATURES - len(kernel)), (0, 0)]))

    def set_rates(self, rates: Mapping[Hashable, float]) -> None:
        """Set the rates of an epoch; ended heads, and those that only pad, have rate 0."""
        self._columns = {label: self._labelled[label] for label in rates}
        columns = np.zeros(self._heads)
        columns[list(self._columns.values())] = list(rates.values())
        self._optimizer.column_rates.assign(np.repeat(columns, self._classes))

    def train_epoch(self, rows: np.ndarray) -> dict[Hashable, Training]:
        """Train on rows in this order."""
        right, losses = (_sum_over_images(part) for part in self._train(rows, self._seed))
        used = self._optimizer.column_rates.numpy()[:: self._classes].tolist()
        means = (right / len(rows)).tolist(), (losses / len(rows)).tolist()
        return {
            label: Training(used[head], means[0][head], means[1][head])
            for label, head in self._columns.items()
        }

    def validate(self, rows: np.ndarray) -> dict[Hashable, Outputs]:
        """Return the outputs of rows."""
        parts = [[part.numpy() for part in self._validate(chunk)] for chunk in chunks(rows)]
        losses, predicted = (np.concatenate(part).T.copy() for part in zip(*parts, strict=True))
        labels = self._labels.numpy()[rows]
        return {
            label: Outputs(predicted[head], labels, losses[head])
            for label, head in self._columns.items()
        }

    def weights(self, label: Hashable) -> dict[str, np.ndarray]:
        """Return kernel (1280, classes) and bias (classes,) of a head."""
        begin = self._labelled[label] * self._classes
        own = slice(begin, begin + self._classes)
        kernel, bias = self._kernel.value[: model.FEATURES, own], self._bias.value[own]
        return {"kernel": kernel.numpy(), "bias": bias.numpy()}

    def _logits(self, x: tf.Tensor) -> tf.Tensor:
        """Return the logits of features (B, 1280) for all heads, (B, heads, classes)."""
        x = tf.pad(x, [[0, 0], [0, PADDED_FEATURES - x.shape[1]]])
        logits = x @ self._kernel.value + self._bias.value
        return tf.reshape(logits, (-1, self._heads, self._classes))

    def _judge(self, logits: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return losses float32 and classes int32, -1 where not finite, of rows: (B, heads)."""
        labels = tf.repeat(tf.gather(self._labels, rows)[:, None], self._heads, axis=1)
        return judge(logits, labels)

    @tf.function(reduce_retracing=True)
    def _train(self, rows: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Train on rows (N,); returns which were right, and losses, summed over batches."""
        size = tf.minimum(self._batch_size, tf.size(rows))
        # Place by place in the batch, because TensorFlow's sums over images depend on the width.
        right = losses = tf.zeros((size, self._heads), tf.float64)
        shape = tf.TensorShape([None, self._heads])  # for TensorFlow a size of 1 is another shape
        for start in tf.range(0, tf.size(rows), size):
            tf.autograph.experimental.set_loop_options(
                shape_invariants=[(right, shape), (losses, shape)]
            )
            batch = rows[start : start + size]
            x = tf.gather(self._features, batch)
            x = drop_out(x, self._dropout, seed, self._optimizer.iterations)
            with tf.GradientTape() as tape:
                found, predicted = self._judge(self._logits(x), batch)
                loss = tf.reduce_sum(tf.reduce_mean(found, axis=0))
            gradients = tape.gradient(loss, [self._kernel.value, self._bias.value])
            self._optimizer.apply(gradients, [self._kernel, self._bias])
            is_right = predicted == tf.gather(self._labels, batch)[:, None]
            missing = [[0, size - tf.size(batch)], [0, 0]]  # in the last batch
            right += tf.pad(tf.cast(is_right, tf.float64), missing)
            losses += tf.pad(tf.cast(found, tf.float64), missing)
        return right, losses

    @tf.function(reduce_retracing=True)
    def _validate(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return losses and classes of rows (N,): (N, heads) each."""
        options = {"size": 0, "dynamic_size": True, "infer_shape": False}
        options["element_shape"] = None, self._heads  # The last batch is smaller.
        losses = tf.TensorArray(tf.float32, **options)
        predicted = tf.TensorArray(tf.int32, **options)
        for start in tf.range(0, tf.size(rows), VALIDATION_BATCH):
            batch = rows[start : start + VALIDATION_BATCH]
            found = self._judge(self._logits(tf.gather(self._features, batch)), batch)
            losses = losses.write(losses.size(), found[0])
            predicted = predicted.write(predicted.size(), found[1])
        return losses.concat(), predicted.concat()


def _fewest_heads(classes: int) -> int:
    """The fewest heads that fill whole blocks of columns; groups are padded to a multiple."""
    return next(n for n in range(1, 49) if n * classes >= 48 and n * classes % 16 == 0)


def _sum_over_images(values: tf.Tensor) -> np.ndarray:
    """Sum values (B, heads) over images in an order that does not depend on heads: (heads,)."""
    return np.ascontiguousarray(values.numpy().T).sum(axis=-1)
