"""The whole command, as a user runs it: real images, real processes, a real TensorBoard server."""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import logs
import numpy as np
import pytest

import features
import model
import schedulers
import train

PROJECT = Path(features.__file__).parent
EPOCHS = 3


def command(*arguments, cwd, check=True):
    """Run `python train.py` somewhere and return the finished process."""
    line = [sys.executable, str(PROJECT / "train.py"), *map(str, arguments)]
    done = subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=300)
    if check:
        assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def arguments(images):
    chosen = ["--schedule", "exp", "linear_warmup", "--data", images, "--seeds", 2, "--epochs", EPOCHS]
    return [*chosen, "--image-size", 32, "--lr", "1e-3", "--batch-size", 8]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def told(arguments, place):
    """What the command printed; its experiment is tensorboard/first below `place`."""
    return command(*arguments, "--name", "first", "--export", "whole.keras", cwd=place)


def all_scalars(experiment):
    return {
        (run.parent.name, run.name, side): logs.scalars(run / side)
        for run in logs.run_directories(experiment)
        for side in ("train", "validation")
    }


def test_an_experiment_is_complete(told, place):
    experiment = place / "tensorboard" / "first"
    runs = [str(run.relative_to(experiment)) for run in logs.run_directories(experiment)]
    assert runs == ["exp/seed-0", "exp/seed-1", "linear_warmup/seed-0", "linear_warmup/seed-1"]
    config = logs.read_json(experiment / "config.json")
    assert config["arguments"]["lr"] == 1e-3
    assert config["data"]["class_names"] == ["disc", "noise", "stripes"]
    assert sum(config["data"]["train"].values()) + sum(config["data"]["validation"].values()) == 24
    assert config["versions"]["tensorflow"]
    for name in ("summary.md", "comparison.svg", "reference.json", "exp/epoch_loss.svg"):
        assert (experiment / name).stat().st_size
    assert not [path for path in place.rglob("*") if path.name.endswith(".tmp")]


def test_the_console_tells_data_results_and_where_they_are(told):
    assert "24 images" in told.stdout or "training and" in told.stdout
    assert "stripes" in told.stdout
    assert "24 computed" in told.stdout
    assert told.stdout.count("validation accuracy") >= 4
    assert told.stdout.rstrip().endswith("tensorboard --logdir tensorboard")


def test_nothing_is_said_on_standard_error(told):
    assert told.stderr == ""


def test_again_everything_comes_from_the_cache_and_is_the_same_to_the_last_bit(told, arguments, place):
    again = command(*arguments, "--name", "again", cwd=place)
    assert "0 computed, 24 from" in again.stdout
    first, second = (all_scalars(place / "tensorboard" / name) for name in ("first", "again"))
    assert first == second


def test_a_removed_run_is_done_again_and_nothing_else(told, place):
    experiment = place / "resumed"
    shutil.copytree(place / "tensorboard" / "first", experiment)
    before = {path: path.read_bytes() for path in experiment.rglob("*") if path.is_file()}
    (experiment / "exp/seed-1/result.json").unlink()
    (experiment / "summary.md").unlink()
    kept = (experiment / "exp/seed-0/result.json").stat().st_mtime_ns
    resumed = command("--resume", experiment, cwd=place)
    assert resumed.stdout.count(" epochs; best") == 1
    assert (experiment / "exp/seed-0/result.json").stat().st_mtime_ns == kept
    assert all_scalars(experiment) == all_scalars(place / "tensorboard" / "first")
    for path, content in before.items():
        if "tfevents" not in path.name and path.suffix != ".keras":  # they hold the time
            assert path.read_bytes() == content, path


def test_resume_refuses_data_that_changed(told, place, images, tmp_path):
    shutil.copytree(images, tmp_path / "own")
    shutil.copytree(place / "tensorboard" / "first", tmp_path / "moved")
    config = logs.read_json(tmp_path / "moved/config.json")
    config["arguments"]["data"] = str(tmp_path / "own")
    logs.write_json(tmp_path / "moved/config.json", config)
    shutil.copy(tmp_path / "own/disc/1.png", tmp_path / "own/disc/2.png")
    refused = command("--resume", tmp_path / "moved", cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "the data changed since it was started" in refused.stderr
    assert refused.stderr.count("\n") == 1


EVALUATE = """
import json, sys, zipfile
import numpy as np, keras
from PIL import Image
model = keras.models.load_model(sys.argv[1])
names = json.loads(zipfile.ZipFile(sys.argv[1]).read("class_names.json"))
right = 0
pairs = json.loads(sys.argv[2])
for path, name in pairs:
    image = np.asarray(Image.open(path).convert("RGB"))
    probabilities = model.predict(image[None], verbose=0)[0]
    assert abs(probabilities.sum() - 1) < 1e-5
    right += names[int(probabilities.argmax())] == name
print(right / len(pairs))
"""


def test_the_exported_model_has_the_accuracy_of_its_run_in_a_fresh_process(told, place, images):
    import data

    dataset = data.load(str(images))
    pairs = [(dataset.names[row], dataset.class_names[dataset.labels[row]])
             for row in dataset.rows[dataset.validation]]  # fmt: skip
    line = [sys.executable, "-c", EVALUATE, place / "whole.keras", json.dumps(pairs)]
    measured = subprocess.run(line, capture_output=True, text=True, check=True, cwd=place).stdout
    results = [logs.read_json(run / "result.json") for run in logs.run_directories(place / "tensorboard" / "first")]
    best = max(result["final"]["val_categorical_accuracy"] for result in results)
    assert float(measured) == pytest.approx(best, abs=1e-6)


def test_a_schedule_of_ones_own_is_trained(told, place, images):
    (place / "mine.py").write_text("def half(epoch, lr):\n    return lr / 2\n")
    own = ["--schedule", "mine.py:half", "--data", images, "--epochs", 2, "--image-size", 32, "--name", "own"]
    command(*own, cwd=place)
    rates = logs.scalars(place / "tensorboard/own/mine.half/seed-0/train")[logs.RATE]
    assert rates == [np.float32(2e-5), np.float32(1e-5)]


def test_tensorboard_serves_every_run_and_the_rates_of_the_schedules(told, place):
    logdir, said = place / "tensorboard" / "first", place / "tensorboard.log"
    # Port 0: the server takes a free one and says which; one chosen here could be taken by then.
    line = [sys.executable, "-m", "tensorboard.main", "--logdir", logdir, "--port", "0", "--host", "127.0.0.1"]
    with said.open("w") as log:
        server = subprocess.Popen(line, stdout=log, stderr=log, cwd=place)
    try:
        deadline = time.monotonic() + 120
        while not (address := re.search(r"TensorBoard \S+ at (http://[\d.:]+/)", said.read_text())):
            assert server.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.2)

        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy serves this machine itself

        def served(path, body=None):
            request = urllib.request.Request(f"{address[1]}{path}", body and json.dumps(body).encode())
            request.add_header("Content-Type", "application/json")
            return json.load(direct.open(request, timeout=30))

        wanted = {f"{schedule}/seed-{seed}/{side}" for schedule in ("exp", "linear_warmup") for seed in (0, 1)
                  for side in ("train", "validation")}  # fmt: skip
        while not wanted <= set(served("data/plugin/scalars/tags")) and time.monotonic() < deadline:
            time.sleep(0.5)
        tags = served("data/plugin/scalars/tags")
        assert wanted <= set(tags)
        for name in wanted:
            assert {logs.ACCURACY, logs.LOSS} <= set(tags[name])
        for schedule, function in (("exp", schedulers.exp), ("linear_warmup", schedulers.linear_warmup)):
            query = urllib.parse.urlencode({"tag": logs.RATE, "run": f"{schedule}/seed-1/train"})
            points = served(f"data/plugin/scalars/scalars?{query}")
            assert [step for _, step, _ in points] == list(range(EPOCHS))
            expected = [np.float32(rate) for rate in schedulers.unroll(function, EPOCHS, 1e-3)]
            assert [np.float32(value) for _, _, value in points] == expected
        asked = {"allowedStatuses": ["STATUS_SUCCESS"], "sliceSize": 10, "colParams": []}
        groups = served("data/plugin/hparams/session_groups", asked)["sessionGroups"]
        shown = {(group["hparams"]["schedule"], group["hparams"]["seed"]) for group in groups}
        assert shown == {("exp", 0), ("exp", 1), ("linear_warmup", 0), ("linear_warmup", 1)}
        metrics = {(each["name"]["group"], each["name"]["tag"]) for each in groups[0]["metricValues"]}
        assert {("validation", logs.ACCURACY), ("train", logs.RATE)} <= metrics
    finally:
        server.terminate()
        server.wait(20)


@pytest.mark.parametrize("arguments", [["--help"], ["--schedule", "exq"]])
def test_help_and_typos_need_neither_tensorflow_nor_numpy(arguments, tmp_path):
    script = (
        "import sys, train\ntry: print(train.main(sys.argv[1:]))\nexcept SystemExit: pass\n"
        "assert not {'tensorflow', 'numpy', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, *arguments], cwd=PROJECT, check=True, capture_output=True)


def test_what_the_command_repeats_so_as_to_start_light_is_what_the_modules_say(capsys):
    assert train.options_from(["--schedule", "all"]).cache_dir == features.CACHE
    with pytest.raises(SystemExit):
        train.options_from(["--schedule", "all", "--preprocessing", "none"])
    assert re.findall(r"'?(\w+)'?[,)]", capsys.readouterr().err.partition("choose from ")[2]) == [*model.PREPROCESSING]
