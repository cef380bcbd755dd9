"""Trains all heads of one seed side by side: one matrix product serves all schedules and rates.

The heads of a seed share initial weights, order of images and dropout, so a batch (B, 1280) is
gathered once, gets dropout once, and is multiplied by all kernels, (1280, heads x classes). The
losses are summed, so each head gets the gradient it would get alone. A head's numbers do not
depend, to the last bit, on which heads are trained beside it.
"""

import math
import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import numpy as np

import model
from features.cache import Samples
from runtime.tensorflow_setup import keras, tf
from storage.results import Outputs

# If a size does not fill the processor's blocks, its last rows or columns round differently. With
# these shapes a head has the same bits in a group of any width (measured with AVX2).
PADDED_FEATURES = 1296  # 1,280 + 16 zeros: a multiple of blocks of 4, 6, 8, 16, 24 and 48
MOST_PRODUCTS = 4096 * 64  # columns x rows of a batch
VALIDATION_BATCH = 64  # rows; any other number would round differently, too
CHUNK = 64 * VALIDATION_BATCH  # images whose outputs are in memory at once


@dataclass(frozen=True)
class HeadsTask:
    """One seed and the heads to train with it."""

    samples: Samples
    rates: Mapping[Hashable, list[float]]  # name of a head -> its rate in every epoch
    seed: int
    batch_size: int
    dropout: float


@dataclass(frozen=True)
class EpochMetrics:
    """What is logged of a head after an epoch, with the names of events.CURVES."""

    rate: float  # as the optimizer used it
    accuracy: float
    loss: float
    val_accuracy: float
    val_loss: float


@dataclass(frozen=True)
class Head:
    """A head after its last epoch."""

    metrics: EpochMetrics
    kernel: np.ndarray  # (1280, C) float32
    bias: np.ndarray  # (C,) float32
    outputs: Outputs  # of the validation images


class ColumnAdam(keras.optimizers.Adam):
    """Adam with a rate for each column, which works because its step is linear in the rate."""

    def __init__(self, columns: int):
        super().__init__(learning_rate=1.0)
        self.column_rates = tf.Variable(tf.zeros(columns))

    def update_step(self, gradient, variable, learning_rate):
        """Update a variable (..., columns) as Adam does, each column at its own rate."""
        super().update_step(gradient, variable, learning_rate * self.column_rates)


def order(seed: int, epoch: int, rows: np.ndarray) -> np.ndarray:
    """Return the rows in the order in which an epoch of a seed trains on them, for all heads."""
    return np.random.default_rng([seed, epoch]).permutation(rows).astype(np.int32)


def split_heads(labels: list, classes: int, batch_size: int, parts: int = 1) -> list[list]:
    """Split heads into `parts` groups; more if they are too wide, fewer if there are too few."""
    unit = _fewest_heads(classes)
    widest = max(1, MOST_PRODUCTS // (batch_size * classes * unit)) * unit
    size = min(widest, math.ceil(len(labels) / parts) or 1)
    return [labels[start : start + size] for start in range(0, len(labels), size)]


def _fewest_heads(classes: int) -> int:
    """The fewest heads that fill whole blocks of columns; groups are padded to a multiple."""
    return next(n for n in range(1, 49) if n * classes >= 48 and n * classes % 16 == 0)


def drop_out(x: tf.Tensor, rate: float, seed: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    """Return x float32 (B, M), M even, with numbers set to 0 at a rate and the rest scaled up.

    Each number takes 16 random bits, so the rate is exact to 1 / 65,536; Keras draws 32, and
    drawing dominates an epoch. What is dropped depends on seed and step alone.
    """
    limit = min(round(rate * 2**16), 2**16 - 1)
    if not limit:
        return x
    half = [tf.shape(x)[0], x.shape[1] // 2]
    key = tf.stack([seed, tf.cast(step, tf.int64)])
    bits = tf.random.stateless_uniform(half, key, None, None, tf.uint32, alg="philox")
    bits = tf.reshape(tf.bitcast(bits, tf.uint16), tf.shape(x))  # (B, M/2) -> (B, M/2, 2) -> (B, M)
    return x * (tf.cast(bits >= limit, tf.float32) * (2**16 / (2**16 - limit)))


class Trainer:
    """The variables and the traced graphs of a group of heads, used again for every seed."""

    def __init__(self, task: HeadsTask, heads: int):
        self.batch_size, self.dropout = task.batch_size, task.dropout
        self.heads, self.classes = heads, task.samples.classes
        columns = heads * self.classes
        # On the CPU also where a GPU passes the images, so that numbers do not depend on it.
        with tf.device("/CPU:0"):
            features = task.samples.map().__dlpack__()
            self.features = tf.experimental.dlpack.from_dlpack(features)  # not copied
            self.labels = tf.constant(task.samples.labels, tf.int32)
            self.kernel = keras.Variable(tf.zeros((PADDED_FEATURES, columns)))
            self.bias = keras.Variable(tf.zeros(columns))
            self.optimizer = ColumnAdam(columns)
            self.optimizer.build([self.kernel, self.bias])

    def reset(self, seed: int) -> None:
        """Give every head the initial weights of a seed, and forget Adam's moments."""
        for variable in (self.bias, *self.optimizer.variables):
            variable.assign(tf.zeros_like(variable))
        self.optimizer.learning_rate.assign(1.0)
        kernel = np.tile(model.initial_kernel(self.classes, seed), self.heads)
        self.kernel.assign(np.pad(kernel, [(0, PADDED_FEATURES - len(kernel)), (0, 0)]))

    def _outputs(self, rows: tf.Tensor, dropout: float = 0.0, seed: int = 0) -> tf.Tensor:
        """Return 1 where right, losses, classes (-1: not finite) of rows: float32 (B, 3, heads)."""
        x = drop_out(tf.gather(self.features, rows), dropout, seed, self.optimizer.iterations)
        x = tf.pad(x, [[0, 0], [0, PADDED_FEATURES - x.shape[1]]])
        logits = tf.reshape(x @ self.kernel.value + self.bias.value, (-1, self.heads, self.classes))
        labels = tf.repeat(tf.gather(self.labels, rows)[:, None], self.heads, axis=1)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
        predicted = tf.where(tf.math.is_finite(losses), predicted, -1)
        right, predicted = tf.cast(predicted == labels, tf.float32), tf.cast(predicted, tf.float32)
        return tf.stack([right, losses, predicted], axis=1)

    @tf.function(reduce_retracing=True)
    def train_epoch(self, rows: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Train on rows (N,) in this order and sum up the batches' outputs, (B, 3, heads)."""
        size = tf.minimum(self.batch_size, tf.size(rows))
        # Place by place in the batch, because TensorFlow's sums over images depend on the width.
        sums = tf.zeros((size, 3, self.heads), tf.float64)
        for start in tf.range(0, tf.size(rows), size):
            batch = rows[start : start + size]
            with tf.GradientTape() as tape:
                outputs = self._outputs(batch, self.dropout, seed)
                loss = tf.reduce_sum(tf.reduce_mean(outputs[:, 1], axis=0))
            gradients = tape.gradient(loss, [self.kernel.value, self.bias.value])
            self.optimizer.apply(gradients, [self.kernel, self.bias])
            missing = size - tf.size(batch)  # in the last batch
            sums += tf.pad(tf.cast(outputs, tf.float64), [[0, missing], [0, 0], [0, 0]])
        return sums

    @tf.function(reduce_retracing=True)
    def validate(self, rows: tf.Tensor) -> tf.Tensor:
        """Return the outputs of rows (N,), (N, 3, heads)."""
        shape = None, 3, self.heads  # The last batch is smaller.
        outputs = tf.TensorArray(tf.float32, 0, True, infer_shape=False, element_shape=shape)
        for start in tf.range(0, tf.size(rows), VALIDATION_BATCH):
            batch = rows[start : start + VALIDATION_BATCH]
            outputs = outputs.write(outputs.size(), self._outputs(batch))
        return outputs.concat()


_thread = threading.local()  # A thread keeps its last trainer, because tracing costs 0.3 s.


def find_trainer(task: HeadsTask) -> Trainer:
    """Return this thread's trainer for a task: the last one again if its task was alike."""
    samples, unit = task.samples, _fewest_heads(task.samples.classes)
    heads = math.ceil(len(task.rates) / unit) * unit
    key = samples.directory, samples.labels.tobytes(), heads, task.batch_size, task.dropout
    if getattr(_thread, "key", None) != key:
        _thread.key, _thread.trainer = key, Trainer(task, heads)
    return _thread.trainer


def train_heads(
    task: HeadsTask, on_epoch: Callable[[int, dict[Hashable, EpochMetrics]], None]
) -> dict[Hashable, Head]:
    """Train the heads of a task, each for as many epochs as it has rates, and return them.

    After each epoch `on_epoch(epoch, {label: metrics})` is called with the heads that took part.
    """
    trainer, samples, finished = find_trainer(task), task.samples, {}
    labels = samples.labels[samples.validation]
    trainer.reset(task.seed)
    for epoch in range(max(map(len, task.rates.values()))):
        columns = {label: i for i, label in enumerate(task.rates) if epoch < len(task.rates[label])}
        rates = np.zeros(trainer.heads)  # 0 for ended heads and those that only pad
        rates[list(columns.values())] = [task.rates[label][epoch] for label in columns]
        trainer.optimizer.column_rates.assign(np.repeat(rates, samples.classes))
        rows = order(task.seed, epoch, samples.train)
        sums = trainer.train_epoch(rows, np.int64(task.seed)).numpy()  # (B, 3, heads)
        training, validation, last = _sum_over_images(sums), 0, []
        ending = [label for label in columns if epoch + 1 == len(task.rates[label])]
        for chunk in np.split(samples.validation, range(CHUNK, len(samples.validation), CHUNK)):
            outputs = trainer.validate(chunk.astype(np.int32)).numpy()  # (N, 3, heads)
            validation += _sum_over_images(outputs)
            last.append(outputs[:, 1:, [columns[label] for label in ending]])
        used = trainer.optimizer.column_rates.numpy()[:: samples.classes]
        means = training / len(rows), validation / len(labels)
        values = np.column_stack([used, *(mean[:, :2] for mean in means)]).tolist()
        metrics = {label: EpochMetrics(*values[i]) for label, i in columns.items()}
        on_epoch(epoch, metrics)
        for label, (loss, predicted) in zip(ending, np.concatenate(last).T, strict=True):
            own = slice(columns[label] * samples.classes, (columns[label] + 1) * samples.classes)
            kernel, bias = trainer.kernel.value[: model.FEATURES, own], trainer.bias.value[own]
            outputs = Outputs(predicted.astype(np.int32), labels, loss.copy())
            finished[label] = Head(metrics[label], kernel.numpy(), bias.numpy(), outputs)
    return finished


def _sum_over_images(outputs: np.ndarray) -> np.ndarray:
    """Sum outputs (N, 3, heads) over N, in an order that does not depend on heads: (heads, 3)."""
    return np.ascontiguousarray(outputs.T, np.float64).sum(axis=-1)
