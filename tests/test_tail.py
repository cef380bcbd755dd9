"""The tail is Keras on whole images, its bits depend on nothing beside it, and BatchNorm stays."""

import json
import queue
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import PROJECT, numbers, run_command, run_experiment, write_images
from experiment_files import CONDITIONS

import data
import model
import predict
from features import cache, shards
from model import Recipe
from runtime.tasks import Threads
from runtime.tensorflow_setup import keras, tf
from sources.decoding import decode
from storage import audit, results
from training import trainer, tune
from training.tail import Tail
from training.trainer import Task, TrainingBar, epoch_rows
from verdict.ranking import rank

RATES = {"a": [3e-4]}
LOSS = keras.losses.SparseCategoricalCrossentropy()


def prepare(folder, cut, size=64, **changes):
    """Return a data set of 36 images, and a task on its cached activations in front of a block."""
    images = write_images(folder / "images", ["disc", "stripes", "noisé"], each=12, size=40)
    dataset, recipe = data.load(str(images)), Recipe(size, "scale", "imagenet", cut)
    with Threads(2) as executor:
        computed = cache.extract(dataset, recipe, folder / "cache", False, executor)
    sides = dataset.rows[~dataset.validation], dataset.rows[dataset.validation]
    samples = shards.Samples(
        shards.open_rows(computed.stores[0], len(dataset.labels)), dataset.labels, 3, *sides
    )
    task = Task(Tail, samples, recipe, RATES, seed=0, batch_size=10, dropout=0.0)
    return dataset, replace(task, **changes)


def train(task):
    """Train a task: `(what is logged of every epoch, the Trained schedule)`."""
    epochs = []
    trained = trainer.train(task, lambda _, found: epochs.append(found["a"]))
    return epochs, trained["a"]


def fit_images(task, pixels, labels):
    """Train the whole model on images, by Keras' layers and optimizer in a plain loop."""
    recipe = replace(task.recipe, cut=None)
    head = {"kernel": model.initial_kernel(3, seed=0), "bias": np.zeros(3)}
    whole = model.join_model(recipe, head, dropout=0.0)
    backbone = whole.layers[1]
    names = [layer.name for layer in backbone.layers]
    for layer in backbone.layers[names.index(f"{task.recipe.cut}_expand") :]:
        layer.trainable = True
    optimizer, losses = keras.optimizers.Adam(), []
    for epoch, rate in enumerate(task.rates["a"]):
        optimizer.learning_rate, total = rate, 0.0
        rows = epoch_rows(task, epoch)
        for start in range(0, len(rows), task.batch_size):
            batch = rows[start : start + task.batch_size]
            with tf.GradientTape() as tape:
                loss = LOSS(labels[batch], whole(pixels[batch], training=False))
            variables = whole.trainable_variables
            optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
            total += float(loss) * len(batch)
        losses.append(total / len(rows))
    return whole, losses


@pytest.mark.parametrize("cut", ["block_16", "block_13", "block_15"])  # alone, stride 2, residual
def test_a_tail_on_cached_rows_is_the_whole_model_on_images(tmp_path, cut):
    dataset, task = prepare(tmp_path, cut)
    epochs, end = train(task)
    pixels = np.stack([decode(encoded) for encoded in dataset.source.read(dataset.rows)])
    whole, losses = fit_images(task, pixels, dataset.labels)
    np.testing.assert_allclose([epoch.loss for epoch in epochs], losses, atol=1e-4)
    backbone, pretrained = whole.layers[1], model.backbone(replace(task.recipe, cut=None))
    exported = model.join_model(task.recipe, end.weights, 0.0).layers[1]
    trained = 0
    for one, other, before in zip(
        exported.variables, backbone.variables, pretrained.variables, strict=True
    ):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-4)
        is_trained = one.path in end.weights
        # The layers in front of the cut and BatchNorm's statistics keep every bit.
        assert np.array_equal(one.numpy(), before.numpy()) != is_trained
        trained += is_trained
    assert trained == len(end.weights) - 2 and "moving" not in "".join(end.weights)
    head = whole.layers[-1].get_weights()
    for one, other in zip((end.weights["kernel"], end.weights["bias"]), head, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    validation = whole(pixels[task.samples.validation], training=False).numpy()
    np.testing.assert_array_equal(end.outputs.predicted, validation.argmax(axis=1))


def test_a_run_has_the_same_bits_alone_beside_others_and_in_a_trainer_used_before(tmp_path):
    _, task = prepare(tmp_path, "block_16", dropout=0.2)
    _, alone = train(task)
    tasks = [replace(task, seed=seed) for seed in (1, 0, 2, 0)]
    with Threads(2) as executor:
        beside = [end for _, end in executor.map(train, tasks)]
    for end in (beside[1], beside[3]):
        for first, second in (
            (alone.weights, end.weights),
            (vars(alone.outputs), vars(end.outputs)),
        ):
            for name in first:
                np.testing.assert_array_equal(first[name], second[name])
    assert not np.array_equal(beside[0].weights["kernel"], alone.weights["kernel"])


def test_one_pass_gives_activations_and_the_features_of_a_frozen_backbone(tmp_path):
    dataset, task = prepare(tmp_path, "block_16")
    frozen = replace(task.recipe, cut=None)
    with Threads(2) as executor:
        again = cache.extract(dataset, frozen, tmp_path / "cache", False, executor)
        alone = cache.extract(dataset, frozen, tmp_path / "other", False, executor)
    assert (again.computed, alone.computed) == (0, 36)
    paths = [found.stores[0].directory / shards.ROWS for found in (again, alone)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert task.samples.rows.map().shape == (36, 2, 2, 160)


@pytest.mark.parametrize("size", [96, 33, 224])
def test_the_shape_of_rows_is_that_of_every_block(size):
    backbone = model.backbone(Recipe(size, "scale", "random"))
    for number in range(1, 17):
        cut = f"block_{number}"
        shape = backbone.get_layer(f"{cut}_expand").input.shape[1:]
        assert Recipe(size, "scale", "random", cut).row_shape == shape


def test_epochs_of_so_many_steps_are_cut_from_an_endless_row_of_passes(tmp_path):
    _, task = prepare(tmp_path, "block_16")
    passes = [epoch_rows(task, number) for number in range(4)]
    assert all(sorted(rows) == sorted(task.samples.train) for rows in passes)
    task = replace(task, steps=2, batch_size=7)
    stream = np.concatenate([epoch_rows(task, number) for number in range(6)])
    np.testing.assert_array_equal(stream, np.concatenate(passes)[: len(stream)])
    assert len(stream) == 6 * 2 * 7 and stream.dtype == np.int32


def test_no_label_of_a_validation_image_reaches_the_choice_of_a_peak(tmp_path):
    _, task = prepare(tmp_path, "block_16", steps=2)
    labels, rows = task.samples.labels.copy(), task.samples.validation
    labels[rows] = np.roll(labels[rows], 1)
    assert not np.array_equal(labels, task.samples.labels)
    changed = replace(task, samples=replace(task.samples, labels=labels))
    written = []
    for number, base in enumerate((task, changed)):
        (folder := tmp_path / f"{number}").mkdir()
        with Threads() as executor, TrainingBar(queue.SimpleQueue()) as bar:
            tune.tune_seeds(folder, {"steady": [1.0, 1.0]}, base, CONDITIONS, [0], executor, bar)
        written.append(results.tuning_path(folder, 0).read_bytes())
    assert written[0] == written[1] and len(results.Tuning(**json.loads(written[0])).peaks) >= 3


FINE_TUNED = [
    *("--schedule", "exp", "linear_warmup", "--seeds", "2", "--epochs", "3", "--batch-size", "4"),
    *("--lr", "1e-3", "--peak-lr", "1e-3", "--data", "images", "--image-size", "64"),
    *("--validation-fraction", "0.4", "--fine-tune", "--steps-per-epoch", "5", "--name", "one"),
    *("--export", "model.keras", "model.tflite"),
]


@pytest.fixture(scope="module")
def fine_tuned(images, tmp_path_factory):
    """The folder of a fine-tuned experiment; not to be changed."""
    return run_experiment(images, tmp_path_factory.mktemp("fine") / "place", FINE_TUNED)


@pytest.mark.parametrize("file", ["model.keras", "model.tflite"])
def test_an_exported_model_answers_as_its_run_did(fine_tuned, file):
    experiment = audit.read_experiment(fine_tuned / "tensorboard/one")
    assert experiment.config.conditions.fine_tune == "block_16"
    label = rank(experiment).best[0]
    outputs = experiment.runs[label][0].outputs
    _, answer = predict.load_model(fine_tuned / file)
    dataset = data.load(str(fine_tuned / "images"), validation_fraction=0.4)
    images = dataset.source.read(dataset.rows[dataset.validation])
    probabilities = np.array([answer(decode(image)[None])[0].copy() for image in images])
    np.testing.assert_array_equal(probabilities.argmax(axis=1), outputs.predicted)
    losses = -np.log(probabilities[np.arange(len(outputs.label)), outputs.label])
    np.testing.assert_allclose(losses, outputs.loss, atol=1e-3)


def test_the_summary_says_what_was_trained_and_what_that_gained(fine_tuned):
    summary = (fine_tuned / "tensorboard/one/summary.md").read_text("utf-8")
    assert "Trained are block_16 of MobileNetV2, all behind it, and the head. What" in summary
    assert "\n| frozen, logistic regression, C = " in summary


def test_an_unknown_block_is_refused_with_the_choices():
    refused = run_command("train.py", "--schedule", "exp", "--fine-tune", "block_17")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "must be one of block_1 to block_16, got block_17" in refused.stderr


@pytest.mark.faults
@pytest.mark.parametrize(
    "sign",
    [
        ".cache/*/*/shard-*.json",
        "tensorboard/one/config.json",
        "tensorboard/one/*/seed-0/train/*tfevents*",
        "tensorboard/one/*/*/result.json",
        "tensorboard/one/linear_warmup/seed-1/result.json",
    ],
)
def test_after_a_kill_a_resume_ends_the_same(fine_tuned, images, tmp_path, sign):
    shutil.copytree(images, tmp_path / "images")
    command = subprocess.Popen([sys.executable, PROJECT / "train.py", *FINE_TUNED], cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    while not any(tmp_path.glob(sign)):
        assert command.poll() is None
    command.kill()
    command.wait()
    begun = (tmp_path / "tensorboard/one/config.json").exists()
    again = ["--resume", "tensorboard/one"] if begun else FINE_TUNED
    resumed = run_command("train.py", *again, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert numbers(tmp_path / "tensorboard/one") == numbers(fine_tuned / "tensorboard/one")
