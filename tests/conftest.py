"""What several test files share: small real image folders, and the command run as a user does."""

import os

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # as train.py sets them

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime import files
from storage import events, results

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
PROJECT = Path(__file__).parents[1]


def write_images(folder, classes=("disc", "stripes", "noisé"), each=8, size=32):
    """Write `each` PNG images of every class, CLASS/N.png; a class is a pattern, images differ."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    patterns = {
        "disc": (np.hypot(x - size / 2, y - size / 2) < size / 3) * 200,
        "stripes": (x // 4 % 2) * 200,
        "noisé": random.integers(0, 200, (size, size)),
    }
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = np.repeat(patterns[name][..., None], 3, -1)
            pixels = pixels + random.integers(0, 50, (size, size, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def run_python(*arguments, cwd=PROJECT, **options):
    """Run Python, by default in the project's folder, and return the finished process."""
    line = [sys.executable, *map(str, arguments)]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=300, **options)


def run_command(program, *arguments, **options):
    """Run a command of the project, and return the finished process."""
    return run_python(PROJECT / program, *arguments, **options)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of 24 images in 3 classes; not to be changed."""
    return write_images(tmp_path_factory.mktemp("data") / "patterns")


# An experiment that takes seconds: two schedules, two seeds, three epochs, small images.
EXPERIMENT = [
    *("--schedule", "exp", "linear_warmup", "--seeds", "2", "--epochs", "3", "--batch-size", "4"),
    *("--lr", "1e-2", "--peak-lr", "1e-1", "--data", "images", "--image-size", "32"),
    *("--validation-fraction", "0.4", "--name", "one"),
    *("--export", "model.keras", "model.tflite"),
]
RESUME = ["--resume", "tensorboard/one"]
RUNS = [("exp", 0), ("exp", 1), ("linear_warmup", 0), ("linear_warmup", 1)]


def run_experiment(images, place, arguments):
    """Run train.py in a new folder with a copy of the images, and return the folder."""
    shutil.copytree(images, place / "images")
    finished = run_command("train.py", *arguments, cwd=place)
    assert (finished.returncode, finished.stderr) == (0, "")
    (place / "stdout").write_text(finished.stdout)
    return place


@pytest.fixture(scope="session")
def whole(images, tmp_path_factory):
    """The folder of an experiment that nothing happened to, with its images; not to be changed."""
    return run_experiment(images, tmp_path_factory.mktemp("whole") / "place", EXPERIMENT)


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(whole, tmp_path / "place")


@pytest.fixture(scope="session")
def tensorboard(whole):
    """The address of a TensorBoard that serves that experiment."""
    line = [sys.executable, "-m", "tensorboard.main", "--logdir", whole / "tensorboard/one"]
    log, end = whole.with_name("log"), time.monotonic() + 60
    with log.open("w") as file:  # Port 0: the server takes a free one and says which.
        options = {"stdout": file, "stderr": file}
        server = subprocess.Popen([*line, "--port", "0", "--host", "127.0.0.1"], **options)
    try:
        while not (address := re.search(r"TensorBoard \S+ at (http://[\d.:]+/)", log.read_text())):
            assert server.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield address[1]
    finally:
        server.terminate()
        server.wait(30)


def numbers(experiment):
    """`{file: content}` of an experiment, without what holds times or names of places.

    Of event files the scalars, of .npz and .json the bytes.
    """
    found = {}
    for path in sorted(experiment.rglob("*")):
        name = str(path.relative_to(experiment))
        if "tfevents" in name:
            found[name] = events.read_scalars(path.parent)
        elif path.is_file() and path.name not in (files.LOCK, results.EXPORTS):
            found[name] = path.read_bytes()
    return found
