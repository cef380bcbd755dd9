"""The steps of an experiment in order: data, features, grid (--tune), runs, report, export.

Every step leaves whole files, so an experiment that was killed at any moment can be resumed:
finished work stays; the rest is made as if never interrupted, to the last bit.
"""

import contextlib
import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np

import data
import model
from features import cache, engines
from runtime import files, tasks
from runtime.messages import Refusal, Unfinished, describe
from storage import audit, export, results
from storage.results import Conditions, Config, Experiment
from storage.settings import Settings
from training import runs, tune
from training.heads import HeadsTask
from training.reference import solve_reference
from verdict import mistakes
from verdict.ranking import Ranking, rank
from verdict.summary import write_report


def run(settings: Settings, schedules: dict[str, list[float]], ray: str | None = None) -> None:
    """Run a new experiment, on the Ray cluster at an address if one is given.

    Raises Refusal or OSError; once it has begun Unfinished.
    """
    directory = Path(settings.logdir) / settings.name
    _require_new(directory, settings)
    conditions, dataset = _load(settings)
    is_given = settings.validation_fraction != Settings.validation_fraction
    data.check_flags(dataset, is_given, settings.tune)
    with _open_executor(ray, dataset, settings) as executor:
        prepared = _extract(settings, schedules, conditions, dataset, executor)
        directory.mkdir(parents=True, exist_ok=True)
        with files.lock(directory):
            _require_new(directory, settings)
            _complete(directory, *prepared, executor)


def resume(directory: Path, ray: str | None = None) -> None:
    """Finish an experiment; raises Refusal or OSError, where it stops again Unfinished."""
    before = results.read_config(directory)
    settings = before.settings
    with files.lock(directory):
        runs.recover(directory)
        conditions, dataset = _load(settings)
        if results.finished_runs(directory) or any(directory.glob("tuning/seed-*.json")):
            audit.compare_conditions(directory, before.conditions, conditions)
            if before.git_commit != (commit := _commit()):
                print(f"note: begun with commit {before.git_commit}, resumed with {commit}")
        with _open_executor(ray, dataset, settings) as executor:
            prepared = _extract(settings, before.schedules, conditions, dataset, executor)
            _complete(directory, *prepared, executor)


def _require_new(directory: Path, settings: Settings) -> None:
    """Raise Refusal if an output path is taken, OSError if logs cannot be written."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    names = os.listdir(directory) if directory.exists() else []
    # A process that was killed at its first write leaves a temporary file.
    if not all(name == files.LOCK or files.TEMPORARY.fullmatch(name) for name in names):
        advice = f"choose another --name, or finish it with --resume {directory}"
        raise Refusal(f"{directory} exists; {advice}")
    for path in settings.export or ():
        export.require_free(Path(path))


def _load(settings: Settings) -> tuple[Conditions, data.Dataset]:
    """Load the data and print what they are; the conditions are those of today's versions."""
    source = settings.data, settings.train, settings.test, settings.validation_fraction
    named = {"columns": settings.columns, "keys": settings.keys}
    dataset = data.load(*source, left_out=(settings.logdir, settings.cache_dir), **named)
    count = int(dataset.validation.sum())
    sides = f"{len(dataset.rows) - count} training and {count} validation images"
    print(f"{dataset.name}: {sides} of {len(dataset.class_names)} classes")
    width = max(map(len, dataset.class_names))
    for name, (train, validation) in dataset.counts().items():
        print(f"  {name:{width}} {train:7} {validation:7}")
    for note in dataset.notes:
        print(f"note: {note}")
    flags = ("image_size", "preprocessing", "batch_size", "dropout")
    conditions = Conditions(
        format=results.FORMAT,
        data=dataset.fingerprint,
        weights=model.weights_key(settings.weights),
        engine=engines.engine(),
        decoder=cache.decoder(),
        **{name: getattr(settings, name) for name in flags},
        **{name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")},
    )
    return conditions, dataset


def _open_executor(ray: str | None, dataset: data.Dataset, settings: Settings) -> Executor:
    """Return threads, or the Ray cluster at an address, whose nodes must see the same files."""
    if ray is None:
        return tasks.Threads()
    # Ray is optional.
    from runtime import cluster

    few = dataset.source.subset(dataset.rows[[0, len(dataset.rows) // 2, -1]])
    folders = [Path(settings.logdir), Path(settings.cache_dir)]
    describe_node = functools.partial(cache.describe_node, few, settings.weights)
    return cluster.RayExecutor(ray, folders, describe_node)


def _commit() -> str | None:
    """The commit of this project, marked where files differ from it; None outside a clone."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    with contextlib.suppress(OSError):
        git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
        return git.stdout.strip() or None
    return None


def _extract(
    settings: Settings,
    schedules: dict[str, list[float]],
    conditions: Conditions,
    dataset: data.Dataset,
    executor: Executor,
) -> tuple[Config, cache.Samples, data.Dataset]:
    """Compute the features that the cache lacks, and leave damaged images out."""
    computed = cache.extract(
        dataset, settings.recipe, settings.cache_dir, settings.skip_damaged, executor
    )
    cached = len(dataset.labels) - len(computed.damaged) - computed.computed
    print(f"features: {computed.computed} computed, {cached} from {computed.directory}")
    remarks = data.remark_notes(dataset.names, computed.remarks)
    notes = [*dataset.notes, *remarks]
    left_out = [dataset.names[row] for row in sorted(computed.damaged)]
    if left_out:
        remarks.append(f"{len(left_out)} damaged images are left out")
    for remark in remarks:
        print(f"note: {remark}")
    labels = np.full(len(dataset.labels), -1, np.int32)  # -1: left out
    if left_out:
        dataset = dataset.without(computed.damaged)
    labels[dataset.rows] = dataset.labels
    sides = dataset.rows[~dataset.validation], dataset.rows[dataset.validation]
    samples = cache.Samples(computed.directory, labels, len(dataset.class_names), *sides)
    counts = map(list, zip(*dataset.counts().values(), strict=True))
    about = results.Data(dataset.name, dataset.class_names, *counts, left_out, notes)
    config = Config(settings, schedules, about, conditions, _commit(), platform.python_version())
    return config, samples, dataset


def _complete(
    directory: Path,
    config: Config,
    samples: cache.Samples,
    dataset: data.Dataset,
    executor: Executor,
) -> None:
    """Make what is missing of an experiment; raises Unfinished."""
    settings = config.settings
    names = [dataset.names[i] for i in np.flatnonzero(dataset.validation)]
    runs.recover(directory)
    results.write_config(directory, config, names)
    if equal := data.list_duplicates(dataset):
        files.write_atomically(directory / data.DUPLICATES, equal)
    print(_describe_link(directory, "seed-0"))
    try:
        # The reference is solved on one core while the others train.
        solving = None
        if not _is_whole(audit.read_reference, directory, config):
            solving = executor.submit(solve_reference, samples)
        base = HeadsTask(samples, {}, 0, settings.batch_size, settings.dropout)
        with tasks.TrainingBar(executor.queue()) as bar:
            if settings.tune:
                read = audit.read_tuning, directory, config
                seeds = [seed for seed in range(settings.seeds) if not _is_whole(*read, seed)]
                tune.tune_seeds(directory, config.schedules, base, seeds, executor, bar)
            runs.train_missing(directory, config, base, executor, bar)
        if solving:
            results.write_reference(directory, solving.result())
        experiment = audit.read_experiment(directory)
        ranking = rank(experiment)
        runs.write_means(directory, experiment.runs)
        print(write_report(experiment, ranking), end="")
        mistakes.write_contact_sheet(experiment, ranking, dataset)
        if settings.export:
            _export_best(experiment, ranking)
    except (Refusal, OSError) as error:
        raise Unfinished(describe(error, directory)) from error
    print(_describe_link(directory, "mean" if settings.seeds > 1 else "seed-0"))


def _export_best(experiment: Experiment, ranking: Ranking) -> None:
    """Export the best schedule's lowest seed; raises Refusal.

    Not the run that is best on the validation images: that would choose by what it is judged by.
    """
    paths = list(map(Path, experiment.config.settings.export))
    if not ranking.runs:
        raise Refusal(f"--export {paths[0]}: every run diverged, so none is best")
    label, best_runs = ranking.best
    export.export_model(experiment, label, best_runs[0].result.seed, paths)


def _describe_link(directory: Path, group: str) -> str:
    """Say how to see one curve a schedule: that of the seed, or of the mean over seeds."""
    page = f"http://localhost:6006/?runFilter={group}%2Fvalidation&smoothing=0#timeseries"
    return f"curves: tensorboard --logdir {shlex.quote(str(directory))}\n        {page}"


def _is_whole(read: Callable, *arguments: Any) -> bool:
    """Whether a reader of audit.py finds its files, and finds them to agree."""
    with contextlib.suppress(Refusal):
        return read(*arguments) is not None
    return False
