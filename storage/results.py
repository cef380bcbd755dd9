"""The format of an experiment on disk: its dataclasses, and how they are written and read.

    NAME/config.json                     settings, schedules, data, conditions of all runs
    NAME/validation-images.txt           names of the validation images, in the order of the .npz
    NAME/duplicates.txt                  equal images in two classes or on both sides, if any
    NAME/SCHEDULE/seed-K/train/          event files of TensorBoard
    NAME/SCHEDULE/seed-K/validation/
    NAME/SCHEDULE/seed-K/weights.npz     all that was trained, at the end
    NAME/SCHEDULE/seed-K/validation.npz  what the model says of every validation image at the end
    NAME/SCHEDULE/seed-K/result.json     written last: a run without it is not finished
    NAME/SCHEDULE/mean/                  event files: the mean over seeds, written at the end
    NAME/tuning/seed-K.json              with --tune: the grid of peaks, and the chosen ones
    NAME/reference.json, reference.npz   the logistic regression on the same features
    NAME/exports.json                    sha256 of each exported file, by path

training/runs.py puts runs in place, events.py knows event files, verdict/ adds summary.md and SVGs.
"""

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from runtime import files
from runtime.messages import Refusal, first_line, one_line
from schedulers import scale_to_peak
from storage.dataclass_files import read_dataclass
from storage.settings import Settings

FORMAT = 4  # raise it when what is stored, or how a run is computed, changes
CONFIG, RESULT, WEIGHTS, VALIDATION = "config.json", "result.json", "weights.npz", "validation.npz"
VOUCHED = WEIGHTS, VALIDATION  # files of a run whose sha256 is in its result.json
REFERENCE, IMAGES, EXPORTS = "reference.json", "validation-images.txt", "exports.json"
# Training images that the reference is fitted on, so that its time and memory stay bounded.
MOST_REFERENCE_IMAGES = 20_000
PART = 4096  # losses that are summed up at once; another number would round differently


@dataclass(frozen=True)
class Data:
    """The images that the runs used."""

    name: str
    class_names: list[str]
    train: list[int]  # images of each class
    validation: list[int]
    left_out: list[str]  # names of damaged images
    notes: list[str]


@dataclass(frozen=True)
class Conditions:
    """What all runs of an experiment have in common, because their numbers depend on it."""

    format: int
    data: str  # fingerprint of images, labels, class names and split
    image_size: int
    preprocessing: str
    weights: str  # sha256 of the backbone's file
    engine: str
    decoder: str
    batch_size: int
    dropout: float
    tensorflow: str
    keras: str
    numpy: str
    # What came later has a default: what was done before.
    fine_tune: str | None = None  # the first block that is trained; None: the head alone
    steps_per_epoch: int | None = None  # None: one pass over the training images

    @property
    def key(self) -> str:
        """A hash of all conditions, for what is stored beside runs."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Config:
    """The content of config.json."""

    settings: Settings
    schedules: dict[str, list[float]]  # label -> rate of every epoch
    data: Data
    conditions: Conditions
    git_commit: str | None
    python: str


@dataclass(frozen=True)
class Result:
    """The content of result.json; curves have a value for every epoch, None if not finite."""

    schedule: str
    seed: int
    peak_lr: float
    conditions: Conditions
    rate: list[float]
    accuracy: list[float | None]  # on training images while they are trained on
    loss: list[float | None]  # likewise
    val_accuracy: list[float | None]  # after the epoch
    val_loss: list[float | None]
    # Of the model before its first epoch, on the validation images.
    untrained_accuracy: float | None = None
    untrained_loss: float | None = None
    sha256: dict[str, str] | None = None  # of files beside it, by name; None: not kept

    def curve(self, name: str) -> np.ndarray:
        """Return a curve as float64 (epochs,), NaN where it is not finite."""
        return np.array(getattr(self, name), np.float64)


@dataclass(frozen=True)
class Outputs:
    """What a trained model says of every validation image; N images."""

    predicted: np.ndarray  # (N,) int32, -1 where the output is not finite
    label: np.ndarray  # (N,) int32
    loss: np.ndarray  # (N,) float32, nats

    @property
    def accuracy(self) -> float:
        """Categorical accuracy."""
        return float(np.mean(self.predicted == self.label))

    @property
    def mean_loss(self) -> float:
        """Mean loss, summed up in float64 as it always was, part by part."""
        parts = np.split(self.loss.astype(np.float64), range(PART, len(self.loss), PART))
        return float(sum(part.sum() for part in parts) / len(self.loss))


@dataclass(frozen=True)
class Run:
    """A finished run, read and audited."""

    result: Result
    outputs: Outputs
    diverged: bool  # see is_diverged

    @property
    def is_finite(self) -> bool:
        """Whether its validation loss is finite, so that it counts in means."""
        return self.result.val_loss[-1] is not None


@dataclass(frozen=True)
class Reference:
    """The logistic regression on the same features."""

    C: float
    val_categorical_accuracy: float
    val_loss: float
    outputs: Outputs
    conditions: str | None = None  # hash of the conditions that it was made under


@dataclass(frozen=True)
class Tuning:
    """The content of tuning/seed-K.json: how each head of the grid ends; None where it diverged."""

    RETIRED: ClassVar = ("accuracy",)
    peaks: list[float]
    loss: dict[str, list[float | None]]  # label -> loss of every peak on the held-out fifth
    chosen: dict[str, float]  # label -> peak; without labels whose heads all diverged
    conditions: str | None = None  # hash of the conditions that it was made under


@dataclass(frozen=True)
class Experiment:
    """An audited experiment."""

    directory: Path
    config: Config
    runs: dict[str, list[Run]]  # label -> finished runs by seed; labels without one are left out
    reference: Reference | None
    tuning: dict[int, Tuning]  # seed -> its grid; empty without --tune


def choose_peaks(peaks: list[float], loss: dict[str, list[float | None]]) -> dict[str, float]:
    """Return the peak of least loss of each schedule, the lower of equal ones."""
    chosen = {}
    for label, losses in loss.items():
        pairs = [pair for pair in zip(losses, peaks, strict=True) if pair[0] is not None]
        if pairs:
            chosen[label] = min(pairs)[1]
    return chosen


def is_diverged(result: Result, images: int) -> bool:
    """Whether a run ends with a loss that is not finite, or clearly worse than it began.

    Clearly: with twice the loss of the untrained model, and with an accuracy on so many validation
    images that lies by two standard errors below that of the untrained model.
    """
    if result.loss[-1] is None or result.val_loss[-1] is None:
        return True
    if result.untrained_accuracy is None or result.untrained_loss is None:
        return False
    before = result.untrained_accuracy
    deviation = math.sqrt(before * (1 - before) / images)
    is_worse = result.val_accuracy[-1] < before - 2 * deviation
    return is_worse and result.val_loss[-1] > 2 * result.untrained_loss


def planned_rates(config: Config, tuning: Tuning | None, label: str) -> list[float] | None:
    """Return the rates that a run of a schedule trains with; None where all its heads diverged."""
    if tuning is None:
        return config.schedules[label]
    peak = tuning.chosen.get(label)
    return peak and scale_to_peak(config.schedules[label], peak)


def run_directory(experiment: Path, label: str, seed: int) -> Path:
    """Return where the run of a schedule and a seed belongs."""
    return experiment / label / f"seed-{seed}"


def tuning_path(experiment: Path, seed: int) -> Path:
    """Return where the grid of a seed belongs."""
    return experiment / "tuning" / f"seed-{seed}.json"


def write_config(experiment: Path, config: Config, images: list[str]) -> None:
    """Write config.json, and the names of the validation images."""
    files.write_json(experiment / CONFIG, dataclasses.asdict(config))
    text = "".join(f"{name}\n" for name in images)
    files.write_atomically(experiment / IMAGES, text.encode(errors="backslashreplace"))


def read_image_names(experiment: Path) -> list[str]:
    """Return the names of the validation images; raises Refusal."""
    path = experiment / IMAGES
    # A link in an experiment of others could show any file.
    if path.is_symlink() or not path.is_file():
        raise Refusal(f"{path} is not a file; restore it")
    return path.read_text("utf-8").splitlines()


def write_outputs(path: Path, outputs: Outputs) -> None:
    """Write predicted, label and loss of every validation image."""
    np.savez_compressed(path, **vars(outputs))


def write_tuning(experiment: Path, seed: int, tuning: Tuning) -> None:
    """Write the grid of a seed."""
    path = tuning_path(experiment, seed)
    path.parent.mkdir(exist_ok=True)
    files.write_json(path, dataclasses.asdict(tuning))


def write_reference(experiment: Path, reference: Reference) -> None:
    """Write the reference, its numbers last."""
    path, numbers = experiment / REFERENCE, dict(vars(reference))
    write_outputs(path.with_suffix(".npz"), numbers.pop("outputs"))
    files.write_json(path, numbers)


def read_config(experiment: Path) -> Config:
    """Return config.json; raises Refusal where it is missing or in another format."""
    path = experiment / CONFIG
    if not path.is_file():
        raise Refusal(f"{experiment} does not hold {CONFIG}; give a folder train.py made")
    config = read_dataclass(Config, path)
    if config.conditions.format != FORMAT:
        reason = f"is of format {config.conditions.format}, this version has {FORMAT}"
        raise Refusal(f"{path} {reason}; use the commit in it")
    for label in config.schedules:
        # Its runs are written to a folder of this name, and replaced there.
        if not re.fullmatch(r"\w[\w.-]*", label):
            raise Refusal(f"{path}: {one_line(label)!r} is not a plain folder name; restore it")
    return config


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays in an .npz file by name; raises Refusal."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    # A damaged archive raises almost anything.
    except Exception as error:
        raise Refusal(f"{path} cannot be read: {first_line(error)}") from None


def read_outputs(path: Path, data: Data) -> Outputs:
    """Return the outputs in an .npz file; raises Refusal unless they fit the data."""
    arrays = read_arrays(path)
    if arrays.keys() != {"predicted", "label", "loss"}:
        raise Refusal(f"{path} does not hold predicted, label and loss")
    outputs = Outputs(**arrays)
    count = sum(data.validation)
    if any(array.shape != (count,) for array in vars(outputs).values()):
        raise Refusal(f"{path} does not hold {count} validation images")
    kinds = [array.dtype.kind for array in vars(outputs).values()]
    if kinds != ["i", "i", "f"] or outputs.label.min(initial=0) < 0:
        raise Refusal(f"{path} does not hold classes and losses")
    if np.bincount(outputs.label, minlength=len(data.validation)).tolist() != data.validation:
        raise Refusal(f"{path}: its labels are not those of the validation images")
    return outputs


def finished_runs(experiment: Path) -> list[tuple[str, int]]:
    """List the label and seed of every run with a result, whatever is in it."""
    runs = [path.parent for path in experiment.glob(f"*/seed-*/{RESULT}")]
    names = [(run.parent.name, run.name.removeprefix("seed-")) for run in runs]
    # Not 00, which would be another folder of seed 0.
    return sorted(
        (label, int(seed)) for label, seed in names if re.fullmatch("0|[1-9][0-9]*", seed)
    )
