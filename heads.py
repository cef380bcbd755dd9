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
from features import Samples
from results import Outputs
from tensorflow_setup import keras, tf

# If a size does not fill the processor's blocks, its last rows or columns round differently. With
# these shapes a head has the same bits in a group of any width (measured with AVX2).
PADDED_FEATURES = 1296  # 1,280 + 16 zeros: a multiple of blocks of 4, 6, 8, 16, 24 and 48
COLUMNS_MULTIPLE, LEAST_COLUMNS = 16, 48
MOST_PRODUCTS = 4096 * 64  # columns x rows of a batch
VALIDATION_BATCH = 64  # rows; any other number would round differently, too
VALIDATION_CHUNK = 256 * VALIDATION_BATCH  # rows whose outputs are in memory at once


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


def split_heads(
    labels: list[str], classes: int, batch_size: int, parts: int = 1
) -> list[list[str]]:
    """Split heads into `parts` groups; more if they are too wide, fewer if there are too few."""
    unit = _fewest_heads(classes)
    widest = max(1, MOST_PRODUCTS // (batch_size * classes * unit)) * unit
    size = max(1, min(widest, math.ceil(len(labels) / parts)))
    return [labels[start : start + size] for start in range(0, len(labels), size)]


def _fewest_heads(classes: int) -> int:
    """The fewest heads that fill whole blocks of columns; groups are padded to a multiple of it."""
    unit = COLUMNS_MULTIPLE // math.gcd(COLUMNS_MULTIPLE, classes)
    return unit * math.ceil(LEAST_COLUMNS / (unit * classes))


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
        self.heads, self.classes = heads, task.samples.classes
        self.batch_size, self.dropout = task.batch_size, task.dropout
        # On the CPU also where a GPU passes the images, so that numbers do not depend on it.
        with tf.device("/CPU:0"):
            mapping = task.samples.map()
            self.features = tf.experimental.dlpack.from_dlpack(mapping.__dlpack__())  # not copied
            self.labels = tf.constant(task.samples.labels, tf.int32)
            columns = heads * self.classes
            self.kernel = keras.Variable(tf.zeros((PADDED_FEATURES, columns)))
            self.bias = keras.Variable(tf.zeros(columns))
            self.optimizer = ColumnAdam(columns)
            self.optimizer.build([self.kernel, self.bias])

    def reset(self, seed: int) -> None:
        """Give every head the initial weights of a seed, and forget the optimizer's moments."""
        for variable in self.optimizer.variables:
            variable.assign(tf.zeros_like(variable))
        self.optimizer.learning_rate.assign(1.0)
        kernel = np.tile(model.initial_kernel(self.classes, seed), self.heads)
        self.kernel.assign(np.pad(kernel, [(0, PADDED_FEATURES - len(kernel)), (0, 0)]))
        self.bias.assign(tf.zeros_like(self.bias))

    def _outputs(self, x: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return losses (B, heads) and predicted classes (B, heads), -1 where not finite."""
        x = tf.pad(x, [[0, 0], [0, PADDED_FEATURES - x.shape[1]]])
        logits = tf.reshape(x @ self.kernel.value + self.bias.value, (-1, self.heads, self.classes))
        labels = tf.repeat(labels[:, None], self.heads, axis=1)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
        return losses, tf.where(tf.math.is_finite(losses), predicted, -1)

    @tf.function(reduce_retracing=True)
    def train_epoch(self, rows: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Train on rows (N,) in this order; returns losses and right answers, (B, heads) each.

        Sums over batches, by place in the batch: TensorFlow's own sums depend on the width.
        """
        count = tf.size(rows)
        size = tf.minimum(self.batch_size, count)
        loss = tf.zeros((size, self.heads), tf.float64)
        correct = tf.zeros((size, self.heads), tf.float64)
        for start in tf.range(0, count, size):
            batch = rows[start : start + size]
            labels = tf.gather(self.labels, batch)
            x = tf.gather(self.features, batch)
            x = drop_out(x, self.dropout, seed, self.optimizer.iterations)
            with tf.GradientTape() as tape:
                losses, predicted = self._outputs(x, labels)
                total = tf.reduce_sum(tf.reduce_mean(losses, axis=0))
            gradients = tape.gradient(total, [self.kernel.value, self.bias.value])
            self.optimizer.apply(gradients, [self.kernel, self.bias])
            rest = [[0, size - tf.size(batch)], [0, 0]]
            loss += tf.pad(tf.cast(losses, tf.float64), rest)
            correct += tf.pad(tf.cast(predicted == labels[:, None], tf.float64), rest)
        return loss, correct

    @tf.function(reduce_retracing=True)
    def validate(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return losses (N, heads) and predicted classes (N, heads) of rows (N,)."""
        batches = tf.math.floordiv(tf.size(rows) - 1, VALIDATION_BATCH) + 1
        options = {"infer_shape": False, "element_shape": (None, self.heads)}
        all_losses = tf.TensorArray(tf.float32, batches, **options)
        all_predicted = tf.TensorArray(tf.int32, batches, **options)
        for number in tf.range(batches):
            batch = rows[number * VALIDATION_BATCH : (number + 1) * VALIDATION_BATCH]
            x, labels = tf.gather(self.features, batch), tf.gather(self.labels, batch)
            losses, predicted = self._outputs(x, labels)
            all_losses = all_losses.write(number, losses)
            all_predicted = all_predicted.write(number, predicted)
        return all_losses.concat(), all_predicted.concat()


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
    task: HeadsTask, on_epoch: Callable[[int, dict[str, EpochMetrics]], None]
) -> dict[str, Head]:
    """Train the heads of a task, each for as many epochs as it has rates, and return them.

    After each epoch `on_epoch(epoch, {label: metrics})` is called with the heads that took part.
    """
    trainer = find_trainer(task)
    trainer.reset(task.seed)
    classes, finished = trainer.classes, {}
    for epoch in range(max(map(len, task.rates.values()))):
        columns = {label: i for i, label in enumerate(task.rates) if epoch < len(task.rates[label])}
        rates = np.zeros(trainer.heads, np.float32)  # 0 for ended heads and those that only pad
        rates[list(columns.values())] = [task.rates[label][epoch] for label in columns]
        trainer.optimizer.column_rates.assign(np.repeat(rates, classes))
        rows = order(task.seed, epoch, task.samples.train)
        sums = trainer.train_epoch(rows, np.int64(task.seed))
        loss, accuracy = (_sum_over_images(value.numpy()) / len(rows) for value in sums)
        ending = [label for label in columns if epoch + 1 == len(task.rates[label])]
        val_loss, val_accuracy, outputs = _validate(
            trainer, task.samples, [columns[i] for i in ending]
        )
        used = trainer.optimizer.column_rates.numpy()[::classes]
        values = np.stack([used, accuracy, loss, val_accuracy, val_loss], axis=1).tolist()
        on_epoch(epoch, {label: EpochMetrics(*values[i]) for label, i in columns.items()})
        for label, said in zip(ending, outputs, strict=True):
            own = slice(columns[label] * classes, (columns[label] + 1) * classes)
            kernel = trainer.kernel.numpy()[: model.FEATURES, own]
            finished[label] = Head(kernel, trainer.bias.numpy()[own], said)
    return finished


def _sum_over_images(values: np.ndarray) -> np.ndarray:
    """Sum values (N, heads) over N, in an order that does not depend on the number of heads."""
    return np.ascontiguousarray(values.T, np.float64).sum(axis=1)


def _validate(
    trainer: Trainer, samples: Samples, ending: list[int]
) -> tuple[np.ndarray, np.ndarray, list[Outputs]]:
    """Return mean loss and accuracy (heads,), and the outputs of the heads that end."""
    loss, correct = np.zeros(trainer.heads), np.zeros(trainer.heads)
    labels, kept = samples.labels[samples.validation], []
    for start in range(0, len(labels), VALIDATION_CHUNK):
        rows = samples.validation[start : start + VALIDATION_CHUNK].astype(np.int32)
        losses, predicted = (value.numpy() for value in trainer.validate(rows))  # (chunk, heads)
        loss += _sum_over_images(losses)
        correct += _sum_over_images(predicted == samples.labels[rows, None])
        kept.append((losses[:, ending], predicted[:, ending]))
    losses, predicted = map(np.concatenate, zip(*kept, strict=True))
    outputs = [Outputs(predicted[:, i], labels, losses[:, i]) for i in range(len(ending))]
    return loss / len(labels), correct / len(labels), outputs
