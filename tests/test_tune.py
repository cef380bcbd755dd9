"""The peaks that --tune chooses: from training images alone, by the least loss, seed by seed."""

import math
import queue
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import PROJECT, numbers, run_command, run_experiment
from experiment_files import CONDITIONS, write_experiment
from feature_files import make_task

from features.shards import Samples
from runtime import files, tasks
from runtime.messages import Refusal
from storage import audit, results
from training import tune
from training.trainer import TrainingBar, train

SHAPES = {"steady": [1.0] * 4, "falling": [4.0, 2.0, 1.0, 1.0]}
TUNED = [
    *("--schedule", "exp", "linear_warmup", "--tune", "--seeds", "2", "--epochs", "11"),
    *("--batch-size", "4", "--data", "images", "--image-size", "32"),
    *("--validation-fraction", "0.4", "--name", "tuned"),
]


def tuned(directory, task, seeds=(0, 1)):
    """Return the grids of some seeds, by seed, read back from their files."""
    directory.mkdir()
    with tasks.Threads() as executor, TrainingBar(queue.SimpleQueue()) as bar:
        tune.tune_seeds(directory, SHAPES, task, CONDITIONS, seeds, executor, bar)
    return {seed: files.read_json(results.tuning_path(directory, seed)) for seed in seeds}


def test_a_fifth_of_each_class_is_held_out_and_the_seed_draws_it(tmp_path):
    labels, rows = np.repeat(np.int32([0, 1, 2, 3]), [50, 20, 2, 1]), np.arange(73)
    samples = [tune.hold_out(Samples(None, labels, 4, rows, rows), seed) for seed in (0, 0, 1)]
    held_out, again, other = (split.validation for split in samples)
    assert np.bincount(labels[held_out], minlength=4).tolist() == [10, 4, 1, 0]
    assert sorted([*held_out, *samples[0].train]) == list(rows)
    assert set(held_out) == set(again) != set(other)


def test_of_peaks_the_least_loss_is_chosen_and_a_diverged_head_never():
    loss = {"a": [None, 0.3, 0.2, 0.2], "b": [0.1, None, 0.4, None], "lost": [None] * 4}
    assert results.choose_peaks([1.0, 2.0, 5.0, 10.0], loss) == {"a": 5.0, "b": 1.0}


def test_the_peak_of_least_loss_is_chosen_by_a_seed_and_its_training_images_alone(tmp_path):
    task = make_task(tmp_path)
    grids = tuned(tmp_path / "a", task)
    for grid in grids.values():
        assert grid["peaks"][:2] == [1e-5, 2e-5] and grid["peaks"][-1] >= 0.1
        for label, losses in grid["loss"].items():
            best = grid["peaks"].index(grid["chosen"][label])
            assert losses[best] == min(loss for loss in losses if loss is not None)
    assert grids[0] != grids[1]
    alone = replace(task, samples=tune.hold_out(task.samples, 0), rates={"a": [1e-3] * 4})
    end = train(alone, lambda *_: None)["a"].epoch
    assert grids[0]["loss"]["steady"][grids[0]["peaks"].index(1e-3)] == end.val_loss
    # The grid of one seed is split otherwise than those of two, and labels of validation change.
    labels, rows = task.samples.labels.copy(), task.samples.validation
    labels[rows] = np.random.default_rng(0).permutation(labels[rows])
    assert not np.array_equal(labels, task.samples.labels)
    changed = replace(task, samples=replace(task.samples, labels=labels))
    assert tuned(tmp_path / "b", changed, seeds=[1]) == {1: grids[1]}


def test_a_grid_grows_until_the_best_peak_of_each_schedule_is_bracketed(tmp_path):
    # Features a thousand times smaller want a rate far above 0.1.
    task = make_task(tmp_path)
    features = np.fromfile(tmp_path / "features.f32", np.float32)
    (features / 1000).tofile(tmp_path / "features.f32")
    grid = tuned(tmp_path / "a", task, seeds=[0])[0]
    assert grid["peaks"][0] == 1e-5 and grid["peaks"][-1] > 0.1
    assert max(grid["chosen"].values()) > 0.1
    for label, chosen in grid["chosen"].items():
        best = grid["peaks"].index(chosen)
        near = grid["loss"][label][best - 1 : best + 2]
        # Both neighbours are worse, unless the grid ends.
        assert None not in near and min(near) == near[1]
        assert len(near) == 3 or chosen == tune.PEAKS[-1]


def test_a_narrow_grid_grows_by_itself_on_the_side_of_its_least_loss():
    grid, left = tune.SeedGrid(["low", "high", "lost"], [2e-4, 5e-4, 1e-3]), []
    peak_of = {"low": 1e-4, "high": 1e-3}
    while missing := grid.missing():
        left.append([(label, peak) for label, peak in missing if label != "lost"])
        # The loss of what is lost is finite only at rates that are as good as 0.
        losses = {one: abs(math.log(one[1] / peak_of.get(one[0], 1e-7))) for one in missing}
        losses |= {one: math.nan for one in missing if one[0] == "lost" and one[1] > 3e-5}
        grid.add(losses)
    assert [len(some) for some in left] == [6, 2, 1, *[0] * (len(left) - 3)]
    tuning = grid.tuning()
    assert tuning.chosen == peak_of | {"lost": 1e-7}
    assert tuning.loss["high"][: tuning.peaks.index(2e-4)] == [None] * tuning.peaks.index(2e-4)


@pytest.fixture(scope="module")
def experiment(images, tmp_path_factory):
    """The folder of a tuned experiment; not to be changed."""
    return run_experiment(images, tmp_path_factory.mktemp("tuned") / "place", TUNED)


def test_every_schedule_and_the_control_train_at_their_chosen_peaks(experiment):
    audited = audit.read_experiment(experiment / "tensorboard/tuned")
    assert list(audited.runs) == ["exp", "linear_warmup", "constant"]
    for label, runs in audited.runs.items():
        shape = np.array(audited.config.schedules[label])
        for run in runs:
            peak = audited.tuning[run.result.seed].chosen[label]
            assert run.result.peak_lr == max(run.result.rate) == pytest.approx(peak)
            np.testing.assert_allclose(run.result.rate, shape / shape.max() * peak)
            assert len(run.result.rate) == 11


def test_a_peak_that_was_not_the_best_is_refused(tmp_path):
    experiment = write_experiment(tmp_path / "x", {"exp": [50]}, grids=[{"exp": [3, 1, 2, 4]}])
    path = results.tuning_path(experiment, 0)
    files.write_json(path, files.read_json(path) | {"chosen": {"exp": 1e-2}})
    with pytest.raises(Refusal, match="chosen peaks are not those of least loss"):
        audit.read_experiment(experiment)


@pytest.mark.faults
@pytest.mark.parametrize("sign", ["tuning/seed-0.json", "*/seed-*/train", "*/seed-0/result.json"])
def test_after_a_kill_in_the_grid_or_in_the_runs_a_resume_ends_the_same(experiment, tmp_path, sign):
    shutil.copytree(experiment / "images", tmp_path / "images")
    shutil.copytree(experiment / ".cache", tmp_path / ".cache")
    command = subprocess.Popen([sys.executable, PROJECT / "train.py", *TUNED], cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    while not any((tmp_path / "tensorboard/tuned").glob(sign)):
        assert command.poll() is None
    command.kill()
    command.wait()
    for grid in tmp_path.glob("tensorboard/tuned/tuning/seed-0.json"):
        grid.write_text("{")
    resumed = run_command("train.py", "--resume", "tensorboard/tuned", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert numbers(tmp_path / "tensorboard/tuned") == numbers(experiment / "tensorboard/tuned")
