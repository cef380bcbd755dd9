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
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

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
    seed, start, finished = task.heads.seed, time.time(), []
    runs = {label: run_directory(task.experiment, label, seed) for label in task.heads.rates}
    places = {label: _begin(run, task.retries) for label, run in runs.items()}
    curves = {label: {name: [] for name in events.CURVES} for label in runs}

    def log(epoch: int, metrics: dict[str, heads.EpochMetrics]) -> None:
        for label, values in metrics.items():
            events.append_epoch(places[label], epoch, vars(values), time.time())
            for name, value in vars(values).items():
                curves[label][name].append(value if math.isfinite(value) else None)
        task.report_progress(Progress(seed, metrics))

    for label, head in heads.train_heads(task.heads, log).items():
        # What was planned, in float64; the curve holds what the optimizer used, in float32.
        curves[label]["rate"] = task.heads.rates[label]
        peak = max(task.heads.rates[label])
        result = Result(label, seed, peak, task.conditions, **curves[label])
        _log_hyperparameters(places[label], result, start)
        np.savez(places[label] / HEAD, kernel=head.kernel, bias=head.bias)
        write_outputs(places[label] / VALIDATION, head.outputs)
        finished.append(Attempt(places[label], runs[label], result))
    return finished


def _log_hyperparameters(place: Path, result: Result, start: float) -> None:
    """Log what TensorBoard's HParams page shows of a finished run."""
    # It imports TensorFlow, which tensorflow_setup.py must have set up before.
    from tensorboard.plugins.hparams import api_pb2, summary

    values = {
        "schedule": result.schedule,
        "seed": result.seed,
        "epochs": len(result.rate),
        "first rate": result.rate[0],
        "peak rate": result.peak_lr,
        "last rate": result.rate[-1],
        "mean rate": float(np.mean(result.rate)),
        "batch size": result.conditions.batch_size,
        "dropout": result.conditions.dropout,
    }
    name = f"{result.schedule}/seed-{result.seed}"
    for content in (
        summary.session_start_pb(values, group_name=name, start_time_secs=start),
        summary.session_end_pb(api_pb2.STATUS_SUCCESS),
    ):
        # From TensorFlow's class of this message to TensorBoard's.
        content = Summary.FromString(content.SerializeToString())
        events.append(place, Event(wall_time=time.time(), summary=content))


def _begin(run: Path, retries: bool) -> Path:
    """Return the empty directory to write a run to: its own, if nothing else can be there."""
    place = run
    if retries or (run / RESULT).exists():
        place = run.with_name(f".{run.name}.{secrets.token_hex(4)}.new")
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(exist_ok=True)
    # Without parents: an experiment that was removed must not come back without its config.json.
    place.mkdir()
    for side in events.SIDES:
        (place / side).mkdir()
    return place


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
    for label, finished in runs.items():
        mean = experiment / label / "mean"
        shutil.rmtree(mean, ignore_errors=True)
        if len(finished) > 1:
            for side in events.SIDES:
                (mean / side).mkdir(parents=True)
            curves = {
                name: np.mean([run.result.curve(name) for run in finished], axis=0)
                for name in events.CURVES
            }
            for epoch in range(len(curves["rate"])):
                metrics = {name: curve[epoch] for name, curve in curves.items()}
                events.append_epoch(mean, epoch, metrics, time.time())
