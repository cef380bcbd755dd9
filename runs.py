"""The runs of one seed: trained side by side, logged epoch by epoch, and put where they belong.

A new run is written in place. A run that replaces a finished one, and every attempt on a cluster,
is written to .seed-K.TOKEN.new and renamed when it is whole; between the two renames the old one is
.seed-K.old. So nothing finished is lost, whenever a process is killed.
"""

import math
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import events
import files
import heads
from progress import Progress
from results import HEAD, RESULT, VALIDATION, Conditions, Result, Run, run_directory, write_outputs


@dataclass(frozen=True)
class RunsTask:
    """The runs of one seed that are trained side by side."""

    experiment: Path
    heads: heads.HeadsTask
    conditions: Conditions
    report_progress: Callable[[Progress], None]
    retries: bool  # Another attempt at these runs may still be writing.


@dataclass(frozen=True)
class Attempt:
    """A trained run that lacks only its result.json."""

    place: Path  # where it was written
    run: Path  # where it belongs
    result: Result


def train_runs(task: RunsTask) -> list[Attempt]:
    """Train the runs of a task, log every epoch, and return them to be published."""
    seed, start, last = task.heads.seed, time.time(), {}
    runs = {label: run_directory(task.experiment, label, seed) for label in task.heads.rates}
    places = {label: _begin(run, task.retries) for label, run in runs.items()}

    def log(epoch: int, metrics: dict[str, heads.EpochMetrics]) -> None:
        for label, of in metrics.items():
            _log(places[label], epoch, of.rate, of.accuracy, of.loss, of.val_accuracy, of.val_loss)
        last.update(metrics)
        task.report_progress(Progress(seed, metrics))

    finished = []
    for label, head in heads.train_heads(task.heads, log).items():
        rates, of = task.heads.rates[label], last[label]
        final = (of.accuracy, of.loss, of.val_accuracy, of.val_loss)
        final = [value if math.isfinite(value) else None for value in final]
        result = Result(label, seed, max(rates), rates, task.conditions, *final)
        hyperparameters = {
            "schedule": label,
            "seed": seed,
            "epochs": len(rates),
            "first rate": rates[0],
            "peak rate": max(rates),
            "last rate": rates[-1],
            "mean rate": float(np.mean(rates)),
            "batch size": task.heads.batch_size,
            "dropout": task.heads.dropout,
        }
        name = f"{label}/seed-{seed}"
        events.append_hyperparameters(places[label], name, hyperparameters, start, time.time())
        np.savez(places[label] / HEAD, kernel=head.kernel, bias=head.bias)
        write_outputs(places[label] / VALIDATION, head.outputs)
        finished.append(Attempt(places[label], runs[label], result))
    return finished


def _begin(run: Path, retries: bool) -> Path:
    """Return the empty directory to write a run to: its own, if nothing else can be there."""
    place = run
    if retries or (run / RESULT).exists():
        place = run.with_name(f".{run.name}.{secrets.token_hex(4)}.new")
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(exist_ok=True)
    # Without parents: an experiment that was removed must not come back without its config.json.
    place.mkdir()
    for side in ("train", "validation"):
        (place / side).mkdir()
    return place


def _log(
    place: Path,
    epoch: int,
    rate: float,
    accuracy: float,
    loss: float,
    val_accuracy: float,
    val_loss: float,
) -> None:
    """Log an epoch of a run for TensorBoard."""
    train = {events.ACCURACY: accuracy, events.LOSS: loss, events.RATE: rate}
    validation = {events.ACCURACY: val_accuracy, events.LOSS: val_loss}
    events.append_scalars(place / "train", epoch, train, time.time())
    events.append_scalars(place / "validation", epoch, validation, time.time())


def publish(attempt: Attempt) -> Result:
    """Write the result of a run and put it where it belongs; only the driver may."""
    place, run = attempt.place, attempt.run
    files.write_json(place / RESULT, asdict(attempt.result))
    if place != run:
        old = run.with_name(f".{run.name}.old")
        if run.exists():
            run.rename(old)
        place.rename(run)
        shutil.rmtree(old, ignore_errors=True)
        # Attempts that were lost with their node.
        for lost in run.parent.glob(f".{run.name}.*.new"):
            shutil.rmtree(lost, ignore_errors=True)
    return attempt.result


def recover(experiment: Path) -> None:
    """Undo what a killed process left behind, renames and temporary files; needs the lock."""
    files.remove_temporary_files(experiment)
    for old in experiment.glob("*/.seed-*.old"):
        run = old.with_name(old.name.removeprefix(".").removesuffix(".old"))
        if run.exists():
            shutil.rmtree(old)
        else:
            old.rename(run)
    for new in experiment.glob("*/.seed-*.new"):
        shutil.rmtree(new)


def write_means(experiment: Path, runs: dict[str, list[Run]]) -> None:
    """Write the mean over seeds of every schedule with at least two, as event files."""
    for label, of in runs.items():
        mean = experiment / label / "mean"
        shutil.rmtree(mean, ignore_errors=True)
        if len(of) > 1:
            (mean / "train").mkdir(parents=True)
            (mean / "validation").mkdir()
            curves = [(r.result.rates, r.accuracy, r.loss, r.val_accuracy, r.val_loss) for r in of]
            for epoch, values in enumerate(np.mean(curves, axis=0).T.tolist()):  # (5, epochs)
                _log(mean, epoch, *values)
