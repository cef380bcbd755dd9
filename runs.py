"""The runs of one seed: trained side by side, logged epoch by epoch, and put where they belong.

A new run is written in place. A run that replaces a finished one is written to .seed-K.new and
renamed when it is whole; between the two renames the old one is .seed-K.old. So nothing finished
is lost, whenever the process is killed.
"""

import math
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


def train_runs(task: RunsTask) -> list[Result]:
    """Train the runs of a task, log every epoch, write the results and return them."""
    seed, start, finished = task.heads.seed, time.time(), []
    runs = {label: run_directory(task.experiment, label, seed) for label in task.heads.rates}
    places = {label: _begin(run) for label, run in runs.items()}
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
        files.write_json(places[label] / RESULT, asdict(result))
        _publish(places[label], runs[label])
        finished.append(result)
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
        content = Summary.FromString(content.SerializeToString())
        events.append(place, Event(wall_time=time.time(), summary=content))


def _begin(run: Path) -> Path:
    """Return the empty directory to write a run to: beside its own if that one is finished."""
    place = run.with_name(f".{run.name}.new") if (run / RESULT).exists() else run
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(exist_ok=True)
    # Without parents: an experiment that was removed must not come back without its config.json.
    place.mkdir()
    for side in events.SIDES:
        (place / side).mkdir()
    return place


def _publish(place: Path, run: Path) -> None:
    """Put a whole run where it belongs, in place of a finished one if there is one."""
    if place != run:
        old = run.with_name(f".{run.name}.old")
        run.rename(old)
        place.rename(run)
        shutil.rmtree(old)


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
