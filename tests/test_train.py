"""The command as a user runs it: what it leaves, what it says, and that nothing is done twice."""

import json
import os
import re
import shutil
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from conftest import EXPERIMENT, PROJECT, RESUME, RUNS, numbers, run_command, run_python

from runtime import files
from storage import events, results

# The experiment without name, export and the rate that only linear_warmup reads.
PEAK = EXPERIMENT.index("--peak-lr")
SHORT = EXPERIMENT[:PEAK] + EXPERIMENT[PEAK + 2 : -5]
RATE = events.CURVES["rate"][1]
SIDES = {side: {tag for where, tag in events.CURVES.values() if where == side}
    for side in events.SIDES}  # fmt: skip


def test_an_experiment_is_complete(whole):
    experiment = whole / "tensorboard/one"
    found = {str(path.relative_to(experiment)) for path in experiment.rglob("*") if path.is_file()}
    run = ["weights.npz", "result.json", "validation.npz", f"train/{events.FILE}"]
    run += [f"validation/{events.FILE}", events.FILE]
    wanted = {f"{label}/seed-{seed}/{name}" for label, seed in RUNS for name in run}
    for label in ("exp", "linear_warmup"):
        wanted |= {f"{label}/mean/{side}/{events.FILE}" for side in SIDES}
    assert wanted <= found
    others = {name for name in found - wanted if not name.endswith(".svg")}
    assert others == {"config.json", "validation-images.txt", "reference.json", "reference.npz",
        "summary.md", "exports.json", files.LOCK}  # fmt: skip
    names = (experiment / "validation-images.txt").read_text().splitlines()
    config = results.read_config(experiment)
    assert len(names) == sum(config.data.validation)
    assert all((whole / name).exists() for name in names)


def test_the_console_tells_data_runs_answer_and_where_the_logs_are(whole):
    told = (whole / "stdout").read_text()
    config = results.read_config(whole / "tensorboard/one")
    train, validation = sum(config.data.train), sum(config.data.validation)
    counts = f"{train} training and {validation} validation images of 3 classes"
    assert told.startswith(f"images: {counts}\n") and train + validation == 24
    for label, seed in RUNS:
        accuracy = rf"^{label} seed {seed}: validation accuracy [01]\.\d{{4}}, loss "
        assert re.search(accuracy, told, re.MULTILINE)
    summary = (whole / "tensorboard/one/summary.md").read_text()
    assert summary.splitlines()[0] in told
    links = re.findall(r"logdir tensorboard/one\n +http://localhost:6006/\?runFilter=(.*)", told)
    after = "%2Fvalidation&smoothing=0#timeseries"
    assert links == [f"seed-0{after}", f"mean{after}"] and told.endswith(f"{after}\n")


def test_the_logged_rates_are_the_schedules_and_the_mean_is_the_mean(whole):
    experiment = whole / "tensorboard/one"
    config = results.read_config(experiment)
    for label, rates in config.schedules.items():
        places = [experiment / label / name for name in ("seed-0", "seed-1", "mean")]
        first, second, mean = map(events.read_curves, places)
        for name in events.CURVES:
            np.testing.assert_allclose(mean[name], (first[name] + second[name]) / 2, rtol=1e-6)
        np.testing.assert_array_equal(mean["rate"], np.float32(rates))
        for side, tags in SIDES.items():
            assert set(events.read_scalars(places[0] / side)) == tags


def test_again_from_the_cache_it_is_the_same_to_the_last_bit(copy, whole):
    shutil.rmtree(copy / "tensorboard")
    for model in copy.glob("model.*"):
        model.unlink()
    again = run_command("train.py", *EXPERIMENT, cwd=copy)
    assert "features: 0 computed, 24 from " in again.stdout
    assert numbers(copy / "tensorboard/one") == numbers(whole / "tensorboard/one")


ENVIRONMENTS = {
    "Keras": {"KERAS_BACKEND": "jax", "TF_USE_LEGACY_KERAS": "1", "KERAS_HOME": "."},
    "plots and letters": {"MPLBACKEND": "unknown", "LC_ALL": "C", "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0"},
    "no home": {"HOME": None},
}  # fmt: skip
KERAS_JSON = '{"floatx": "float16", "backend": "jax", "image_data_format": "channels_first"}'


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_the_users_environment_does_not_change_a_number(copy, whole, environment):
    for path in ("tensorboard", ".cache"):
        shutil.rmtree(copy / path)
    for path in copy.glob("model.*"):
        path.unlink()
    (copy / "keras.json").write_text(KERAS_JSON)
    users = {k: v for k, v in (os.environ | environment).items() if v is not None}
    done = run_command("train.py", *EXPERIMENT, cwd=copy, env=users)
    assert (done.returncode, done.stderr) == (0, "")
    assert numbers(copy / "tensorboard/one") == numbers(whole / "tensorboard/one")


def test_a_run_alone_is_the_run_of_a_larger_experiment_to_the_last_bit(copy):
    alone = [*SHORT, "--name", "alone", "--schedule", "exp", "--seeds", "1"]
    assert run_command("train.py", *alone, cwd=copy).returncode == 0
    run = results.run_directory(copy / "tensorboard/alone", "exp", 0)
    among = results.run_directory(copy / "tensorboard/one", "exp", 0)
    assert numbers(run) == numbers(among)


def test_a_finished_experiment_is_resumed_without_training_and_stays_as_it_is(copy, whole):
    resumed = run_command("train.py", *RESUME, cwd=copy)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert "validation accuracy 0." not in resumed.stdout.partition("#")[0]
    assert numbers(copy / "tensorboard/one") == numbers(whole / "tensorboard/one")


def rewrite(path, change):
    """Change the JSON object in a file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_resume_refuses_other_conditions_and_leaves_every_byte(copy):
    experiment = copy / "tensorboard/one"
    for path in experiment.rglob("*.json"):  # as if another version of Keras had made it
        if path.name in (results.CONFIG, results.RESULT):
            rewrite(path, lambda value: value["conditions"].update(keras="3.0.0"))
    before = numbers(experiment)
    refused = run_command("train.py", *RESUME, cwd=copy)
    assert refused.returncode == 2
    message = r"tensorboard/one was made with keras '3\.0\.0' instead of '[\d.]+'; restore that, .*"
    assert re.fullmatch(rf"train\.py: error: {message}\n", refused.stderr)
    assert numbers(experiment) == before
    for label, seed in RUNS:
        shutil.rmtree(results.run_directory(experiment, label, seed))
    assert run_command("train.py", *RESUME, cwd=copy).returncode == 0
    assert results.read_config(experiment).conditions.keras != "3.0.0"


def test_resume_refuses_data_that_changed(copy):
    (copy / "images/disc/3.png").unlink()
    refused = run_command("train.py", *RESUME, cwd=copy)
    assert refused.returncode == 2
    assert "tensorboard/one was made with data '" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_schedule_of_ones_own_is_trained(copy):
    (copy / "mine.py").write_text("def half(epoch, lr):\n    return lr / 2\n")
    arguments = [*SHORT, "--name", "own", "--schedule", "mine.py:half", "--seeds", "1"]
    assert run_command("train.py", *arguments, cwd=copy).returncode == 0
    rates = events.read_curves(copy / "tensorboard/own/mine.half/seed-0")["rate"]
    np.testing.assert_array_equal(rates, np.float32([5e-3, 2.5e-3, 1.25e-3]))


def test_tensorboard_serves_the_scalars_and_hyperparameters_of_every_run(tensorboard):
    def ask(path, body=None):
        body = body and json.dumps(body).encode()
        request = urllib.request.Request(f"{tensorboard}data/plugin/{path}", body)
        request.add_header("Content-Type", "application/json")
        return json.load(urllib.request.urlopen(request, timeout=30))

    wanted = {f"{label}/seed-{seed}/{side}" for label, seed in RUNS for side in SIDES}
    wanted |= {f"{label}/mean/{side}" for label, _ in RUNS for side in SIDES}
    end = time.monotonic() + 60
    while not wanted <= set(tags := ask("scalars/tags")):
        assert time.monotonic() < end, sorted(tags)
        time.sleep(0.2)
    assert {run: set(tags[run]) for run in wanted} == {run: SIDES[Path(run).name] for run in wanted}
    points = ask(f"scalars/scalars?tag={RATE}&run=linear_warmup/seed-1/train")
    assert [step for _, step, _ in points] == [0, 1, 2]
    assert [value for *_, value in points] == [np.float32(rate) for rate in (0, 1e-2, 2e-2)]
    asked = {"allowedStatuses": ["STATUS_SUCCESS"], "sliceSize": 9, "colParams": []}
    groups = ask("hparams/session_groups", asked)["sessionGroups"]
    shown = [(group["hparams"]["schedule"], group["hparams"]["seed"]) for group in groups]
    assert sorted(shown) == RUNS
    names = [value["name"] for value in groups[0]["metricValues"]]
    assert {"group": "validation", "tag": "epoch_loss"} in names
    assert {"group": "train", "tag": RATE} in names


@pytest.mark.parametrize("arguments", [["--help"], ["--schedule", "exq"]])
def test_help_and_typing_errors_do_not_need_tensorflow(arguments, tmp_path):
    code = f"import sys, train\ntry: sys.exit(train.main({arguments}))\n"
    code += "finally: print('tensorflow' in sys.modules)"
    told = run_python("-c", code)
    assert told.stdout.splitlines()[-1] == "False"
    assert told.returncode == (2 if "exq" in arguments else 0)


def test_the_accuracy_of_weights_in_float16_is_printed_beside_the_runs(copy):
    arguments = [*SHORT, "--name", "half", "--schedule", "exp", "--seeds", "1"]
    done = run_command("train.py", *arguments, "--export", "half.fp16.tflite", cwd=copy)
    assert (done.returncode, done.stderr) == (0, "")
    told = r"^half.fp16.tflite: validation accuracy (.*) with weights in float16, (.*) as trained$"
    measured, trained = map(float, re.search(told, done.stdout, re.MULTILINE).groups())
    path = results.run_directory(copy / "tensorboard/half", "exp", 0) / results.RESULT
    assert trained == round(json.loads(path.read_text())["val_accuracy"][-1], 4)
    # Of nine images at most one may change its class.
    assert abs(measured - trained) < 0.12


NOTEBOOK = """
import builtins, io, os, runpy, signal, sys
builtins.get_ipython = lambda: None  # IPython defines it
class OutStream(io.TextIOBase):  # has no reconfigure, and its fileno() raises, as in a notebook
    def write(self, text):
        return os.write(1, text.encode())
before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), os.fstat(2)
sys.stdout = sys.stderr = stream = OutStream()
sys.path.insert(0, os.path.dirname(sys.argv[1]))
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    print("status", end.code)
after = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), os.fstat(2)
print("as before", before == after and sys.stdout is sys.stderr is stream)
"""


def test_in_a_notebook_it_trains_and_leaves_streams_and_signals_alone(copy):
    arguments = [*SHORT, "--name", "notebook", "--schedule", "exp", "--seeds", "1"]
    told = run_python("-c", NOTEBOOK, PROJECT / "train.py", *arguments, cwd=copy)
    assert told.stdout.endswith("status 0\nas before True\n"), told.stdout + told.stderr
    # A folder that is taken is refused with the way on in a notebook.
    (copy / "tensorboard/notebook/reference.json").unlink()
    (copy / "tensorboard/notebook/reference.npz").unlink()
    (copy / "tensorboard/notebook/reference.json").mkdir()
    resume = ["--resume", "tensorboard/notebook"]
    told = run_python("-c", NOTEBOOK, PROJECT / "train.py", *resume, cwd=copy)
    line = f"continue with: %run {PROJECT / 'train.py'} --resume tensorboard/notebook\n"
    assert line in told.stdout and told.stdout.endswith("status 2\nas before True\n")
