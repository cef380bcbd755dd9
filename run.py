"""One run: one schedule with one seed trains one head on features, logs it, and leaves its result.

Training, conversion and export happen in worker processes: the main one answers Ctrl-C at once, and loads TensorFlow
only to read TFRecords or TFDS, or to pass images by Keras.
"""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

import data
import features
import logs
import model
import quiet

TRAIN, VALIDATION = (
    "train",
    "validation",
)  # folders of event files, as Keras' TensorBoard callback names them
VALIDATION_BATCH = 1024  # images; bounds memory, changes nothing


class Run(NamedTuple):
    """All that a run's numbers depend on, and where they go."""

    directory: str
    schedule: str
    seed: int
    rates: list  # of every epoch
    features: str  # directory
    shape: tuple  # of the features, (N, 1280)
    labels: np.ndarray  # (N,) int32
    train: np.ndarray  # rows that are trained on
    validation: np.ndarray  # rows that are not
    classes: int
    batch_size: int
    dropout: float
    conditions: dict  # what all runs of a comparison must have in common


def order(seed, epoch, rows):
    """Return the rows in the order in which an epoch of a seed trains on them, whatever the schedule."""
    return np.random.default_rng([seed, epoch]).permutation(rows).astype(np.int32)


def train(run, report_epoch=lambda *_: None):
    """Train one head, log it to TensorBoard, write result.json last, and return its content.

    What an unfinished run left in the directory is removed first. After each epoch `report_epoch(run, epoch, logs)` is
    called. Raises logs.ExperimentError where the logged rates are not the schedule's.
    """
    quiet.tensorflow()
    import keras
    from tensorboard.plugins.hparams import api as hparams

    directory = Path(run.directory)
    shutil.rmtree(directory, ignore_errors=True)
    directory.parent.mkdir(exist_ok=True)
    directory.mkdir()  # without parents: an experiment that was removed must not come back without its config
    head = trainable_head(run)
    history = head.fit(
        _orders(run),
        epochs=len(run.rates),
        steps_per_epoch=1,
        validation_data=_once(run.validation),
        verbose=0,
        shuffle=False,  # the orders are shuffled
        callbacks=[
            keras.callbacks.LearningRateScheduler(lambda epoch: run.rates[epoch]),
            keras.callbacks.TensorBoard(directory, write_graph=False),
            hparams.KerasCallback(
                str(directory), _hyperparameters(run), f"{run.schedule}/seed-{run.seed}"
            ),
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: report_epoch(run, epoch, logs)
            ),
        ],
    ).history
    for file in directory.glob("**/*tfevents*"):
        file.rename(
            file.with_name("events.out.tfevents.v2")
        )  # as written, the name holds the host's name
    keras.Sequential([keras.Input((model.FEATURES,)), *head.layers]).save(directory / "head.keras")
    logs.check_rates(directory, logs.scalars(directory / TRAIN), run.rates)
    names = ("categorical_accuracy", "loss", "val_categorical_accuracy", "val_loss")
    result = {
        "schedule": run.schedule,
        "seed": run.seed,
        "epochs": len(run.rates),
        "conditions": run.conditions,
        "final": {name: float(history[name][-1]) for name in names},
        "best": {
            "val_categorical_accuracy": float(max(history["val_categorical_accuracy"])),
            "val_loss": float(min(history["val_loss"])),
        },
    }
    logs.write_json(directory / "result.json", result)
    return result


def trainable_head(run):
    """Return the compiled Keras model of a run, whose training step is a whole epoch: int32 rows (1, N) in, in order.

    Features are gathered from the mapped file inside the graph, so an epoch costs arithmetic, not Python.
    """
    tf = quiet.tensorflow()
    import keras

    mapping = features.mapped(run.features, run.shape)
    values = tf.experimental.dlpack.from_dlpack(
        mapping.__dlpack__()
    )  # (N, 1280); tf.constant would copy it twice
    labels = tf.constant(run.labels, tf.int32)

    class EpochAtOnce(keras.Sequential):
        """Keras' pattern for a training step of one's own: its metrics are means over all images of the epoch."""

        def __init__(self, layers):
            super().__init__(layers)
            self.means = [keras.metrics.Mean("loss"), keras.metrics.Mean("categorical_accuracy")]

        @property
        def metrics(self):
            return self.means

        def batch_sums(self, rows, training):
            """Sum of losses and number of right answers of a batch; a training batch changes the weights."""
            x, y = tf.gather(values, rows), tf.gather(labels, rows)
            if training:
                x = dropped_out(x, run.dropout, run.seed, self.optimizer.iterations)
            with tf.GradientTape() as tape:
                probabilities = self(
                    x, training=False
                )  # what Keras' dropout would do is done already
                losses = keras.losses.sparse_categorical_crossentropy(y, probabilities)
                loss = tf.reduce_mean(losses)
            if training:
                self.optimizer.apply(
                    tape.gradient(loss, self.trainable_variables), self.trainable_variables
                )
            right = tf.equal(tf.argmax(probabilities, -1, output_type=tf.int32), y)
            return tf.reduce_sum(losses), tf.reduce_sum(tf.cast(right, tf.float32))

        def epoch(self, rows, batch, training):
            """Mean loss and accuracy over rows (N,), batch by batch; the last batch may be smaller."""
            count = tf.shape(rows)[0]

            def step(start, loss, right):
                more_loss, more_right = self.batch_sums(rows[start : start + batch], training)
                return start + batch, loss + more_loss, right + more_right

            start = (tf.constant(0), tf.constant(0.0), tf.constant(0.0))
            _, *sums = tf.while_loop(
                lambda start, *_: start < count, step, start, parallel_iterations=1
            )
            for mean, total in zip(self.means, sums):
                mean.update_state(total / tf.cast(count, tf.float32))
            return {mean.name: mean.result() for mean in self.means}

        def train_step(self, rows):
            return self.epoch(rows[0], run.batch_size, training=True)

        def test_step(self, rows):
            return self.epoch(rows[0], VALIDATION_BATCH, training=False)

    layers = model.head_layers(run.classes, run.dropout, run.seed)
    head = EpochAtOnce([keras.Input((model.FEATURES,)), *layers])
    head.compile(optimizer=keras.optimizers.Adam(run.rates[0]))
    head.optimizer.build(
        head.trainable_variables
    )  # or the first step would make its variables, and be traced twice
    return head


def dropped_out(x, rate, seed, step):
    """Return x float32 (N, M), M even, with each number set to 0 at a rate and the others scaled up by 1 / (1 - rate).

    Each takes 16 random bits, so the rate is met to 1 / 65,536. Keras' Dropout draws 32, and drawing is most of an
    epoch. What is dropped depends on seed and step alone.
    """
    tf = quiet.tensorflow()
    limit = min(round(rate * 2**16), 2**16 - 1)
    if not limit:
        return x
    half = tf.stack([tf.shape(x)[0], x.shape[1] // 2])
    seeds = tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64)])
    drawn = tf.random.stateless_uniform(
        half, seeds, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
    )
    drawn = tf.reshape(
        tf.bitcast(drawn, tf.uint16), tf.shape(x)
    )  # (N, M / 2) -> (N, M / 2, 2) -> (N, M)
    return x * (tf.cast(drawn >= limit, tf.float32) * (2**16 / (2**16 - limit)))


def _orders(run):
    """A tf.data pipeline of the order of every epoch."""
    tf = quiet.tensorflow()

    def orders():
        for epoch in range(len(run.rates)):
            yield order(run.seed, epoch, run.train)[None]

    signature = tf.TensorSpec((1, len(run.train)), tf.int32)
    return data.untuned(tf.data.Dataset.from_generator(orders, output_signature=signature))


def _once(rows):
    return data.untuned(quiet.tensorflow().data.Dataset.from_tensors(rows[None].astype(np.int32)))


def _hyperparameters(run):
    """What TensorBoard's HParams page shows of a run, beside its metrics."""
    return {
        "schedule": run.schedule,
        "seed": run.seed,
        "epochs": len(run.rates),
        "first rate": run.rates[0],
        "peak rate": max(run.rates),
        "last rate": run.rates[-1],
        "mean rate": float(np.mean(run.rates)),
        "batch size": run.batch_size,
        "dropout": run.dropout,
    }


def export(run_directory, path, class_names, conditions, weights):
    """Write the whole model of a finished run, uint8 images in and probabilities out, to a `.keras` file.

    Raises logs.ExperimentError where the head in the run's directory is not one that a run writes.
    """
    quiet.tensorflow()
    import keras

    file = Path(run_directory) / "head.keras"
    try:
        head = keras.saving.load_model(
            file, compile=False, safe_mode=True
        )  # safe: no code from a file is run
        if (head.input_shape, head.output_shape) != (
            (None, model.FEATURES),
            (None, len(class_names)),
        ):
            raise ValueError(f"it takes {head.input_shape} and gives {head.output_shape}")
    except Exception as error:  # Keras raises anything from ValueError to AttributeError
        reason = " ".join(str(error).split())[:200]
        raise logs.ExperimentError(
            f"{file} is not what this run wrote ({reason}); remove {run_directory}"
        ) from None
    whole = model.joined(
        head.layers, conditions["image_size"], conditions["preprocessing"], weights
    )
    # Saved in the experiment first, where only one process is at work: Keras writes a file piece by piece.
    temporary = Path(run_directory) / ".export.tmp.keras"
    try:
        with _naming(str(temporary)):
            model.save_with_names(whole, temporary, class_names)
        logs.write_whole(path, temporary.read_bytes())
    finally:
        temporary.unlink(missing_ok=True)


# --- Worker processes ------------------------------------------------------------------------------------------------

_epochs = None  # in a worker: the queue by which it tells the main process of finished epochs


@contextlib.contextmanager
def workers(count):
    """Give `(executor, epochs)`: processes that load TensorFlow, and the queue of `(schedule, seed, epoch, logs)`.

    With the block they end, whatever they are doing. Processes are spawned, not forked: a fork would copy TensorFlow's
    locks as they happen to be.
    """
    context = multiprocessing.get_context("spawn")
    with (
        quiet.stderr()
    ):  # of the process that clears away after a killed one, which would warn of having to
        epochs = context.SimpleQueue()
    executor = concurrent.futures.ProcessPoolExecutor(count, context, _start, (epochs,))
    try:
        with _signals_blocked():
            for _ in range(count):
                executor.submit(
                    int
                )  # starts a process, which loads TensorFlow while the main one is busy
        yield executor, epochs
    finally:
        # Killed first: once one of them is, Python 3.13 waits for the others to end by SIGTERM, which they leave alone.
        for process in multiprocessing.active_children():
            process.kill()
        executor._call_queue.cancel_join_thread()  # or Python 3.10 waits for them to take what was left to do
        executor.shutdown(
            cancel_futures=True
        )  # and waits, or Python's end could write to a pipe that this closes


@contextlib.contextmanager
def _signals_blocked():
    """Start processes in this block, and Ctrl-C and SIGTERM, which may reach them all, are left to the main one.

    Blocked signals stay so in a new process, from its first moment. What comes to this one meanwhile waits for the end
    of the block; that takes a handler, since other threads, which NumPy has, are not blocked.
    """
    came = []

    def keep(number, _):
        came.append(number)

    handlers = {number: signal.signal(number, keep) for number in (signal.SIGINT, signal.SIGTERM)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, handlers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def _start(epochs):
    """Prepare a worker process."""
    global _epochs
    _epochs = epochs
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["CUDA_VISIBLE_DEVICES"] = (
        "-1"  # a head is too small for a GPU, and each worker would fill one
    )
    # One thread a process: runs are spread over cores as whole, and no sum depends on how it was divided.
    tf = quiet.tensorflow()
    tf.get_logger().setLevel(
        "ERROR"
    )  # it warns of functions traced again and again, as those of every run are
    threads = tf.config.threading
    threads.set_intra_op_parallelism_threads(1)
    threads.set_inter_op_parallelism_threads(1)


def _end_with_parent():
    """End this process when the main one has, even by kill -9: what it writes may be somebody else's by then."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def train_in_worker(run):
    """Train a run in a worker process, telling the main one of every epoch; returns the result."""
    with _naming(run.directory):
        return train(
            run, lambda run, epoch, logs: _epochs.put((run.schedule, run.seed, epoch, logs))
        )


@contextlib.contextmanager
def _naming(place):
    """Let errors of reading and writing files name a place, where they do not name a file."""
    tf = quiet.tensorflow()
    try:
        yield
    except OSError as error:
        if error.errno:
            error.filename = error.filename or place
        raise
    except (
        tf.errors.OpError
    ) as error:  # which the main process could only receive by loading TensorFlow
        reason = error.message.rpartition("}} ")[2].partition("\n")[0]
        raise logs.ExperimentError(f"{place}: {reason}") from None
