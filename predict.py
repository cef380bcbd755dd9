"""Ask an exported model what images show: for each the class, its probability, and the second.

python predict.py best.tflite photo.jpg photos/
python predict.py best.tflite photos/ --json        # one JSON object a line
"""

import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from features import litert
from runtime import cli, tasks
from runtime.messages import Refusal, one_line
from sources import folders
from sources.decoding import DamagedImage, decode
from sources.source import FileParts


def load_model(path: Path) -> tuple[list[str], Callable[[np.ndarray], np.ndarray]]:
    """Return the class names in a file of --export, and its model; raises Refusal.

    The model is a function: uint8 (1, H, W, 3) -> probabilities (1, classes), to be copied.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.read("labels.txt").decode().split("\n")
        if path.suffix == ".keras":
            # A .tflite file answers without TensorFlow, whose import takes seconds.
            from runtime.tensorflow_setup import keras

            return names, keras.saving.load_model(path).predict_on_batch
        return names, litert.Graph(path.read_bytes(), tasks.cores()).run
    except (ImportError, OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        advice = "give a .tflite or .keras file that train.py --export wrote"
        raise Refusal(f"{path}: {reason}; {advice}") from None


def find_images(path: str) -> list[str]:
    """Return the images in a folder as training finds them, or a file; raises Refusal."""
    if not os.path.isdir(path):
        return [path]
    images = [image for folder in folders.scan(path).values() for image in folder.images]
    if not images:
        raise Refusal(f"{path}: no {' '.join(folders.EXTENSIONS)} in this folder")
    return images


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each image; return 1 if an image is damaged, 2 if nothing can be done."""
    parser = cli.Parser("predict.py", __doc__)
    parser.add_argument("model", type=Path, help="a .tflite or .keras file of train.py --export")
    parser.add_argument("images", nargs="+", help="images, or folders of images")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    given = parser.parse_args(arguments)
    try:
        paths = [path for argument in given.images for path in find_images(argument)]
        names, model = load_model(given.model)
    except Refusal as error:
        return cli.refuse("predict.py", error)
    status, images = 0, FileParts([(path, 0, -1) for path in paths])
    for path, encoded in zip(paths, images.read(range(len(paths))), strict=True):
        try:
            probabilities = model(decode(encoded)[None])[0].copy()
        except DamagedImage as error:
            print(f"predict.py: {one_line(path)}: {error}", file=sys.stderr)
            status = 1
            continue
        # Of equal ones the first, as in training.
        first, second = (names[i] for i in np.argsort(-probabilities, kind="stable")[:2])
        answer = {"path": path, "class": first, "probability": float(probabilities.max())}
        line = f"{one_line(path)}: {first} {answer['probability']:.4f}, then {second}"
        print(json.dumps(answer | {"second": second}) if given.json else line)
    return status


if __name__ == "__main__":
    cli.set_up_streams()
    sys.exit(main())
