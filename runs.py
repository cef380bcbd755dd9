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
from tensorboard.plugins.hparams import summary_v2 as hparams

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

    directory: Path  # where it was written
    run: Path  # where it belongs
    result: Result


def train_runs(task: RunsTask) -> list[Attempt]:
    """Train the runs of a task, log every epoch, and return them to be published."""
    seed, start, attempts = task.heads.seed, time.time(), []
    runs = {label: run_directory(task.experiment, label, seed) for label in task.heads.rates}
    directories = {label: _make_directory(run, task.retries) for label, run in runs.items()}
    curves = {label: {name: [] for name in events.CURVES} for label in runs}

    def log(epoch: int, metrics: dict[str, heads.EpochMetrics]) -> None:
        for label, values in metrics.items():
            events.append_epoch(directories[label], epoch, vars(values), time.time())
            for name, value in vars(values).items():
                curves[label][name].append(value if math.isfinite(value) else None)
        task.report_progress(Progress(seed, metrics))

    for label, head in heads.train_heads(task.heads, log).items():
        # What was planned, in float64; the curve holds what the optimizer used, in float32.
        curves[label]["rate"] = task.heads.rates[label]
        peak = max(task.heads.rates[label])
        result = Result(label, seed, peak, task.conditions, **curves[label])
        _log_hyperparameters(directories[label], result, start)
        np.savez(directories[label] / HEAD, kernel=head.kernel, bias=head.bias)
        write_outputs(directories[label] / VALIDATION, head.outputs)
        attempts.append(Attempt(directories[label], runs[label], result))
    return attempts


def _make_directory(run: Path, retries: bool) -> Path:
    """Make the empty directory to write a run to: its own, if nothing else can be there."""
    directory = run
    if retries or (run / RESULT).exists():
        directory = run.with_name(f".{run.name}.{secrets.token_hex(4)}.new")
    shutil.rmtree(directory, ignore_errors=True)
    run.parent.mkdir(exist_ok=True)
    # Without parents: an experiment that was removed must not come back without its config.json.
    directory.mkdir()
    for side in events.SIDES:
        (directory / side).mkdir()
    return directory


def _log_hyperparameters(directory: Path, result: Result, start: float) -> None:
    """Log what TensorBoard's HParams page shows of a finished run."""
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
    run = f"{result.schedule}/seed-{result.seed}"
    summary = hparams.hparams_pb(values, trial_id=run, start_time_secs=start)
    events.append(directory, Event(wall_time=time.time(), summary=summary))


def publish(attempt: Attempt) -> Result:
    """Write the result of a run and put it where it belongs; only the driver may."""
    directory, run = attempt.directory, attempt.run
    files.write_json(directory / RESULT, asdict(attempt.result))
    if directory != run:
        old = run.with_name(f".{run.name}.old")
        if run.exists():
            run.rename(old)
        directory.rename(run)
        # The old run, and attempts that were lost with their node.
        for path in (old, *run.parent.glob(f".{run.name}.*.new")):
            shutil.rmtree(path, ignore_errors=True)
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
            for epoch in range(len(finished[0].result.rate)):
                values = {
                    name: np.mean([run.result.curve(name)[epoch] for run in finished])
                    for name in events.CURVES
                }
                events.append_epoch(mean, epoch, values, time.time())
