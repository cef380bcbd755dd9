"""What all trainers share: the task, the loop over epochs, and the order of the images."""

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from features.shards import Samples
from model import Recipe
from runtime.tensorflow_setup import tf
from storage.events import Epoch
from storage.results import Outputs

VALIDATION_BATCH = 64  # rows; with any other number sums round differently
# 1, 2 and 5 in each decade: the peaks of a grid.
PEAKS = [float(f"{digit}e{exponent}") for exponent in range(-7, 2) for digit in (1, 2, 5)][:-2]
CHUNK = 64 * VALIDATION_BATCH  # rows of a call, so that not all outputs are in memory at once
SHOWN = 8  # schedules whose accuracies fit beside the bar


@dataclass(frozen=True)
class Task:
    """A seed, the schedules to train with it from one start, and what trains them; picklable."""

    trainer: type["Trainer"]
    samples: Samples
    recipe: Recipe
    rates: Mapping[Hashable, list[float]]  # label -> rate in every epoch
    seed: int
    batch_size: int
    dropout: float
    steps: int | None = None  # batches of an epoch; None: one pass over the training images
    only_last: bool = False  # validate after the last epoch only

    @property
    def images(self) -> int:
        """The images of an epoch."""
        return self.batch_size * self.steps if self.steps else len(self.samples.train)

    def progress(self, epochs: Mapping[Hashable, Epoch]) -> "Progress":
        """Return what tells that these schedules have trained for one more epoch."""
        return Progress(self.seed, self.images * len(epochs), epochs)


@dataclass(frozen=True)
class Training:
    """What an epoch of training gives for a schedule."""

    rate: float  # as the optimizer used it
    accuracy: float  # on the training images, while they were trained on
    loss: float  # likewise


@dataclass(frozen=True)
class Trained:
    """A schedule after its last epoch."""

    epoch: Epoch  # the last one
    weights: dict[str, np.ndarray]  # as model.join_model takes them
    outputs: Outputs  # of the validation images
    untrained: Outputs  # likewise, before the first epoch


class Trainer(Protocol):
    """Trains schedules from the same start; made for one kind of task and used again for others."""

    START: Sequence[float]  # peaks with which a grid begins, of PEAKS

    def __init__(self, task: Task, width: int): ...

    @classmethod
    def width(cls, task: Task) -> int:
        """Return how many schedules the graphs are built for; at least those of the task."""

    @classmethod
    def split(cls, task: Task, labels: list, parts: int = 1) -> list[list]:
        """Split schedules into groups that train side by side, `parts` of them if that is wise."""

    def reset(self, seed: int, labels: list) -> None:
        """Return to the initial weights of a seed, and forget the moments of Adam."""

    def set_rates(self, rates: Mapping[Hashable, float]) -> None:
        """Set the rates of an epoch; schedules without one have ended."""

    def train_epoch(self, rows: np.ndarray) -> dict[Hashable, Training]:
        """Train on rows in this order."""

    def validate(self, rows: np.ndarray) -> dict[Hashable, Outputs]:
        """Return the outputs of rows."""

    def weights(self, label: Hashable) -> dict[str, np.ndarray]:
        """Return copies of all that was trained."""


_building = threading.Lock()
_thread = threading.local()  # A thread keeps its last trainer, because tracing costs 0.3 s.


def find_trainer(task: Task) -> Trainer:
    """Return this thread's trainer for a task: the last one again if its task was alike."""
    samples, width = task.samples, task.trainer.width(task)
    data = samples.rows.store.directory, samples.labels.tobytes(), task.recipe
    key = task.trainer, width, data, task.batch_size, task.dropout
    if getattr(_thread, "key", None) != key:
        # The lock lets one thread build at a time, because Keras' random weights have one seed.
        with _building:
            _thread.key, _thread.trainer = key, task.trainer(task, width)
    return _thread.trainer


def train(
    task: Task, on_epoch: Callable[[int, dict[Hashable, Epoch]], None]
) -> dict[Hashable, Trained]:
    """Train the schedules of a task, each for as many epochs as it has rates.

    After each epoch `on_epoch(epoch, {label: what is logged})` is called for those that took part.
    """
    trainer, validation, trained = find_trainer(task), task.samples.validation, {}
    trainer.reset(task.seed, list(task.rates))
    untrained = {} if task.only_last else trainer.validate(validation)
    for epoch in range(max(map(len, task.rates.values()))):
        rates = {label: every[epoch] for label, every in task.rates.items() if every[epoch:]}
        ending = [label for label in rates if epoch + 1 == len(task.rates[label])]
        trainer.set_rates(rates)
        task.samples.rows.map()  # Raises Refusal if another process cut the file.
        training = trainer.train_epoch(epoch_rows(task, epoch))
        outputs = trainer.validate(validation) if ending or not task.only_last else {}
        metrics = {label: describe_epoch(training[label], outputs.get(label)) for label in rates}
        on_epoch(epoch, metrics)
        for label in ending:
            end, before = outputs[label], untrained.get(label)
            trained[label] = Trained(metrics[label], trainer.weights(label), end, before)
    return trained


def describe_epoch(training: Training, outputs: Outputs | None) -> Epoch:
    """Return what is logged of an epoch; NaN where nothing was validated."""
    if outputs is None:
        return Epoch(**vars(training), val_accuracy=np.nan, val_loss=np.nan)
    return Epoch(**vars(training), val_accuracy=outputs.accuracy, val_loss=outputs.mean_loss)


def epoch_rows(task: Task, epoch: int) -> np.ndarray:
    """Return the rows of an epoch in order, the same for all schedules of a seed: int32.

    An epoch is a pass over the training images, or so many batches of an endless row of passes.
    """
    train = task.samples.train
    if task.steps is None:
        return order(task.seed, epoch, train)
    begin, count = epoch * task.images, len(train)
    passes = range(begin // count, -(-(begin + task.images) // count))
    stream = np.concatenate([order(task.seed, number, train) for number in passes])
    return stream[begin - passes.start * count :][: task.images]


def order(seed: int, number: int, rows: np.ndarray) -> np.ndarray:
    """Return the rows in the order in which a pass of a seed takes them."""
    return np.random.default_rng([seed, number]).permutation(rows).astype(np.int32)


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


def judge(logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return losses and predicted classes, -1 where not finite, of logits (..., classes)."""
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
    return losses, tf.where(tf.math.is_finite(losses), predicted, -1)


def map_rows(samples: Samples) -> tf.Tensor:
    """Return the cached rows as a tensor that shares their mapped memory."""
    return tf.experimental.dlpack.from_dlpack(samples.rows.map().__dlpack__())


def chunks(rows: np.ndarray) -> list[np.ndarray]:
    """Split rows to be validated, as int32."""
    return np.split(rows.astype(np.int32), range(CHUNK, len(rows), CHUNK))


@dataclass(frozen=True)
class Progress:
    """The schedules of a seed have trained for one more epoch."""

    seed: int
    images: int  # of all its schedules together
    epochs: Mapping[Hashable, Epoch]


class TrainingBar(tqdm):
    """The bar, fed by a queue of Progress; quiet where standard error is not a terminal."""

    def __init__(self, reports: Any):
        unit = {"unit": " images", "unit_scale": True}
        super().__init__(total=0, desc="training", disable=None, **unit)
        self._reports, self.report = reports, reports.put  # what tasks call

    def expect(self, task: Task) -> None:
        """Add the images of a task that will be submitted to what is to be done."""
        self.total += sum(map(len, task.rates.values())) * task.images

    def show(self) -> None:
        """Draw what tasks have reported."""
        while not self._reports.empty():
            done = self._reports.get()
            ends = {label: epoch.val_accuracy for label, epoch in done.epochs.items()}
            # A grid is wide, or is not validated in every epoch.
            if len(ends) <= SHOWN and np.isfinite(list(ends.values())).all():
                told = ", ".join(f"{label} {accuracy:.4f}" for label, accuracy in ends.items())
                self.set_postfix_str(f"seed {done.seed}: {told}", refresh=False)
            self.update(done.images)
