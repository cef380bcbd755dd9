"""The audit: an experiment whose files disagree, by damage or forgery, is refused by name."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from experiment_files import IMAGES, make_outputs, write_experiment, write_reference, write_run

import events
import report
import results
from files import FileError

RUN = "linear/seed-1"


@pytest.fixture
def experiment(tmp_path):
    """An experiment of two schedules and two seeds, and a reference."""
    write_experiment(tmp_path / "x", {"exp": [30, 31], "linear": [56, 57]})
    write_reference(tmp_path / "x")
    return tmp_path / "x"


def assert_refused(experiment, message):
    """Assert that the report refuses an experiment by this message and writes nothing."""
    with pytest.raises(FileError, match=message):
        report.write(experiment)
    assert not list(experiment.rglob("*.svg")) and not (experiment / "summary.md").exists()


@pytest.mark.parametrize(
    ("file", "field", "value", "message"),
    [
        (f"{RUN}/result.json", "val_categorical_accuracy", 0.99, f"{RUN}: epoch 2: val_cat"),
        (f"{RUN}/result.json", "loss", 0.1, f"{RUN}: epoch 2: loss 0.5 was logged"),
        (f"{RUN}/result.json", "rates.0", 1e-5, f"{RUN}: result.json has other rates"),
        (f"{RUN}/result.json", "conditions.dropout", 0.5, f"{RUN}: its dropout is 0.5, that of"),
        (f"{RUN}/result.json", "conditions.keras", "3", "its keras is '3', that of .* '3.15'"),
        (f"{RUN}/result.json", "conditions.data", "e", "its data is 'e', that of"),
        ("config.json", "conditions.dropout", 0.5, "its dropout is 0.2, that of .* is 0.5"),
        ("config.json", "conditions.batch_size", 8, "its batch_size is 64, that of"),
        ("config.json", "conditions.image_size", 8, "its image_size is 96, that of"),
        ("config.json", "schedules.exp", [1e-5] * 3, "exp/seed-0: result.json has other rates"),
        ("config.json", "data.validation", [21, 20, 20], "does not hold 61 validation images"),
        ("config.json", "data.validation", [21, 19, 20], "its labels are not those of"),
        ("config.json", "settings.seeds", 1, "exp/seed-1 is not a run of this experiment"),
        ("config.json", "more", 1, "not in the format of this version .more."),
        ("reference.json", "val_categorical_accuracy", 0.99, "accuracy 0.9.*, 0.99 was logged"),
        ("reference.json", "val_loss", 0.1, "loss 0.2 of its images, 0.1 was logged"),
    ],
)
def test_a_forged_number_is_refused(experiment, file, field, value, message):
    content = json.loads((experiment / file).read_text())
    *parents, last = field.split(".")
    place = content
    for parent in parents:
        place = place[parent]
    place[int(last) if last.isdecimal() else last] = value
    (experiment / file).write_text(json.dumps(content))
    assert_refused(experiment, message)


def cut_events(experiment):
    path = experiment / RUN / "validation" / events.FILE
    os.truncate(path, path.stat().st_size - 7)


def log_another_rate(experiment):
    (experiment / RUN / "train" / events.FILE).unlink()
    for epoch, rate in enumerate([4e-5, 4.00001e-5, 4e-6]):
        events.append_scalars(experiment / RUN / "train", epoch, {events.RATE: rate}, 0.0)


def replace_predictions(experiment):
    results.write_outputs(experiment / RUN / "validation.npz", make_outputs(60, 0.3))


def replace_labels(experiment):
    outputs = replace(make_outputs(57, 0.3, 1), label=np.zeros(IMAGES, np.int32))
    results.write_outputs(experiment / RUN / "validation.npz", outputs)


def swap_runs(experiment):
    (experiment / RUN).rename(experiment / "moved")
    (experiment / "exp/seed-1").rename(experiment / RUN)


def add_run(experiment):
    write_run(experiment, "other", 0, 30, rates=[1e-5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut_events, "linear/seed-1/validation/events.* is damaged"),
        (log_another_rate, "linear/seed-1: epoch 1: learning rate 4.00001e-05 was logged"),
        (replace_predictions, "linear/seed-1/validation.npz: accuracy 1.0 of its images"),
        (replace_labels, "linear/seed-1/validation.npz: its labels are not those of"),
        (swap_runs, "linear/seed-1: result.json is of exp seed 1"),
        (add_run, "other/seed-0 is not a run of this experiment"),
    ],
)
def test_a_file_of_something_else_is_refused(experiment, change, message):
    change(experiment)
    assert_refused(experiment, message)
