"""Ask an exported model what images show: the class and the second, with their probabilities.

python predict.py best.tflite photo.jpg photos/
python predict.py best.tflite photos/ --json        # one JSON object a line
"""

import itertools
import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import data
from features import litert
from runtime import cli, files, tasks
from runtime.messages import Refusal, one_line
from sources import folders
from sources.decoding import DamagedImage, decode
from sources.source import FileParts

LARGEST_LABELS = 2**20  # bytes


def load_model(path: Path) -> tuple[list[str], Callable[[np.ndarray], np.ndarray]]:
    """Return the class names in a file of --export, and its model; raises Refusal.

    The model is a function: uint8 (1, H, W, 3) -> probabilities (1, classes), to be copied.
    """
    try:
        files.require_regular(path)
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("labels.txt").file_size > LARGEST_LABELS:
                raise ValueError("labels.txt is too large")
            names = archive.read("labels.txt").decode().split("\n")
        if path.suffix == ".keras":
            # A .tflite file answers without TensorFlow, whose import takes seconds.
            from runtime.tensorflow_setup import keras

            answer = keras.saving.load_model(path).predict_on_batch
        else:
            graph = litert.Graph(path.read_bytes(), tasks.cores())

            def answer(image: np.ndarray) -> np.ndarray:
                return graph.run(image)[0]

        (outputs,) = answer(np.zeros((1, 32, 32, 3), np.uint8))[0].shape
        if outputs != len(names):
            raise ValueError(f"labels.txt names {len(names)} classes of {outputs}")
        return list(map(one_line, names)), answer
    # A model of another tool raises almost anything.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        advice = "give a .tflite or .keras file that train.py --export wrote"
        raise Refusal(f"{path}: {reason}; {advice}") from None


def find_images(path: str) -> tuple[list[str], list[str]]:
    """Return the images in a folder as training finds them, and what else may be one; or a file.

    A file that is named itself counts as what it would be in a folder. Raises Refusal.
    """
    if os.path.isdir(path):
        found = folders.scan(path).values()
        images = [image for folder in found for image in folder.images]
        return images, [other for folder in found for other in folder.others]
    return ([path], []) if path.lower().endswith(folders.EXTENSIONS) else ([], [path])


def ask(
    names: list[str],
    model: Callable[[np.ndarray], np.ndarray],
    encoded: bytes | OSError,
    remarks: list[str],
) -> dict[str, str | float]:
    """Return what a model says of an image, or why it cannot; adds what the user should know."""
    try:
        probabilities = model(decode(encoded, remarks)[None])[0]
    except DamagedImage as error:
        return {"error": str(error)}
    # Of equal ones the first, as in training.
    first, second = np.argsort(-probabilities, kind="stable")[:2]
    answer = {"class": names[first], "probability": float(probabilities[first])}
    return answer | {"second": names[second], "second_probability": float(probabilities[second])}


def show(path: str, answer: dict[str, str | float], as_json: bool) -> None:
    """Print the answer for an image on one line; an error to standard error, unless it is JSON."""
    if as_json:
        print(json.dumps({"path": path} | answer))
    elif "error" in answer:
        print(f"predict.py: {one_line(path)}: {answer['error']}", file=sys.stderr)
    else:
        line = "{class} {probability:.4f}, then {second} {second_probability:.4f}"
        print(f"{one_line(path)}: {line.format(**answer)}")


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each image; return 1 if one has no answer, 2 if nothing can be done."""
    parser = cli.Parser("predict.py", __doc__)
    parser.add_argument("model", type=Path, help="a .tflite or .keras file of train.py --export")
    parser.add_argument("images", nargs="+", help="images, or folders of images")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    given = parser.parse_args(arguments)
    try:
        found = [find_images(argument) for argument in given.images]
        paths, others = (list(itertools.chain(*lists)) for lists in zip(*found, strict=True))
        notes = [folders.describe_unread(others)] if others else []
        if not paths:
            absent = f"{', '.join(given.images)}: no {' '.join(folders.EXTENSIONS)}"
            raise Refusal("; ".join([absent, *notes]))
        names, model = load_model(given.model)
    except Refusal as error:
        return cli.refuse("predict.py", error)
    status, remarks, images = int(bool(others)), {}, FileParts([(path, 0, -1) for path in paths])
    for number, encoded in enumerate(images.read(range(len(paths)))):
        answer = ask(names, model, encoded, found := [])
        show(paths[number], answer, given.json)
        status |= "error" in answer
        if found:
            remarks[number] = "; ".join(found)
    for path in others if given.json else ():
        show(path, {"error": "not read"}, as_json=True)
    for note in notes + data.remark_notes(list(map(one_line, paths)), remarks):
        print(f"note: {note}", file=sys.stderr)
    return status


if __name__ == "__main__":
    cli.set_up_streams()
    sys.exit(main())
