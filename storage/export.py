"""Exports the whole model of a run: uint8 images in, probabilities out.

`.keras` is for Keras, `.tflite` for phones and whatever else runs LiteRT, `.fp16.tflite` half as
large. All are ZIP archives, too, and hold labels.txt: the names of the outputs, one a line.
"""

import contextlib
import hashlib
import os
import zipfile
from pathlib import Path

import model
from runtime import files
from runtime.messages import Refusal
from runtime.tensorflow_setup import keras
from storage.phones import LABELS, prepare_for_phones
from storage.results import EXPORTS, WEIGHTS, Experiment, read_arrays, run_directory

HALF = ".fp16.tflite"  # what the name of a model with weights in float16 ends in


def require_free(paths: list[Path]) -> None:
    """Raise Refusal where a file is in the way, named twice, or its folder is missing."""
    for path in paths:
        if path.exists():
            raise Refusal(f"--export {path} exists; choose another name")
        if not path.parent.is_dir():
            raise Refusal(f"--export {path}: there is no folder {path.parent}")
        if [other.resolve() for other in paths].count(path.resolve()) > 1:
            raise Refusal(f"--export names {path.resolve()} twice; leave one out")


def export_model(experiment: Experiment, label: str, seed: int, paths: list[Path]) -> None:
    """Write the model of a run to `.keras` and `.tflite` files.

    A file of this experiment stays; raises Refusal where there is another one.
    """
    settings = experiment.config.settings
    path = run_directory(experiment.directory, label, seed) / WEIGHTS
    try:
        weights = read_arrays(path)
    except Refusal as error:
        raise Refusal(f"{error}; remove {path.parent}, and --resume makes it again") from None
    whole = model.join_model(settings.recipe, weights, settings.dropout)
    record = experiment.directory / EXPORTS
    hashes = files.read_json(record) if record.exists() else {}
    for path in paths:
        # Named after the experiment, so that a resume overwrites what a killed process left, and
        # another experiment does not.
        owner = hashlib.sha256(bytes(experiment.directory.absolute())).hexdigest()[:8]
        temporary = path.with_name(f".{owner}.{path.name}")
        with contextlib.suppress(FileExistsError):
            try:
                if not path.exists():
                    _write(
                        temporary, whole, settings.image_size, experiment.config.data.class_names
                    )
                    # Recorded before the file has its name, so that a resume knows it as its own.
                    hashes[str(path)] = files.hash_file(temporary)
                    files.write_json(record, hashes)
                    _publish(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        if hashes.get(str(path)) != files.hash_file(path):
            raise Refusal(f"--export {path} exists and is not this experiment's; move it away")
        print(f"model of {label} seed {seed}: {path}")


def _publish(temporary: Path, path: Path) -> None:
    """Give a whole file its name; raises FileExistsError rather than replace another one."""
    try:
        # Unlike a renamed file, a link never replaces what another process wrote meanwhile.
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # Network shares and exFAT have no links. What a killed process leaves here is no whole
        # file, and is refused by its checksum.
        with open(path, "xb") as file:
            file.write(temporary.read_bytes())


def _write(path: Path, whole: keras.Model, image_size: int, class_names: list[str]) -> None:
    if path.suffix == ".keras":
        whole.save(path)
    else:
        content = model.convert(whole, half=path.name.endswith(HALF))
        path.write_bytes(prepare_for_phones(content, image_size))
    # As in TensorFlow Lite's metadata, the archive is appended to the flatbuffer.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(LABELS, "\n".join(class_names))
