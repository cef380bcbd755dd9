"""Ask an exported model what images show: for each the class, its probability, and the second.

python predict.py best.tflite photo.jpg photos/
python predict.py best.tflite photos/ --json        # one JSON object a line
"""

import json
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


def load_model(path: Path) -> tuple[list[str], Callable[[np.ndarray], np.ndarray]]:
    """Return what is in a file of --export; raises cli.Refusal.

    The names of the classes, and a function: uint8 (H, W, 3) -> probabilities (classes,).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.read("labels.txt").decode().split("\n")
        if path.suffix == ".keras":
            # A .tflite file answers without TensorFlow, whose import takes seconds.
            from tensorflow_setup import keras

            model = keras.saving.load_model(path)
            return names, lambda pixels: model.predict_on_batch(pixels[None])[0]
        graph = litert.Graph(path.read_bytes(), tasks.cores())
        return names, lambda pixels: graph.run(pixels[None])[0].copy()
    except (ImportError, OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        advice = "give a .tflite or .keras file that train.py --export wrote"
        raise cli.Refusal(f"{path}: {reason}; {advice}") from None


def find_images(path: str) -> list[str]:
    """Return the images in a folder as training finds them, or a file; raises cli.Refusal."""
    images = []
    for folder in sources.scan(path):
        # A file, or a folder that cannot be read: reading it as an image tells why.
        images += [folder.path] if folder.error else folder.images
    if not images:
        raise cli.Refusal(f"{path}: no {' '.join(sources.EXTENSIONS)} in this folder")
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
    except cli.Refusal as error:
        return cli.refuse("predict.py", error)
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
        first, second = (names[i] for i in np.argsort(-probabilities, kind="stable")[:2])
        probability = float(probabilities.max())
        answer = {"path": path, "class": first, "probability": probability, "second": second}
        if given.json:
            print(json.dumps(answer))
        else:
            print(f"{line}: {first} {probability:.4f}, then {second}")
    return status


if __name__ == "__main__":
    cli.set_up_streams()
    sys.exit(main())
