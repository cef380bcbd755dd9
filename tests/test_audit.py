"""The audit: an experiment whose files disagree, by damage or forgery, is refused by name."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import RESUME, numbers, run_command
from experiment_files import (
    CONDITIONS,
    IMAGES,
    make_outputs,
    write_experiment,
    write_reference,
    write_run,
)

import report
from runtime import files
from runtime.messages import Refusal
from storage import audit, events, results
from storage.dataclass_files import read_dataclass

RUN = "linear/seed-1"
LOG = f"validation/{events.FILE}"


@pytest.fixture
def experiment(tmp_path):
    """An experiment of two schedules and two seeds, and a reference."""
    write_experiment(tmp_path / "x", {"exp": [30, 31], "linear": [56, 57]})
    write_reference(tmp_path / "x")
    return tmp_path / "x"


def assert_refused(experiment, message):
    """Assert that the report refuses an experiment by this message and writes nothing."""
    with pytest.raises(Refusal, match=message):
        audit.read_experiment(experiment)
    assert report.main([str(experiment)]) == 2
    assert not list(experiment.rglob("*.svg")) and not (experiment / "summary.md").exists()


@pytest.mark.parametrize(
    ("file", "field", "value", "message"),
    [
        (f"{RUN}/result.json", "val_accuracy.2", 0.99, f"{RUN}: epoch 2: val_accuracy"),
        (f"{RUN}/result.json", "loss.0", 0.1, f"{RUN}: epoch 0: loss 1.5 was logged"),
        (f"{RUN}/result.json", "val_loss", [0.1], f"{RUN}: val_loss: 3 epochs logged, 1 in"),
        (f"{RUN}/result.json", "rate.0", 1e-5, f"{RUN}: result.json has other rates"),
        (f"{RUN}/result.json", "conditions.dropout", 0.5, f"{RUN} was made with dropout 0.5"),
        (f"{RUN}/result.json", "conditions.keras", "3", "was made with keras '3' instead of"),
        ("reference.json", "more", 1, "not in the format of this version .unknown: more."),
        ("config.json", "schedules.exp", [1e-5] * 3, "exp/seed-0: result.json has other rates"),
        ("config.json", "data.validation", [21, 20, 20], "does not hold 61 validation images"),
        ("config.json", "data.validation", [21, 19, 20], "its labels are not those of"),
        ("config.json", "settings.seeds", 1, "exp/seed-1 is not a run of this experiment"),
        ("config.json", "more", 1, "not in the format of this version .unknown: more."),
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


def test_a_record_takes_defaults_for_what_it_lacks_and_refuses_what_it_does_not_know(experiment):
    path = experiment / "config.json"
    written = json.loads(path.read_text())
    del written["settings"]["skip_damaged"]
    path.write_text(json.dumps(written))
    assert not audit.read_experiment(experiment).config.settings.skip_damaged
    del written["conditions"]["dropout"]
    written["conditions"]["noise"] = 1
    path.write_text(json.dumps(written))
    assert_refused(experiment, r"config.json is not .* \(unknown: noise; missing: dropout\)")


def test_a_grid_of_an_older_version_is_read(tmp_path):
    write_experiment(tmp_path / "x", {"exp": [50]}, grids=[{"exp": [3, 1, 2, 4]}])
    path = results.tuning_path(tmp_path / "x", 0)
    path.write_text(json.dumps({**json.loads(path.read_text()), "accuracy": {"exp": [0.5] * 4}}))
    assert audit.read_experiment(tmp_path / "x").tuning[0].chosen == {"exp": 1e-3}


def cut(name, count, run=RUN):
    def change(experiment):
        path = experiment / run / name
        os.truncate(path, path.stat().st_size - count)

    return change


def log_another_rate(experiment):
    curves = vars(read_dataclass(results.Result, experiment / RUN / results.RESULT))
    for side in events.SIDES:
        (experiment / RUN / side / events.FILE).unlink()
    for epoch, rate in enumerate([4e-5, 4.00001e-5, 4e-6]):
        logged = {name: curves[name][epoch] for name in events.CURVES} | {"rate": rate}
        events.append_epoch(experiment / RUN, epoch, events.Epoch(**logged), 0.0)


def replace_predictions(experiment):
    results.write_outputs(experiment / RUN / "validation.npz", make_outputs(60, 0.3))


def replace_labels(experiment):
    outputs = replace(make_outputs(57, 0.3, 1), label=np.zeros(IMAGES, np.int32))
    results.write_outputs(experiment / RUN / "validation.npz", outputs)


def swap_runs(experiment):
    (experiment / RUN).rename(experiment / "moved")
    (experiment / "exp/seed-1").rename(experiment / RUN)


def permute_outputs(experiment):
    path = experiment / RUN / "validation.npz"
    with np.load(path) as arrays:
        results.write_outputs(path, results.Outputs(**{k: v[::-1] for k, v in arrays.items()}))


def flip_a_bit(experiment):
    path = experiment / RUN / "train" / events.FILE
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def log_an_epoch_twice(experiment):
    events.append_epoch(experiment / RUN, 2, events.Epoch(*[0.5] * 5), 0.0)


def add_run(experiment):
    write_run(experiment, "other", 0, 30, rates=[1e-5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut(LOG, 7), "linear/seed-1/validation/events.* is damaged"),
        (permute_outputs, "labels of its runs or its reference are in different orders"),
        (flip_a_bit, "linear/seed-1/train/events.* is damaged"),
        (log_an_epoch_twice, "is not logged once for every epoch"),
        (cut("validation.npz", 30), "linear/seed-1/validation.npz cannot be read"),
        (cut("result.json", 40), "linear/seed-1/result.json cannot be read"),
        (log_another_rate, "linear/seed-1: epoch 1: rate 4.00001e-05 was logged"),
        (replace_predictions, "linear/seed-1/validation.npz: accuracy 1.0 of its images"),
        (replace_labels, "linear/seed-1/validation.npz: its labels are not those of"),
        (swap_runs, "linear/seed-1: result.json is of exp seed 1"),
        (add_run, "other/seed-0 is not a run of this experiment"),
    ],
)
def test_a_file_of_something_else_is_refused(experiment, change, message):
    change(experiment)
    assert_refused(experiment, message)


def test_damaged_runs_are_done_again_and_nothing_else(copy, whole):
    experiment = copy / "tensorboard/one"
    result = experiment / "exp/seed-0/result.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"val_loss": [0.1] * 3}))
    cut(LOG, 7, "linear_warmup/seed-1")(experiment)
    shutil.rmtree(experiment / "linear_warmup/seed-0")
    resumed = run_command("train.py", *RESUME, cwd=copy)
    assert resumed.returncode == 0
    told = resumed.stderr.splitlines()
    assert len(told) == 2 and all(line.endswith("; this run is done again") for line in told)
    trained = [line.split(":")[0] for line in resumed.stdout.splitlines() if " seed " in line][:3]
    assert set(trained) == {"exp seed 0", "linear_warmup seed 0", "linear_warmup seed 1"}
    assert numbers(experiment) == numbers(whole / "tensorboard/one")


def test_an_experiment_without_a_finished_run_or_without_config_is_refused(tmp_path):
    write_experiment(tmp_path / "x", {"exp": [], "linear": []})
    with pytest.raises(Refusal, match=r"does not hold a finished run; train\.py --resume"):
        audit.read_experiment(tmp_path / "x")
    with pytest.raises(Refusal, match=r"does not hold config\.json"):
        audit.read_experiment(tmp_path)


FIRST = "exp/seed-0"
RUN_FILES = ["weights.npz", "validation.npz", "result.json"]


def flip(content, at):
    """Return a content with one bit changed."""
    changed = bytearray(content)
    changed[at] ^= 1
    return bytes(changed)


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeros at the end": lambda content: content[:-40] + bytes(40),
    "a flipped bit": lambda content: flip(
        content, 20 if content[:1] == b"{" else len(content) // 2
    ),
    "another kind of file": lambda content: b"\x80\x04N.",
}


def vouch(run):
    """Let result.json vouch for the files beside it."""
    np.savez(run / "weights.npz", kernel=np.ones((1280, 3), np.float32))
    result = files.read_json(run / results.RESULT)
    result["sha256"] = {name: files.hash_file(run / name) for name in results.VOUCHED}
    files.write_json(run / results.RESULT, result)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", RUN_FILES)
def test_a_damaged_file_of_a_run_is_refused_whatever_its_damage(tmp_path, name, damage):
    experiment = write_experiment(tmp_path / "x", {"exp": [50]})
    path = experiment / FIRST / name
    vouch(path.parent)
    audit.read_experiment(experiment)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Refusal, match=f"{name}|result.json|exp/seed-0"):
        audit.read_experiment(experiment)


def test_weights_of_another_run_are_refused_and_missing_ones_are_not(tmp_path):
    experiment = write_experiment(tmp_path / "x", {"exp": [50]})
    vouch(experiment / FIRST)
    np.savez(experiment / FIRST / "weights.npz", kernel=np.zeros((1280, 3), np.float32))
    with pytest.raises(Refusal, match="weights.npz is not the file that result.json vouches for"):
        audit.read_experiment(experiment)
    (experiment / FIRST / "weights.npz").unlink()
    audit.read_experiment(experiment)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", ["reference.json", "reference.npz", "tuning/seed-0.json"])
def test_a_damaged_reference_or_grid_is_refused(tmp_path, name, damage):
    grids = [{"exp": [3, 1, 2, 4]}]
    experiment = write_experiment(tmp_path / "x", {"exp": [50]}, grids=grids)
    write_reference(experiment)
    path = experiment / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Refusal, match=f"{path.stem}"):
        audit.read_experiment(experiment)


@pytest.mark.parametrize("name", ["reference.json", "tuning/seed-0.json"])
def test_a_reference_or_grid_made_under_other_conditions_is_refused(tmp_path, name):
    grids = [{"exp": [3, 1, 2, 4]}]
    experiment = write_experiment(tmp_path / "x", {"exp": [50]}, grids=grids)
    write_reference(experiment)
    content = files.read_json(experiment / name)
    files.write_json(experiment / name, content | {"conditions": "0123456789abcdef"})
    with pytest.raises(Refusal, match="was made under other conditions"):
        audit.read_experiment(experiment)
    files.write_json(experiment / name, content | {"conditions": CONDITIONS.key})
    config = results.read_config(experiment)
    assert audit.read_reference(experiment, config) and audit.read_tuning(experiment, config, 0)


@pytest.mark.parametrize(
    ("name", "change", "field"),
    [
        ("config.json", {"schedules": {"exp": ["1e-3"]}}, "schedules"),
        ("config.json", {"schedules": []}, "schedules"),
        ("config.json", {"git_commit": 7}, "git_commit"),
        ("exp/seed-0/result.json", {"seed": True}, "seed"),
        ("exp/seed-0/result.json", {"loss": "0.3"}, "loss"),
        ("exp/seed-0/result.json", {"sha256": {"weights.npz": 1}}, "sha256"),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(tmp_path, name, change, field):
    path = write_experiment(tmp_path / "x", {"exp": [50]}) / name
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(Refusal, match=rf"{path.name} is not in .*of another type: {field}\b"):
        audit.read_experiment(tmp_path / "x")


@pytest.mark.parametrize("label", ["../../victim", "/victim", "..", ".hidden", "a/b", "a\nb", ""])
def test_a_label_that_is_not_a_plain_folder_name_is_refused(tmp_path, label):
    path = write_experiment(tmp_path / "x", {"exp": [50]}) / results.CONFIG
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"schedules": {label: [1e-3]}}))
    with pytest.raises(Refusal, match="is not a plain folder name; restore it"):
        audit.read_experiment(tmp_path / "x")


def test_another_folder_of_the_same_seed_is_not_a_run(tmp_path):
    experiment = write_experiment(tmp_path / "x", {"exp": [50]})
    shutil.copytree(experiment / FIRST, experiment / "exp/seed-00")
    assert len(audit.read_experiment(experiment).runs["exp"]) == 1


def test_a_link_in_place_of_the_names_of_images_is_not_followed(tmp_path):
    experiment = write_experiment(tmp_path / "x", {"exp": [50]})
    (tmp_path / "secret").write_text("secret\n" * 60)
    (experiment / results.IMAGES).unlink(missing_ok=True)
    (experiment / results.IMAGES).symlink_to(tmp_path / "secret")
    with pytest.raises(Refusal, match="validation-images.txt is not a file"):
        results.read_image_names(experiment)
