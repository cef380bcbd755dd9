"""Heads side by side are heads one by one, and training on features is training on images."""

import math
from dataclasses import replace

import numpy as np
import pytest
from feature_files import RATES, RECIPE, make_task

import data
import model
from features import cache, shards
from features.shards import Samples
from runtime.tasks import Threads
from runtime.tensorflow_setup import keras, tf
from sources.decoding import decode
from training import trainer
from training.heads import Heads
from training.trainer import Task, drop_out, find_trainer, order

LOSS = "sparse_categorical_crossentropy"


def split(labels, classes, batch_size, parts=1):
    """Split labels as a task of so many classes and images a batch does."""
    samples = Samples(None, None, classes, None, None)
    task = Task(Heads, samples, RECIPE, {}, 0, batch_size, dropout=0.0)
    return Heads.split(task, labels, parts)


def train(task):
    """Train the heads of a task: `{label: (metrics of every epoch, Head)}`."""
    epochs = {label: [] for label in task.rates}

    def keep(epoch, metrics):
        for label, values in metrics.items():
            epochs[label].append(values)

    return {label: (epochs[label], head) for label, head in trainer.train(task, keep).items()}


def assert_equal(first, second):
    """Assert that two heads are equal to the last bit, in what is logged and in what is kept."""
    assert first[0] == second[0]
    arrays = [[*end.weights.values(), *vars(end.outputs).values()] for _, end in (first, second)]
    for one, other in zip(*arrays, strict=True):
        np.testing.assert_array_equal(one, other)


def test_heads_side_by_side_are_plain_keras_fits_one_by_one(tmp_path):
    task = make_task(tmp_path, dropout=0.0)
    samples, values = task.samples, np.array(task.samples.rows.map())
    images, labels = values[samples.validation], samples.labels[samples.validation]
    for label, (metrics, head) in train(task).items():
        dense = keras.layers.Dense(6, activation="softmax")
        plain = keras.Sequential([keras.Input((model.FEATURES,)), dense])
        plain.compile(keras.optimizers.Adam(), LOSS, metrics=["accuracy"])
        dense.set_weights([model.initial_kernel(6, seed=0), np.zeros(6)])
        options = {"batch_size": 64, "shuffle": False, "verbose": 0}
        options["validation_data"] = images, labels
        for epoch, (rate, logged) in enumerate(zip(RATES[label], metrics, strict=True)):
            rows = order(0, epoch, samples.train)
            plain.optimizer.learning_rate = rate
            history = plain.fit(values[rows], samples.labels[rows], **options).history
            assert logged.rate == np.float32(rate)
            for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
                assert getattr(logged, name) == pytest.approx(history[name][0], abs=1e-5)
        assert metrics[-1] == head.epoch and metrics[-1].loss < metrics[0].loss
        np.testing.assert_allclose(head.weights["kernel"], dense.get_weights()[0], atol=1e-5)
        outputs, logits = head.outputs, images @ head.weights["kernel"] + head.weights["bias"]
        np.testing.assert_array_equal(outputs.label, labels)
        np.testing.assert_array_equal(outputs.predicted, logits.argmax(axis=1))
        assert np.mean(outputs.predicted == labels) == head.epoch.val_accuracy
        assert outputs.loss.mean() == pytest.approx(head.epoch.val_loss, abs=1e-6)


def test_training_on_features_is_training_through_the_whole_frozen_model(images, tmp_path):
    dataset, recipe = data.load(str(images)), model.Recipe(32, "scale", "imagenet")
    with Threads(2) as executor:
        computed = cache.extract(dataset, recipe, tmp_path, False, executor)
    sides = dataset.rows[~dataset.validation], dataset.rows[dataset.validation]
    samples = shards.Samples(
        shards.open_rows(computed.stores[0], len(dataset.labels)), dataset.labels, 3, *sides
    )
    task = Task(Heads, samples, recipe, {"a": RATES["a"]}, seed=0, batch_size=7, dropout=0.0)
    pixels = np.stack([decode(encoded) for encoded in dataset.source.read(dataset.rows)])
    kernel = model.initial_kernel(3, seed=0)
    whole = model.join_model(recipe, {"kernel": kernel, "bias": np.zeros(3)}, 0.0)
    whole.compile(keras.optimizers.Adam(), LOSS, metrics=["accuracy"])
    options = {"batch_size": 7, "shuffle": False, "verbose": 0}
    options["validation_data"] = pixels[samples.validation], dataset.labels[samples.validation]
    for epoch, logged in enumerate(train(task)["a"][0]):
        rows = order(0, epoch, samples.train)
        whole.optimizer.learning_rate = RATES["a"][epoch]
        history = whole.fit(pixels[rows], dataset.labels[rows], **options).history
        for name in ("loss", "val_loss", "val_accuracy"):
            assert getattr(logged, name) == pytest.approx(history[name][0], abs=1e-4)


@pytest.mark.parametrize(
    ("classes", "count", "batch_size"),
    [(6, 330, 64), (6, 260, 64), (7, 330, 64), (10, 330, 64), (100, 330, 64), (6, 3300, 1024)],
)
def test_a_head_alone_is_the_same_to_the_last_bit_whatever_is_beside_it(
    tmp_path, classes, count, batch_size
):
    task = make_task(tmp_path, classes, count, batch_size=batch_size)
    widest = len(split([""] * 64, classes, batch_size)[0])
    rates = {f"head {number}": [1e-4 * (number + 1)] * 2 for number in range(widest - 4)}
    # b ends an epoch earlier, and the loss of one head is not finite.
    rates |= {"wild": [3e38, 3e38], "same": RATES["a"], "b": RATES["b"], "a": RATES["a"]}
    among = train(replace(task, rates=rates))
    for label in ("a", "b"):
        assert_equal(among[label], train(replace(task, rates={label: rates[label]}))[label])
    assert_equal(among["a"], among["same"])
    last, head = among["wild"][0][-1], among["wild"][1]
    assert not math.isfinite(last.val_loss) and last.val_accuracy == 0
    assert set(head.outputs.predicted) == {-1}


def test_seeds_in_parallel_threads_are_one_after_the_other_to_the_last_bit(tmp_path):
    tasks = [make_task(tmp_path, seed=seed) for seed in (0, 1, 2, 3)]
    one_by_one = [train(task) for task in tasks]
    # A thread traces once for all seeds.
    assert find_trainer(tasks[0])._train.experimental_get_tracing_count() == 1
    # Only the cores are divided, never a sum.
    assert tf.config.threading.get_intra_op_parallelism_threads() == 1
    with Threads(2) as executor:
        parallel = list(executor.map(train, tasks))
    for first, second in zip(one_by_one, parallel, strict=True):
        for label in RATES:
            assert_equal(first[label], second[label])
    without_dropout = train(replace(tasks[0], dropout=0.0))
    assert without_dropout["a"][0] != one_by_one[0]["a"][0] != one_by_one[1]["a"][0]


def test_no_group_is_too_wide_and_heads_are_split_into_as_many_parts_as_wanted():
    labels = [str(number) for number in range(70)]
    assert split(labels, 6, 64) == [labels]
    assert [len(group) for group in split(labels, 6, 64, parts=2)] == [35, 35]
    assert [len(group) for group in split(labels, 100, 64)] == [40, 30]
    assert {len(group) for group in split(labels, 5000, 64)} == {2}
    assert split([], 6, 64) == []


def test_an_order_holds_every_row_once_and_depends_on_seed_and_epoch():
    rows = np.arange(5, 900, 3)
    orders = [order(seed, epoch, rows).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(permuted) == rows.tolist() for permuted in orders)
    assert len(set(map(tuple, orders))) == 4 and order(1, 1, rows).tolist() == orders[3]


@pytest.mark.parametrize("rate", [0.0, 1e-6, 0.2, 0.5, 0.99, 1 - 1e-9])
def test_dropout_drops_its_part_anywhere_and_scales_what_it_keeps(rate):
    ones, seed = tf.ones((64, model.FEATURES)), np.int64(0)
    left = np.stack([drop_out(ones, rate, seed, step) for step in range(20)])  # (20, 64, 1280)
    limit = min(round(rate * 2**16), 2**16 - 1)
    assert set(np.unique(left)) <= {0, np.float32(2**16 / (2**16 - limit))}
    dropped = (left == 0).astype(float)
    assert dropped.mean() == pytest.approx(rate, abs=0.002)
    if 0.1 < rate < 0.9:  # Steps, images, features and the two halves of a draw are independent.
        for axes, tolerance in (((1, 2), 0.01), ((0, 2), 0.02), ((0, 1), 0.1)):
            assert abs(dropped.mean(axes) - rate).max() < tolerance
        assert abs(np.corrcoef(dropped[..., ::2].ravel(), dropped[..., 1::2].ravel())[0, 1]) < 0.01


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 219, 220, 221])  # of 220 training images
def test_any_batch_size_trains(tmp_path, size):
    task = make_task(tmp_path, batch_size=size, rates={"a": [1e-3]})
    epochs, end = train(task)["a"]
    assert epochs[0].loss < 2 and len(end.outputs.label) == 110


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65])
def test_any_number_of_validation_images_is_validated(tmp_path, count):
    task = make_task(tmp_path, rates={"a": [1e-3]})
    whole = train(task)["a"][1].outputs
    few = replace(task.samples, validation=task.samples.validation[:count])
    outputs = train(replace(task, samples=few))["a"][1].outputs
    np.testing.assert_array_equal(outputs.predicted, whole.predicted[:count])
    np.testing.assert_allclose(outputs.loss, whole.loss[:count], atol=1e-6)
