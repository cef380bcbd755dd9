"""The runs of an experiment: trained side by side for a seed, logged, and put where they belong.

A new run is written in place. A run that replaces a finished one, and every attempt on a cluster,
is written to .seed-K.TOKEN.new and renamed when it is whole; between the two renames the old one is
.seed-K.old. So nothing finished is lost, whenever a process is killed.
"""

import functools
import math
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from runtime import files, tasks
from runtime.messages import Refusal
from storage import audit, events, results
from storage.results import Conditions, Config, Result, Run
from training.trainer import Progress, Task, TrainingBar, train


def train_missing(
    experiment: Path,
    config: Config,
    base: Task,
    executor: Executor,
    bar: TrainingBar,
) -> None:
    """Train the runs that are missing or damaged, and put each in its place."""
    groups = []
    for seed in range(config.settings.seeds):
        rates = _missing_rates(experiment, config, seed)
        for labels in base.trainer.split(base, list(rates)):
            groups.append(replace(base, rates={label: rates[label] for label in labels}, seed=seed))
            bar.expect(groups[-1])
    options = experiment, config.conditions, bar.report, executor.retries
    train_some = functools.partial(train_runs, *options)
    for trained in tasks.run_tasks(executor, train_some, groups, bar.show):
        bar.show()
        for directory, result in trained.items():
            publish(experiment, directory, result)
            final = result.val_accuracy[-1], result.val_loss[-1]
            accuracy, loss = ("not finite" if end is None else f"{end:.4f}" for end in final)
            told = f"validation accuracy {accuracy}, loss {loss} after {len(result.rate)} epochs"
            bar.write(f"{result.schedule} seed {result.seed}: {told}")


def _missing_rates(experiment: Path, config: Config, seed: int) -> dict[str, list[float]]:
    """Return label and rates of a seed's runs that are still to be made, or made again."""
    tuning, missing = audit.read_tuning(experiment, config, seed), {}
    for label in config.schedules:
        rates = results.planned_rates(config, tuning, label)
        if rates is None:
            print(f"note: no loss of {label} seed {seed} is finite at any peak, so it has no run")
            continue
        if (results.run_directory(experiment, label, seed) / results.RESULT).exists():
            try:
                audit.audit_run(experiment, config, label, seed, tuning)
                continue
            except Refusal as error:
                print(f"train.py: {error}; this run is done again", file=sys.stderr)
        missing[label] = rates
    return missing


def train_runs(
    experiment: Path,
    conditions: Conditions,
    report: Callable[[Progress], None],
    retries: bool,
    task: Task,
) -> dict[Path, Result]:
    """Train runs of one seed, log every epoch, and return {directory: result} to be published.

    With `retries`, another attempt at these runs may still be writing.
    """
    start, trained = time.time(), {}
    runs = {label: results.run_directory(experiment, label, task.seed) for label in task.rates}
    directories = {label: _make_directory(run, retries) for label, run in runs.items()}
    curves = {label: {name: [] for name in events.CURVES} for label in runs}

    def log(number: int, epochs: dict[str, events.Epoch]) -> None:
        for label, epoch in epochs.items():
            events.append_epoch(directories[label], number, epoch, time.time())
            for name, value in vars(epoch).items():
                curves[label][name].append(value if math.isfinite(value) else None)
        report(task.progress(epochs))

    for label, end in train(task, log).items():
        # What was planned, in float64; the curve holds what the optimizer used, in float32.
        curves[label]["rate"] = rates = task.rates[label]
        before = end.untrained.accuracy, end.untrained.mean_loss
        directory = directories[label]
        np.savez(directory / results.WEIGHTS, **end.weights)
        results.write_outputs(directory / results.VALIDATION, end.outputs)
        result = Result(
            label,
            task.seed,
            max(rates),
            conditions,
            **curves[label],
            untrained_accuracy=before[0],
            untrained_loss=before[1],
            sha256={name: files.hash_file(directory / name) for name in results.VOUCHED},
        )
        _log_hyperparameters(directory, result, start)
        # On the disk before result.json, which vouches for them.
        for path in filter(Path.is_file, directory.rglob("*")):
            files.sync(path)
        trained[directory] = result
    return trained


def _make_directory(run: Path, retries: bool) -> Path:
    """Make the empty directory to write a run to: its own, if nothing else can be there."""
    directory = run
    if retries or (run / results.RESULT).exists():
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
    run = f"{result.schedule}/seed-{result.seed}"
    for content in (
        summary.session_start_pb(values, group_name=run, start_time_secs=start),
        summary.session_end_pb(api_pb2.STATUS_SUCCESS),
    ):
        # From TensorFlow's class of this message to TensorBoard's.
        content = Summary.FromString(content.SerializeToString())
        events.append(directory, Event(wall_time=time.time(), summary=content))


def publish(experiment: Path, directory: Path, result: Result) -> None:
    """Write the result of a run and put the run where it belongs; only the driver may."""
    run = results.run_directory(experiment, result.schedule, result.seed)
    files.write_json(directory / results.RESULT, asdict(result))
    if directory != run:
        old = run.with_name(f".{run.name}.old")
        if run.exists():
            run.rename(old)
        directory.rename(run)
        # The old run, and attempts that were lost with their node.
        for path in (old, *run.parent.glob(f".{run.name}.*.new")):
            shutil.rmtree(path, ignore_errors=True)


def recover(experiment: Path) -> None:
    """Undo what a killed process left behind, renames and temporary files; needs the lock."""
    for path in experiment.rglob(".*.tmp"):
        if files.TEMPORARY.fullmatch(path.name):
            path.unlink()
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
                means = {
                    name: np.mean([run.result.curve(name)[epoch] for run in finished])
                    for name in events.CURVES
                }
                events.append_epoch(mean, epoch, events.Epoch(**means), time.time())
