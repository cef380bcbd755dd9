"""The steps of an experiment in order: data, features, grid (--tune), runs, report, export.

Every step leaves whole files, so an experiment that was killed at any moment can be resumed:
finished work stays; the rest is made as if never interrupted, to the last bit.
"""

import contextlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import audit
import data
import export
import features
import files
import intervals
import mistakes
import model
import report
import results
import runs
import tune
from heads import HeadsTask, split_heads
from progress import TrainingBar
from reference import solve_reference
from results import Conditions, Config, ExperimentError, Result
from settings import Settings
from tasks import ExecutorError, open_executor, run_tasks

REFUSALS = (data.DataError, features.CacheError, files.FileError, model.WeightsError, OSError)
REFUSALS += (ExecutorError,)


class UnfinishedError(Exception):
    """An experiment stopped after it had begun; the message says why."""


@dataclass(frozen=True)
class Prepared:
    """What training needs."""

    config: Config
    heads: HeadsTask  # of seed 0, without a head
    dataset: data.Dataset  # without damaged images


def run(settings: Settings, schedules: dict[str, list[float]], ray: str | None = None) -> None:
    """Run a new experiment, on a Ray cluster if its address is given.

    Raises one of REFUSALS, or UnfinishedError once it has begun.
    """
    directory = Path(settings.logdir) / settings.name
    _require_new(directory, settings)
    config, dataset = _load(settings, schedules)
    with _open_executor(ray, dataset, settings) as executor:
        prepared = _extract(config, dataset, executor)
        directory.mkdir(parents=True, exist_ok=True)
        with files.lock(directory):
            _require_new(directory, settings)
            runs.recover(directory)
            _complete(directory, prepared, executor)


def resume(directory: Path, ray: str | None = None) -> None:
    """Finish an experiment; raises one of REFUSALS, or UnfinishedError where it stops again."""
    before = results.read_config(directory)
    with files.lock(directory):
        runs.recover(directory)
        config, dataset = _load(before.settings, before.schedules)
        if results.finished_runs(directory) or any(directory.glob("tuning/seed-*.json")):
            _require_same(directory, before, config)
        with _open_executor(ray, dataset, config.settings) as executor:
            _complete(directory, _extract(config, dataset, executor), executor)


def _open_executor(ray: str | None, dataset: data.Dataset, settings: Settings) -> Executor:
    """Return the executor of an experiment; nodes of a cluster must see data, cache and logs."""
    few = dataset.source.subset(dataset.rows[[0, len(dataset.rows) // 2, -1]])
    folders = [Path(settings.logdir), Path(settings.cache_dir)]
    return open_executor(ray, folders, few, settings.weights)


def _require_new(directory: Path, settings: Settings) -> None:
    """Raise ExperimentError if an output path is taken, OSError if logs cannot be written."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    found = set(os.listdir(directory)) - {files.LOCK} if directory.is_dir() else set()
    if directory.is_file() or not all(map(files.TEMPORARY.fullmatch, found)):
        advice = f"choose another --name, or finish it with --resume {directory}"
        raise ExperimentError(f"{directory} exists; {advice}")
    for path in settings.export or ():
        export.require_free(Path(path))


def _load(settings: Settings, schedules: dict[str, list[float]]) -> tuple[Config, data.Dataset]:
    """Load the data, print what they are, and return them and what config.json will hold."""
    source = settings.data, settings.train, settings.test, settings.validation_fraction
    dataset = data.load(*source, left_out=(settings.logdir, settings.cache_dir))
    about = _describe(dataset)
    counts = f"{sum(about.train)} training and {sum(about.validation)} validation images"
    print(f"{dataset.name}: {counts} of {len(about.class_names)} classes")
    width = max(map(len, about.class_names))
    for name, *of_class in zip(about.class_names, about.train, about.validation, strict=True):
        print(f"  {name:{width}} {of_class[0]:7} {of_class[1]:7}")
    for note in dataset.notes:
        print(f"note: {note}")
    conditions = Conditions(
        format=results.FORMAT,
        data=dataset.fingerprint,
        image_size=settings.image_size,
        preprocessing=settings.preprocessing,
        weights=model.weights_key(settings.weights),
        engine=features.engine(),
        decoder=features.decoder(),
        batch_size=settings.batch_size,
        dropout=settings.dropout,
        **{name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")},
    )
    config = Config(settings, schedules, about, conditions, _commit(), platform.python_version())
    return config, dataset


def _describe_link(directory: Path, group: str) -> str:
    """Say how to see one curve a schedule: that of the seed, or of the mean over seeds."""
    page = f"http://localhost:6006/?runFilter={group}%2Fvalidation&smoothing=0#timeseries"
    return f"curves: tensorboard --logdir {shlex.quote(str(directory))}\n        {page}"


def _describe(dataset: data.Dataset, left_out: tuple[str, ...] = ()) -> results.Data:
    train, validation = map(list, zip(*dataset.counts().values(), strict=True))
    names = dataset.class_names
    return results.Data(dataset.name, names, train, validation, list(left_out), dataset.notes)


def _commit() -> str | None:
    """The commit of this project, marked where files differ from it; None outside a clone."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    with contextlib.suppress(OSError):
        git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
        return git.stdout.strip() or None
    return None


def _require_same(directory: Path, before: Config, now: Config) -> None:
    """Raise ExperimentError where finished runs were made under other conditions than today's."""
    try:
        audit.compare_conditions(directory, before.conditions, now.conditions)
    except ExperimentError as error:
        advice = "restore that, or start a new experiment with another --name"
        raise ExperimentError(f"{error}; {advice}") from None
    if before.git_commit != now.git_commit:
        print(f"note: begun with commit {before.git_commit}, resumed with {now.git_commit}")


def _extract(config: Config, dataset: data.Dataset, executor: Executor) -> Prepared:
    """Compute the features that the cache lacks, and leave damaged images out."""
    settings, left_out = config.settings, ()
    recipe = settings.image_size, settings.preprocessing, settings.weights
    cache = settings.cache_dir, settings.skip_damaged
    computed = features.extract(dataset, *recipe, *cache, executor)
    cached = len(dataset.labels) - len(computed.damaged) - computed.computed
    print(f"features: {computed.computed} computed, {cached} from {computed.directory}")
    if remarks := data.remark_notes(dataset, computed.remarks):
        print(*(f"note: {remark}" for remark in remarks), sep="\n")
        dataset = replace(dataset, notes=[*dataset.notes, *remarks])
    if computed.damaged:
        left_out = tuple(dataset.names[row] for row in sorted(computed.damaged))
        print(f"note: {len(left_out)} damaged images are left out")
        dataset = dataset.without(computed.damaged)
    labels = np.full(computed.shape[0], -1, np.int32)  # -1: left out
    labels[dataset.rows] = dataset.labels
    sides = dataset.rows[~dataset.validation], dataset.rows[dataset.validation]
    samples = features.Samples(computed.directory, labels, len(dataset.class_names), *sides)
    heads = HeadsTask(samples, {}, 0, settings.batch_size, settings.dropout)
    return Prepared(replace(config, data=_describe(dataset, left_out)), heads, dataset)


def _complete(directory: Path, prepared: Prepared, executor: Executor) -> None:
    """Make what is missing of an experiment; raises UnfinishedError."""
    config, heads, dataset = prepared.config, prepared.heads, prepared.dataset
    settings = config.settings
    results.write_config(directory, config)
    print(_describe_link(directory, "seed-0"))
    try:
        names = [dataset.names[i] for i in np.flatnonzero(dataset.validation)]
        results.write_image_names(directory, names)
        # The reference is solved on one core while the others train.
        solving = None
        if not _is_whole(audit.read_reference, directory, config):
            solving = executor.submit(solve_reference, heads.samples)
        _train(directory, config, heads, executor)
        if solving:
            results.write_reference(directory, solving.result())
        experiment = audit.audit(directory)
        ranking = intervals.rank(experiment)
        runs.write_means(directory, experiment.runs)
        print(report.write(experiment, ranking), end="")
        mistakes.write_contact_sheet(experiment, ranking, dataset)
        if settings.export:
            export.export(experiment, ranking, list(map(Path, settings.export)))
    except REFUSALS as error:
        raise UnfinishedError(describe_error(error, directory)) from error
    print(_describe_link(directory, "mean" if settings.seeds > 1 else "seed-0"))


def describe_error(error: Exception, place: str | Path = "a file") -> str:
    """Return what is wrong in one line, with its file where the system reports it, else `place`."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or place}: {error.strerror}"
    return str(error)


def _train(directory: Path, config: Config, base: HeadsTask, executor: Executor) -> None:
    """Make what is missing of the grids and runs; the heads of a seed train side by side."""
    settings, tasks = config.settings, []
    seeds = range(settings.seeds)
    with contextlib.closing(TrainingBar(executor.queue())) as bar:
        if settings.tune:
            read = audit.read_tuning, directory, config
            missing = [seed for seed in seeds if not _is_whole(*read, seed)]
            tune.tune(directory, config.schedules, base, missing, executor, bar)
        for seed in seeds:
            rates = _missing_runs(directory, config, seed)
            for group in split_heads(list(rates), base.samples.classes, settings.batch_size):
                heads = replace(base, rates={label: rates[label] for label in group}, seed=seed)
                task = directory, heads, config.conditions, bar.report, executor.retries
                tasks.append(runs.RunsTask(*task))
                bar.expect(heads.rates.values())
        for finished in run_tasks(executor, runs.train_runs, tasks, bar.show):
            bar.show()
            for attempt in finished:
                bar.write(_summarize(runs.publish(attempt)))


def _is_whole(read: Callable, *arguments: Any) -> bool:
    """Whether a reader of audit.py finds its files, and finds them to agree."""
    with contextlib.suppress(files.FileError):
        return read(*arguments) is not None
    return False


def _missing_runs(directory: Path, config: Config, seed: int) -> dict[str, list[float]]:
    """Return the rates of a seed's runs that are still to be made, or made again."""
    tuning, missing = audit.read_tuning(directory, config, seed), {}
    for label in config.schedules:
        rates = audit.planned_rates(config, tuning, label)
        if rates is None:
            print(f"note: every head of {label} seed {seed} diverged, so it has no run")
            continue
        missing[label] = rates
        if (results.run_directory(directory, label, seed) / results.RESULT).exists():
            try:
                audit.audit_run(directory, config, label, seed, tuning)
                del missing[label]
            except files.FileError as error:
                print(f"train.py: {error}; this run is done again", file=sys.stderr)
    return missing


def _summarize(result: Result) -> str:
    final = result.val_accuracy[-1], result.val_loss[-1]
    accuracy, loss = ("not finite" if value is None else f"{value:.4f}" for value in final)
    run = f"{result.schedule} seed {result.seed}"
    return f"{run}: validation accuracy {accuracy}, loss {loss} after {len(result.rate)} epochs"
