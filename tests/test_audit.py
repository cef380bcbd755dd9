"""Damage of every kind is found by the audit, named in one line, and mended by --resume."""

import json
import os
import shutil

import numpy as np
import pytest
from conftest import RESUME, numbers, run_command

import audit
import events
import results
from files import FileError

RUN = "linear_warmup/seed-1"


def rewrite(path, **changes):
    """Change fields of the JSON object in a file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def replace_array(path, name, index, value):
    """Change one number in an .npz file."""
    with np.load(path) as arrays:
        arrays = dict(arrays)
    arrays[name][index] = value
    np.savez_compressed(path, **arrays)


def log(side, epochs):
    """Write an event file anew, with these rates or accuracies."""
    side.joinpath(events.FILE).unlink()
    for epoch, values in enumerate(epochs):
        events.append_scalars(side, epoch, values, 0.0)


def change_logged_rate(run):
    scalars = events.read_scalars(run / "train")
    scalars[events.RATE][1] *= 1.0001
    log(run / "train", [{tag: v[e] for tag, v in scalars.items()} for e in range(3)])


def lose_last_epoch(run):
    scalars = events.read_scalars(run / "validation")
    log(run / "validation", [{tag: v[e] for tag, v in scalars.items()} for e in range(2)])


def log_an_epoch_twice(run):
    events.append_scalars(run / "validation", 2, {events.LOSS: 0.5}, 0.0)


def cut(path, count):
    os.truncate(path, path.stat().st_size - count)


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a logged rate": (change_logged_rate, "epoch 1: learning rate 0.010001 was logged, 0.01"),
    "an epoch less": (lose_last_epoch, "val_categorical_accuracy is not logged for each of its 3"),
    "an epoch twice": (log_an_epoch_twice, "epoch_loss has epoch 2 twice"),
    "no event file": (lambda run: (run / "train" / events.FILE).unlink(), "not hold an event file"),
    "a cut event file": (lambda run: cut(run / "train" / events.FILE, 7), "is damaged"),
    "a flipped bit": (lambda run: flip(run / "train" / events.FILE, 200), "is damaged"),
    "a better accuracy": (
        lambda run: rewrite(run / "result.json", val_categorical_accuracy=1.25),
        "epoch 2: val_categorical_accuracy",
    ),
    "another rate": (lambda run: rewrite(run / "result.json", rates=[0, 0, 0]), "has other rates"),
    "another seed": (
        lambda run: rewrite(run / "result.json", seed=7),
        "is of linear_warmup seed 7",
    ),
    "a field more": (lambda run: rewrite(run / "result.json", extra=1), "is not in the format"),
    "half a result": (lambda run: cut(run / "result.json", 40), "result.json cannot be read"),
    "a prediction": (
        lambda run: replace_array(run / "validation.npz", "predicted", 0, 99),
        "of its images",
    ),
    "a loss": (lambda run: replace_array(run / "validation.npz", "loss", 0, 9), "of its images"),
    "a label": (lambda run: replace_array(run / "validation.npz", "label", 0, 1), "labels are not"),
    "no outputs": (lambda run: (run / "validation.npz").unlink(), "cannot be read"),
    "cut outputs": (lambda run: cut(run / "validation.npz", 30), "validation.npz cannot be read"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_of_a_run_is_refused_and_named(copy, what):
    damage, message = DAMAGE[what]
    experiment = copy / "tensorboard/one"
    damage(experiment / RUN)
    with pytest.raises(FileError) as refused:
        audit.audit(experiment)
    assert RUN in str(refused.value) and message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_damaged_runs_are_done_again_and_nothing_else(copy, whole):
    experiment = copy / "tensorboard/one"
    rewrite(experiment / "exp/seed-0/result.json", val_loss=0.1)
    change_logged_rate(experiment / RUN)
    shutil.rmtree(experiment / "linear_warmup/seed-0")
    resumed = run_command("train.py", *RESUME, cwd=copy)
    assert resumed.returncode == 0
    told = resumed.stderr.splitlines()
    assert len(told) == 2 and all(line.endswith("; this run is done again") for line in told)
    trained = [line.split(":")[0] for line in resumed.stdout.splitlines() if " seed " in line][:3]
    assert set(trained) == {"exp seed 0", "linear_warmup seed 0", "linear_warmup seed 1"}
    assert numbers(experiment) == numbers(whole / "tensorboard/one")


def test_the_reference_is_compared_with_its_own_outputs(copy):
    experiment = copy / "tensorboard/one"
    rewrite(experiment / "reference.json", val_categorical_accuracy=0.5)
    with pytest.raises(FileError, match=r"reference.json: accuracy .* 0.5 was logged"):
        audit.audit(experiment)


def test_runs_made_under_other_conditions_or_by_another_experiment_are_refused(copy):
    experiment = copy / "tensorboard/one"
    run = experiment / RUN
    conditions = json.loads((run / "result.json").read_text())["conditions"]
    rewrite(run / "result.json", conditions=conditions | {"dropout": 0.5})
    with pytest.raises(FileError, match=r"seed-1 was made with dropout 0\.5 instead of 0\.2"):
        audit.audit(experiment)
    rewrite(run / "result.json", conditions=conditions)
    shutil.copytree(run, experiment / "linear_warmup/seed-2")
    with pytest.raises(FileError, match="seed-2 is not a run of this experiment; move it away"):
        audit.audit(experiment)


def test_an_experiment_without_a_finished_run_or_without_config_is_refused(copy, tmp_path):
    for label in ("exp", "linear_warmup"):
        shutil.rmtree(copy / "tensorboard/one" / label)
    with pytest.raises(FileError, match=r"does not hold a finished run; train.py --resume"):
        audit.audit(copy / "tensorboard/one")
    with pytest.raises(FileError, match=r"does not hold config\.json"):
        audit.audit(tmp_path)


def test_a_run_that_diverged_is_told_from_one_that_never_learned(copy):
    experiment = copy / "tensorboard/one"
    config = results.read_config(experiment)
    run = audit.audit_run(experiment, config, "exp", 0, None)
    assert not run.diverged
    scalars = events.read_scalars(experiment / "exp/seed-0/train")
    scalars[events.LOSS][-1] = 1.2  # ln 3 is 1.0986, the loss of guessing
    log(experiment / "exp/seed-0/train", [{t: v[e] for t, v in scalars.items()} for e in range(3)])
    rewrite(experiment / "exp/seed-0/result.json", loss=1.2)
    assert audit.audit_run(experiment, config, "exp", 0, None).diverged
