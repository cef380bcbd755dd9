"""The peaks that --tune chooses: from training images alone, by the least loss, seed by seed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from conftest import PROJECT, numbers, run_command, run_experiment
from feature_files import make_task

import audit
import results
import tune
from cli import Refusal
from progress import TrainingBar

SHAPES = {"steady": [1.0] * 4, "falling": [4.0, 2.0, 1.0, 1.0]}
TUNED = [
    *("--schedule", "exp", "linear_warmup", "--tune", "--seeds", "2", "--epochs", "11"),
    *("--batch-size", "4", "--data", "images", "--image-size", "32"),
    *("--validation-fraction", "0.4", "--name", "tuned"),
]


def tuned(directory, task, shapes=SHAPES, seeds=(0, 1)):
    """The grids of some seeds, by seed, read back from their files."""
    directory.mkdir()
    with ThreadPoolExecutor(2) as executor, closing(TrainingBar()) as bar:
        tune.tune(directory, shapes, task, seeds, executor, bar)
    return {seed: json.loads(results.tuning_path(directory, seed).read_text()) for seed in seeds}


def test_a_fifth_of_each_class_is_held_out_and_the_seed_draws_it():
    labels = np.repeat(np.int32([0, 1, 2, 3]), [50, 20, 2, 1])
    rows = np.arange(73)
    held_out = tune.hold_out(labels, rows, seed=0)
    assert np.bincount(labels[held_out], minlength=4).tolist() == [10, 4, 1, 0]
    np.testing.assert_array_equal(held_out, tune.hold_out(labels, rows, seed=0))
    assert set(held_out) != set(tune.hold_out(labels, rows, seed=1))


def test_of_peaks_the_least_loss_is_chosen_and_a_diverged_head_never():
    loss = {"a": [None, 0.3, 0.2, 0.2], "b": [0.1, None, 0.4, None], "lost": [None] * 4}
    assert results.choose_peaks([1.0, 2.0, 5.0, 10.0], loss) == {"a": 5.0, "b": 1.0}
    assert results.is_diverged(1.2, 0.5, classes=3) and not results.is_diverged(1.0, 1.2, classes=3)
    assert results.is_diverged(0.1, float("nan"), classes=3)


def test_the_chosen_peak_is_that_of_least_loss_in_the_file(tmp_path):
    grids = tuned(tmp_path / "a", make_task(tmp_path))
    for grid in grids.values():
        assert grid["peaks"][:2] == [1e-5, 2e-5] and grid["peaks"][-1] >= 0.1
        for label in SHAPES:
            finite = [loss for loss in grid["loss"][label] if loss is not None]
            best = grid["peaks"].index(grid["chosen"][label])
            assert grid["loss"][label][best] == min(finite)
    assert grids[0] != grids[1]


def test_no_validation_image_can_reach_the_choice(tmp_path):
    task = make_task(tmp_path)
    samples, permuted = task.samples, task.samples.labels.copy()
    mixed = np.random.default_rng(0).permutation(permuted[samples.validation])
    permuted[samples.validation] = mixed
    assert not np.array_equal(permuted, samples.labels)
    tuned(tmp_path / "a", task)
    tuned(tmp_path / "b", replace(task, samples=replace(samples, labels=permuted)))
    for seed in (0, 1):
        paths = [results.tuning_path(tmp_path / name, seed) for name in ("a", "b")]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_grid_of_a_seed_does_not_depend_on_how_it_is_split_or_on_other_seeds(tmp_path):
    task = make_task(tmp_path)
    assert tuned(tmp_path / "a", task)[1] == tuned(tmp_path / "b", task, seeds=(1,))[1]


def test_the_grid_grows_for_all_schedules_where_a_best_peak_lies_on_its_edge(tmp_path):
    # Features a thousand times smaller want a rate far above 0.1.
    task = make_task(tmp_path)
    features = np.fromfile(tmp_path / "features.f32", np.float32)
    (features / 1000).tofile(tmp_path / "features.f32")
    grid = tuned(tmp_path / "a", task, seeds=(0,))[0]
    assert grid["peaks"][0] == 1e-5 and grid["peaks"][-1] > 0.1
    assert max(grid["chosen"].values()) > 0.1
    assert {len(losses) for losses in grid["loss"].values()} == {len(grid["peaks"])}


@pytest.fixture(scope="module")
def experiment(images, tmp_path_factory):
    """The folder of a tuned experiment; not to be changed."""
    return run_experiment(images, tmp_path_factory.mktemp("tuned") / "place", TUNED)


def test_every_schedule_and_the_control_train_at_their_chosen_peaks(experiment):
    audited = audit.audit(experiment / "tensorboard/tuned")
    assert list(audited.runs) == ["exp", "linear_warmup", "constant"]
    for label, runs in audited.runs.items():
        shape = np.array(audited.config.schedules[label])
        for run in runs:
            peak = audited.tuning[run.result.seed].chosen[label]
            assert run.result.peak_lr == max(run.result.rate) == pytest.approx(peak)
            np.testing.assert_allclose(run.result.rate, shape / shape.max() * peak)
            assert len(run.result.rate) == 11


def test_a_peak_that_was_not_the_best_is_refused(experiment, tmp_path):
    copy = shutil.copytree(experiment, tmp_path / "place") / "tensorboard/tuned"
    path = results.tuning_path(copy, 1)
    grid = json.loads(path.read_text())
    grid["chosen"]["exp"] = 1e-5
    path.write_text(json.dumps(grid))
    with pytest.raises(Refusal, match="chosen peaks are not those of least loss"):
        audit.audit(copy)


@pytest.mark.faults
@pytest.mark.parametrize("sign", ["tuning/seed-0.json", "*/seed-*/train", "*/seed-0/result.json"])
def test_after_a_kill_in_the_grid_or_in_the_runs_a_resume_ends_the_same(experiment, tmp_path, sign):
    shutil.copytree(experiment / "images", tmp_path / "images")
    shutil.copytree(experiment / ".cache", tmp_path / ".cache")
    command = subprocess.Popen([sys.executable, PROJECT / "train.py", *TUNED], cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    while not any((tmp_path / "tensorboard/tuned").glob(sign)):
        assert command.poll() is None
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    for damaged in list(tmp_path.glob("tensorboard/tuned/tuning/seed-0.json")):
        damaged.write_text("{")
    resumed = run_command("train.py", "--resume", "tensorboard/tuned", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    wanted = numbers(experiment / "tensorboard/tuned")
    assert numbers(tmp_path / "tensorboard/tuned") == wanted


@pytest.mark.parametrize("flag", ["--lr", "--peak-lr"])
def test_a_rate_does_not_go_with_tune(flag, tmp_path):
    refused = run_command("train.py", "--schedule", "exp", "--tune", flag, "1e-3", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "--tune chooses the rates itself; leave out --lr and --peak-lr" in refused.stderr


def test_a_schedule_that_is_0_throughout_cannot_be_tuned(tmp_path):
    (tmp_path / "mine.py").write_text("def zero(epoch, lr):\n    return 0\n")
    refused = run_command("train.py", "--schedule", "mine.py:zero", "--tune", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "mine.zero is 0 in every epoch" in refused.stderr
