"""The steps of an experiment in their order: data, features, runs, reference, report, export.

Every step leaves whole files, so an experiment that was killed at any moment can be resumed: what
is finished stays, and what is missing is made, bit-identical to an experiment never interrupted.
"""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
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
from tasks import cores, run_tasks

REFUSALS = (data.DataError, features.CacheError, files.FileError, model.WeightsError, OSError)


class UnfinishedError(Exception):
    """An experiment stopped after it had begun; the message says why."""


def run(settings: Settings, schedules: dict[str, list[float]]) -> None:
    """Run a new experiment; raises one of REFUSALS, or UnfinishedError once it has begun."""
    directory = Path(settings.logdir) / settings.name
    _require_new(directory, settings)
    config, dataset = _load(settings, schedules)
    directory.mkdir(parents=True, exist_ok=True)
    with files.lock(directory):
        _require_new(directory, settings)
        _complete(directory, config, dataset)


def resume(directory: Path) -> None:
    """Finish an experiment; raises one of REFUSALS, or UnfinishedError where it stops again."""
    before = results.read_config(directory)
    with files.lock(directory):
        runs.recover(directory)
        config, dataset = _load(before.settings, before.schedules)
        if results.finished_runs(directory):
            _require_same(directory, before, config)
        _complete(directory, config, dataset)


def _load(settings: Settings, schedules: dict[str, list[float]]) -> tuple[Config, data.Dataset]:
    """Load the data, tell what they are, and return what config.json will hold."""
    dataset = data.load(settings.data, settings.train, settings.test, settings.validation_fraction)
    held_out = int(dataset.validation.sum())
    counts = f"{len(dataset.labels) - held_out} training and {held_out} validation images"
    print(f"{dataset.name}: {counts} of {len(dataset.class_names)} classes")
    width = max(map(len, dataset.class_names))
    for name, (train, validation) in dataset.counts().items():
        print(f"  {name:{width}} {train:7} {validation:7}")
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
    about = _describe_data(dataset, left_out=[])
    config = Config(settings, schedules, about, conditions, _commit(), platform.python_version())
    return config, dataset


def _describe_data(dataset: data.Dataset, left_out: list[str]) -> results.Data:
    train, validation = map(list, zip(*dataset.counts().values(), strict=True))
    about = dataset.name, dataset.class_names, train, validation, left_out, dataset.notes
    return results.Data(*about)


def _commit() -> str | None:
    """The commit of this project, marked where files differ from it; None outside a clone."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return None
    return git.stdout.strip() or None


def _require_new(directory: Path, settings: Settings) -> None:
    """Raise ExperimentError where a new experiment would not find its places free and writable."""
    found = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    if found - {files.LOCK} or directory.is_file():
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
    for name, value in vars(before.conditions).items():
        if (other := getattr(now.conditions, name)) != value:
            change = f"finished runs with {name} {value!r}, now it is {other!r}"
            way_on = "restore that, or start a new experiment with another --name"
            raise ExperimentError(f"{directory} has {change}; {way_on}")
    if before.git_commit != now.git_commit:
        commits = f"{before.git_commit}, resumed with {now.git_commit}"
        print(f"note: {directory} was begun with commit {commits}")


@contextlib.contextmanager
def _unfinished(directory: Path) -> Iterator[None]:
    """Turn a refusal into UnfinishedError if there is something to finish, else leave nothing."""
    try:
        yield
    except REFUSALS as error:
        if not any(directory.glob("*/*seed-*")):
            shutil.rmtree(directory, ignore_errors=True)
        if (directory / results.CONFIG).exists():
            raise UnfinishedError(describe_error(error)) from error
        raise


def describe_error(error: Exception) -> str:
    """Return what is wrong in one line, with its file where the system reports it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}"
    return str(error)


def _complete(directory: Path, config: Config, dataset: data.Dataset) -> None:
    """Make what is missing of an experiment."""
    settings = config.settings
    with _unfinished(directory):
        results.write_config(directory, config)
        with ThreadPoolExecutor(cores()) as executor:
            computed = features.extract(
                dataset,
                settings.image_size,
                settings.preprocessing,
                settings.weights,
                settings.cache_dir,
                settings.skip_damaged,
                executor,
            )
            cached = len(dataset.labels) - len(computed.damaged) - computed.computed
            print(f"features: {computed.computed} computed, {cached} from {computed.directory}")
            if computed.damaged:
                names = [dataset.names[row] for row in sorted(computed.damaged)]
                print(f"note: {len(names)} damaged images are left out")
                dataset = dataset.without(computed.damaged)
                config = replace(config, data=_describe_data(dataset, names))
                results.write_config(directory, config)
            names = [dataset.names[i] for i in np.flatnonzero(dataset.validation)]
            results.write_image_names(directory, names)
            arrays = _arrays(dataset, computed)
            # The reference is solved on one core while the others train.
            solving = None
            if not (directory / results.REFERENCE).exists():
                solving = executor.submit(solve_reference, ReferenceTask(**arrays))
            _train(directory, config, arrays, executor)
            if solving:
                results.write_reference(directory, solving.result())
        experiment = audit.audit(directory)
        runs.write_means(directory, experiment.runs)
        print(report.write(directory), end="")
        if settings.export and not Path(settings.export).exists():
            export.export(experiment, Path(settings.export))


def _arrays(dataset: data.Dataset, computed: features.Features) -> dict:
    """Return what training and the reference take: features, labels, rows of both sides."""
    labels = np.full(computed.shape[0], -1, np.int32)  # -1: left out
    labels[dataset.rows] = dataset.labels
    return {
        "directory": computed.directory,
        "shape": computed.shape,
        "labels": labels,
        "train": dataset.rows[~dataset.validation],
        "validation": dataset.rows[dataset.validation],
    }


def _train(directory: Path, config: Config, arrays: dict, executor: Executor) -> None:
    """Make what is missing of the grids and runs; the heads of a seed train side by side."""
    settings, classes = config.settings, len(config.data.class_names)
    base = HeadsTask(
        **arrays,
        classes=classes,
        rates={},
        seed=0,
        batch_size=settings.batch_size,
        dropout=settings.dropout,
    )
    seeds = range(settings.seeds)
    with contextlib.closing(TrainingBar()) as bar:
        if settings.tune:
            missing = [seed for seed in seeds if not results.tuning_path(directory, seed).exists()]
            tune.tune(directory, config.schedules, base, missing, executor, bar)
        tasks = []
        for seed in seeds:
            rates = _missing_runs(directory, config, seed)
            for group in split_heads(list(rates), classes, settings.batch_size):
                heads = replace(base, rates={label: rates[label] for label in group}, seed=seed)
                tasks.append(runs.RunsTask(directory, heads, config.conditions, bar.report))
                bar.expect(heads.rates.values())
        for finished in run_tasks(executor, runs.train_runs, tasks, bar.show):
            bar.show()
            for result in finished:
                bar.write(_summarize(result))


def _missing_runs(directory: Path, config: Config, seed: int) -> dict[str, list[float]]:
    """Return the rates of a seed's runs that are not finished, or finished but fail the audit."""
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
