"""What several test files share: small real image folders, and the command run as a user does."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
PROJECT = Path(__file__).parents[1]


def write_images(folder, classes=("disc", "stripes", "noise"), each=8, size=32):
    """Write `each` PNG images of every class, CLASS/N.png; a class is a pattern, images differ."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    patterns = {
        "disc": (np.hypot(x - size / 2, y - size / 2) < size / 3) * 200,
        "stripes": (x // 4 % 2) * 200,
        "noise": random.integers(0, 200, (size, size)),
    }
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = np.repeat(patterns[name][..., None], 3, -1)
            pixels = pixels + random.integers(0, 50, (size, size, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def run_command(program, *arguments, cwd, **options):
    """Run a command of the project in a folder and return the finished process."""
    line = [sys.executable, PROJECT / program, *map(str, arguments)]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=300, **options)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of 24 images in 3 classes; not to be changed."""
    return write_images(tmp_path_factory.mktemp("data") / "patterns")
