"""Exports the best schedule's whole model: uint8 images in, probabilities out.

The `.keras` file holds class_names.json, too: the names of the outputs, a list of strings.
"""

import json
import os
import zipfile
from pathlib import Path

import numpy as np

import model
from intervals import Ranking
from results import HEAD, Experiment, ExperimentError, run_directory


def require_free(path: Path) -> None:
    """Raise ExperimentError where a file is in the way or its folder is missing."""
    if path.exists():
        raise ExperimentError(f"--export {path} exists; choose another name")
    if not path.absolute().parent.is_dir():
        raise ExperimentError(f"--export {path}: there is no folder {path.parent}")


def export(experiment: Experiment, ranking: Ranking, path: Path) -> None:
    """Write the model of the best schedule's first seed to a `.keras` file.

    The lowest seed, not the run that happens to be best on the validation images: that would
    choose by what it is judged by. An experiment that is resumed may have its model already.
    """
    # Of this experiment, so that a resume finds and replaces what a killed process left.
    temporary = path.with_name(f".{experiment.directory.absolute().name}.{path.name}")
    temporary.unlink(missing_ok=True)
    if path.exists():
        return
    if not ranking.runs:
        raise ExperimentError(f"--export {path}: every run diverged, so none is best")
    label, best = next(iter(ranking.runs.items()))
    result = best[0].result
    run = run_directory(experiment.directory, label, result.seed)
    with np.load(run / HEAD, allow_pickle=False) as head:
        kernel, bias = head["kernel"], head["bias"]
    settings = experiment.config.settings
    preparation = settings.image_size, settings.preprocessing, settings.weights
    whole = model.join_model(kernel, bias, *preparation, settings.dropout)
    # Keras writes a file piece by piece, and a link is made only where there is no file yet.
    try:
        whole.save(temporary)
        names = json.dumps(experiment.config.data.class_names, ensure_ascii=False)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr("class_names.json", names)
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    print(f"model of {label} seed {result.seed}: {path}")
