"""The steps of an experiment in order: data, features, grid (--tune), runs, report, export.

Every step leaves whole files, so an experiment that was killed at any moment can be resumed:
finished work stays; the rest is made as if never interrupted, to the last bit.
"""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import numpy as np

import audit
import data
import export
import features
import files
import model
import report
import results
import runs
import tune
from heads import HeadsTask, split_heads
from progress import TrainingBar
from reference import ReferenceTask, solve_reference
from results import Conditions, Config, ExperimentError, Result
from settings import Settings
from tasks import ExecutorError, open_executor, run_tasks

REFUSALS = (data.DataError, features.CacheError, files.FileError, model.WeightsError, OSError)
REFUSALS += (ExecutorError,)


class UnfinishedError(Exception):
    """An experiment stopped after it had begun; the message says why."""


def run(settings: Settings, schedules: dict[str, list[float]], ray: str | None = None) -> None:
    """Run a new experiment, on a Ray cluster if an address is given.

    Raises one of REFUSALS, or UnfinishedError once it has begun.
    """
    directory = Path(settings.logdir) / settings.name
    _require_new(directory, settings)
    config, dataset = _load(settings, schedules)
    directory.mkdir(parents=True, exist_ok=True)
    with files.lock(directory):
        _require_new(directory, settings)
        runs.recover(directory)
        _complete(directory, config, dataset, ray)


def resume(directory: Path, ray: str | None = None) -> None:
    """Finish an experiment; raises one of REFUSALS, or UnfinishedError where it stops again."""
    before = results.read_config(directory)
    with files.lock(directory):
        runs.recover(directory)
        config, dataset = _load(before.settings, before.schedules)
        if results.finished_runs(directory) or any(directory.glob("tuning/seed-*.json")):
            _require_same(directory, before, config)
        _complete(directory, config, dataset, ray)


def _load(settings: Settings, schedules: dict[str, list[float]]) -> tuple[Config, data.Dataset]:
    """Load the data, print what they are, and return them and what config.json will hold."""
    own_folders = (settings.logdir, settings.cache_dir)
    source = settings.data, settings.train, settings.test, settings.validation_fraction
    dataset = data.load(*source, left_out=own_folders)
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


def _describe(dataset: data.Dataset, left_out: tuple[str, ...] = ()) -> results.Data:
    train, validation = map(list, zip(*dataset.counts().values(), strict=True))
    names = dataset.class_names
    return results.Data(dataset.name, names, train, validation, list(left_out), dataset.notes)


def _commit() -> str | None:
    """The commit of this project, marked where files differ from it; None outside a clone."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return None
    return git.stdout.strip() or None


def _require_new(directory: Path, settings: Settings) -> None:
    """Raise ExperimentError if an output path is taken or cannot be written."""
    found = set(os.listdir(directory)) - {files.LOCK} if directory.is_dir() else set()
    if directory.is_file() or not all(map(files.TEMPORARY.fullmatch, found)):
        way_on = f"choose another --name, or finish it with --resume {directory}"
        raise ExperimentError(f"{directory} exists; {way_on}")
    above = next(path for path in directory.absolute().parents if path.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        reason = f"{above} is not a folder that can be written to"
        raise ExperimentError(f"--logdir {settings.logdir}: {reason}")
    if settings.export:
        export.require_free(Path(settings.export))


def _require_same(directory: Path, before: Config, now: Config) -> None:
    """Raise ExperimentError where finished runs were made under other conditions than today's."""
    try:
        audit.compare_conditions(directory, before.conditions, now.conditions)
    except ExperimentError as error:
        way_on = "restore that, or start a new experiment with another --name"
        raise ExperimentError(f"{error}; {way_on}") from None
    if before.git_commit != now.git_commit:
        print(f"note: begun with commit {before.git_commit}, resumed with {now.git_commit}")


@contextlib.contextmanager
def _unfinished(directory: Path) -> Iterator[None]:
    """If it can be resumed, turn a refusal into UnfinishedError; else remove the directory."""
    begun = (directory / results.CONFIG).exists()
    try:
        yield
    except REFUSALS as error:
        if not (begun or any(directory.glob("*/*seed-*"))):
            shutil.rmtree(directory, ignore_errors=True)
        if (directory / results.CONFIG).exists():
            raise UnfinishedError(describe_error(error, directory)) from error
        raise


def describe_error(error: Exception, place: str | Path = "a file") -> str:
    """Return what is wrong in one line, with its file where the system reports it, else `place`."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or place}: {error.strerror}"
    return str(error)


def _complete(directory: Path, config: Config, dataset: data.Dataset, ray: str | None) -> None:
    """Make what is missing of an experiment."""
    of = config.settings
    with _unfinished(directory):
        results.write_config(directory, config)
        few = dataset.source.subset(dataset.rows[[0, len(dataset.rows) // 2, -1]])
        folders = [directory, Path(of.cache_dir)]
        with open_executor(ray, folders, few, of.weights) as executor:
            preparation = of.image_size, of.preprocessing, of.weights
            computed = features.extract(
                dataset, *preparation, of.cache_dir, of.skip_damaged, executor
            )
            cached = len(dataset.labels) - len(computed.damaged) - computed.computed
            print(f"features: {computed.computed} computed, {cached} from {computed.directory}")
            if remarks := data.remark_notes(dataset, computed.remarks):
                print(*(f"note: {remark}" for remark in remarks), sep="\n")
                dataset = replace(dataset, notes=[*dataset.notes, *remarks])
            if computed.damaged:
                left_out = tuple(dataset.names[row] for row in sorted(computed.damaged))
                print(f"note: {len(left_out)} damaged images are left out")
                dataset = dataset.without(computed.damaged)
            else:
                left_out = ()
            config = replace(config, data=_describe(dataset, left_out))
            results.write_config(directory, config)
            names = [dataset.names[i] for i in np.flatnonzero(dataset.validation)]
            results.write_image_names(directory, names)
            labels = np.full(computed.shape[0], -1, np.int32)  # -1: left out
            labels[dataset.rows] = dataset.labels
            sides = dataset.rows[~dataset.validation], dataset.rows[dataset.validation]
            arrays = computed.directory, computed.shape, labels, *sides
            # The reference is solved on one core while the others train.
            solving = None
            if not _has_reference(directory, config):
                solving = executor.submit(solve_reference, ReferenceTask(*arrays))
            _train(directory, config, arrays, executor)
            if solving:
                results.write_reference(directory, solving.result())
        experiment = audit.audit(directory)
        runs.write_means(directory, experiment.runs)
        print(report.write(directory), end="")
        if of.export:
            export.export(experiment, Path(of.export))


def _train(directory: Path, config: Config, arrays: tuple, executor: Executor) -> None:
    """Make what is missing of the grids and runs; the heads of a seed train side by side."""
    settings, classes = config.settings, len(config.data.class_names)
    base = HeadsTask(*arrays, classes, {}, 0, settings.batch_size, settings.dropout)
    seeds = range(settings.seeds)
    with contextlib.closing(TrainingBar(executor.queue())) as bar:
        if settings.tune:
            missing = [seed for seed in seeds if not results.tuning_path(directory, seed).exists()]
            tune.tune(directory, config.schedules, base, missing, executor, bar)
        tasks = []
        for seed in seeds:
            rates = _missing_runs(directory, config, seed)
            for group in split_heads(list(rates), classes, settings.batch_size):
                heads = replace(base, rates={label: rates[label] for label in group}, seed=seed)
                about = config.conditions, bar.report, executor.retries
                tasks.append(runs.RunsTask(directory, heads, *about))
                bar.expect(heads.rates.values())
        for finished in run_tasks(executor, runs.train_runs, tasks, bar.show):
            bar.show()
            for attempt in finished:
                bar.write(_summarize(runs.publish(attempt)))


def _has_reference(directory: Path, config: Config) -> bool:
    """Whether the reference is there and passes the audit."""
    try:
        return audit.read_reference(directory, config) is not None
    except files.FileError:
        return False


def _missing_runs(directory: Path, config: Config, seed: int) -> dict[str, list[float]]:
    """Return the rates of a seed's runs that are still to be made, or made again."""
    tuning, missing = audit.read_tuning(directory, config, seed), {}
    for label in config.schedules:
        rates = audit.planned_rates(config, tuning, label)
        if (results.run_directory(directory, label, seed) / results.RESULT).exists():
            try:
                audit.audit_run(directory, config, label, seed, tuning)
                continue
            except files.FileError as error:
                print(f"train.py: {error}; this run is done again", file=sys.stderr)
        if rates is None:
            print(f"note: every head of {label} seed {seed} diverged, so it has no run")
        else:
            missing[label] = rates
    return missing


def _summarize(result: Result) -> str:
    final = (result.val_categorical_accuracy, result.val_loss)
    accuracy, loss = ("not finite" if value is None else f"{value:.4f}" for value in final)
    run = f"{result.schedule} seed {result.seed}"
    return f"{run}: validation accuracy {accuracy}, loss {loss} after {len(result.rates)} epochs"
