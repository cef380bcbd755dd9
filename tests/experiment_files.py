"""Writes small experiments with the project's own writers, to be reported on and to be damaged."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from runtime import files
from storage import audit, events, results
from storage.settings import Settings
from verdict import summary
from verdict.ranking import rank

CLASSES, IMAGES = 3, 60
LABEL = np.arange(IMAGES, dtype=np.int32) % CLASSES
RATES = {"exp": [4e-5, 3e-5, 2e-5], "linear": [4e-5, 4e-5, 4e-6], "warm": [0.0, 2e-4, 4e-4]}
PEAKS = [1e-4, 1e-3, 1e-2, 1e-1]
CONDITIONS = results.Conditions(
    format=results.FORMAT,
    data="d" * 64,
    image_size=96,
    preprocessing="scale",
    weights="f" * 64,
    engine="litert 2",
    decoder="pillow 13",
    batch_size=64,
    dropout=0.2,
    tensorflow="2.21",
    keras="3.15",
    numpy="2.4",
)


def make_outputs(right: int, loss: float, seed: int = 0) -> results.Outputs:
    """Return outputs that are right about so many of IMAGES images, with that mean loss."""
    wrong = np.random.default_rng(seed).permutation(IMAGES)[right:]
    predicted = LABEL.copy()
    predicted[wrong] = (LABEL[wrong] + 1) % CLASSES
    spread = np.random.default_rng([seed, right]).permutation(np.linspace(0.5, 1.5, IMAGES))
    return results.Outputs(predicted, LABEL, np.float32(loss * spread))


def write_run(
    experiment: Path,
    label: str,
    seed: int,
    right: int,
    loss: float = 0.3,
    *,
    rates: list[float] | None = None,
    untrained: tuple[float, float] | None = None,
    images: int = 0,
) -> None:
    """Write a finished run; `images` chooses which images are wrong, `loss` may be NaN.

    `untrained` are accuracy and loss before the first epoch.
    """
    rates = RATES[label] if rates is None else rates
    outputs, accuracy = make_outputs(right, loss, images), float(np.float32(right / IMAGES))
    ends = {"accuracy": accuracy, "loss": 0.5, "val_accuracy": accuracy}
    ends["val_loss"] = float(outputs.loss.mean())
    parts = [(epoch + 1) / len(rates) for epoch in range(len(rates))]
    curves = {
        name: [end * part if "accuracy" in name else end / part for part in parts]
        for name, end in ends.items()
    } | {"rate": rates}
    run = results.run_directory(experiment, label, seed)
    shutil.rmtree(run, ignore_errors=True)
    for side in events.SIDES:
        (run / side).mkdir(parents=True)
    for epoch in range(len(rates)):
        logged = events.Epoch(**{name: of[epoch] for name, of in curves.items()})
        events.append_epoch(run, epoch, logged, 0.0)
    finite = {
        name: [value if np.isfinite(value) else None for value in curve]
        for name, curve in curves.items()
    }
    result = results.Result(label, seed, max(rates), CONDITIONS, **finite)
    if untrained:
        result = replace(result, untrained_accuracy=untrained[0], untrained_loss=untrained[1])
    results.write_outputs(run / results.VALIDATION, outputs)
    files.write_json(run / results.RESULT, asdict(result))


def write_reference(experiment: Path, right: int = 57, loss: float = 0.2) -> None:
    """Write the two files of a reference."""
    outputs = make_outputs(right, loss, seed=9)
    values = {"C": 0.3, "val_categorical_accuracy": right / IMAGES}
    values["val_loss"] = float(outputs.loss.mean(dtype=np.float64))
    files.write_json(experiment / results.REFERENCE, values)
    results.write_outputs(experiment / "reference.npz", outputs)


def write_experiment(
    experiment: Path,
    right: dict[str, list[int | None]],
    *,
    losses: dict[str, float] | None = None,
    rates: dict[str, list[float]] | None = None,
    seeds: int | None = None,
    grids: list[dict[str, list[float | None]]] | None = None,
    **data: object,
) -> Path:
    """Write an experiment of runs that are right about so many images, by schedule and seed.

    With --tune, `grids` holds the losses at PEAKS by seed and schedule; None: no run, or diverged.
    """
    experiment.mkdir(parents=True)
    rates = rates or {label: RATES[label] for label in right}
    seeds = seeds or max(map(len, right.values()))
    about = {"name": "shapes", "class_names": ["disc", "noise", "stripes"], "train": [40, 40, 40]}
    about |= {"validation": np.bincount(LABEL).tolist(), "left_out": [], "notes": []}
    settings = Settings(list(rates), experiment.name, image_size=96, seeds=seeds, tune=bool(grids))
    config = results.Config(settings, rates, results.Data(**about | data), CONDITIONS, None, "3.11")
    results.write_config(experiment, config, [f"image {i}" for i in range(IMAGES)])
    for seed, loss in enumerate(grids or []):
        tuning = results.Tuning(PEAKS, loss, results.choose_peaks(PEAKS, loss))
        results.write_tuning(experiment, seed, tuning)
    for label, counts in right.items():
        for seed, count in enumerate(counts):
            tuning = audit.read_tuning(experiment, config, seed)
            planned = results.planned_rates(config, tuning, label)
            loss = (losses or {}).get(label, 0.3)
            if count is not None:
                write_run(experiment, label, seed, count, loss, rates=planned, images=seed)
    return experiment


def write_report(experiment: Path) -> str:
    """Audit and report on an experiment; returns the summary."""
    found = audit.read_experiment(experiment)
    return summary.write_report(found, rank(found))
