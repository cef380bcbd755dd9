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

import cli
import litert
import sources
import tasks
from data import DamagedImage, decode

Classifier = Callable[[np.ndarray], np.ndarray]  # uint8 (H, W, 3) to probabilities (classes,)


def load_model(path: Path) -> tuple[list[str], Classifier]:
    """Return class names and classifier of a file that --export wrote."""
    with zipfile.ZipFile(path) as archive:
        names = archive.read("labels.txt").decode().split("\n")
    if path.suffix == ".keras":
        # A .tflite file answers without TensorFlow, whose import takes seconds.
        from tensorflow_setup import keras

        model = keras.saving.load_model(path)
        return names, lambda pixels: model.predict_on_batch(pixels[None])[0]

    graph = litert.Graph(path.read_bytes(), tasks.cores())
    return names, lambda pixels: graph.run(pixels[None])[0].copy()


def find_images(path: str) -> list[str]:
    """Return the images below a folder, as training finds them; raises sources.DataError."""
    if not os.path.isdir(path):
        return [path]
    images = [image for folder in sources.scan(path) for image in folder.images]
    if not images:
        raise sources.DataError(f"{path}: no {' '.join(sources.EXTENSIONS)} in this folder")
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
        names, classify = load_model(given.model)
    except sources.DataError as error:
        return cli.refuse("predict.py", error)
    except (ImportError, OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        advice = "give a .tflite or .keras file that train.py --export wrote"
        return cli.refuse("predict.py", f"{given.model}: {reason}; {advice}")
    status, source = 0, sources.FileParts([(path, 0, -1) for path in paths])
    for path, encoded in zip(paths, source.read(range(len(paths))), strict=True):
        line = sources.one_line(path)
        try:
            probabilities = classify(decode(encoded))
        except DamagedImage as error:
            print(f"predict.py: {line}: {error}", file=sys.stderr)
            status = 1
            continue
        # Of equal ones the first, as in training.
        first, second = np.argsort(-probabilities, kind="stable")[:2]
        answer = {"class": names[first], "probability": float(probabilities[first])}
        answer["second"] = names[second]
        if given.json:
            print(json.dumps({"path": path} | answer))
        else:
            print(line + ": {class} {probability:.4f}, then {second}".format(**answer))
    return status


if __name__ == "__main__":
    cli.set_up_streams()
    sys.exit(main())
