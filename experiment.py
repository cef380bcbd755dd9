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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import data
import model
from features import cache, engines, litert, shards
from runtime import files, tasks
from runtime.messages import Refusal, Unfinished, describe
from sources import decoding
from storage import audit, export, results
from storage.results import Conditions, Config, Experiment
from storage.settings import Settings
from training import runs, tune
from training.heads import Heads
from training.reference import solve_reference
from training.tail import Tail
from training.trainer import Task, TrainingBar
from verdict import mistakes
from verdict.ranking import Ranking, rank
from verdict.summary import write_report


@dataclass(frozen=True)
class Prepared:
    """All that training and the report need."""

    config: Config
    dataset: data.Dataset  # without damaged images
    samples: shards.Samples  # what is trained on
    frozen: shards.Samples  # the pooled features, for the reference


def run(settings: Settings, schedules: dict[str, list[float]], ray: str | None = None) -> None:
    """Run a new experiment, on the Ray cluster at an address if one is given.

    Raises Refusal or OSError; once it has begun Unfinished.
    """
    folder = Path(settings.logdir) / settings.name
    _require_new(folder, settings)
    conditions, dataset = _load(settings)
    is_given = settings.validation_fraction != Settings.validation_fraction
    data.check_flags(dataset, is_given, settings.tune)
    with _open_executor(ray, dataset, settings) as executor:
        prepared = _prepare(settings, schedules, conditions, dataset, executor)
        folder.mkdir(parents=True, exist_ok=True)
        with files.lock(folder):
            _require_new(folder, settings)
            _complete(folder, prepared, executor)


def resume(folder: Path, ray: str | None = None) -> None:
    """Finish an experiment; raises Refusal or OSError, where it stops again Unfinished."""
    before = results.read_config(folder)
    settings = before.settings
    with files.lock(folder):
        runs.recover(folder)
        conditions, dataset = _load(settings)
        if results.finished_runs(folder) or any(folder.glob("tuning/seed-*.json")):
            audit.compare_conditions(folder, before.conditions, conditions)
            if before.git_commit != (commit := _commit()):
                print(f"note: begun with commit {before.git_commit}, resumed with {commit}")
        with _open_executor(ray, dataset, settings) as executor:
            prepared = _prepare(settings, before.schedules, conditions, dataset, executor)
            _complete(folder, prepared, executor)


def _require_new(folder: Path, settings: Settings) -> None:
    """Raise Refusal if an output path is taken, OSError if logs cannot be written."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    names = os.listdir(folder) if folder.exists() else []
    # A process that was killed at its first write leaves a temporary file.
    if not all(name == files.LOCK or files.TEMPORARY.fullmatch(name) for name in names):
        advice = f"choose another --name, or finish it with --resume {folder}"
        raise Refusal(f"{folder} exists; {advice}")
    export.require_free([Path(path) for path in settings.export or ()])


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
    flags = ("image_size", "preprocessing", "batch_size", "dropout", "fine_tune", "steps_per_epoch")
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


def _prepare(
    settings: Settings,
    schedules: dict[str, list[float]],
    conditions: Conditions,
    dataset: data.Dataset,
    executor: Executor,
) -> Prepared:
    """Compute the features that the cache lacks, and leave damaged images out."""
    computed = cache.extract(
        dataset, settings.recipe, settings.cache_dir, settings.skip_damaged, executor
    )
    cached = len(dataset.labels) - len(computed.damaged) - computed.computed
    print(f"features: {computed.computed} computed, {cached} from {computed.stores[0].directory}")
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
    rows = [shards.open_rows(store, len(labels)) for store in computed.stores]
    samples = shards.Samples(rows[0], labels, len(dataset.class_names), *sides)
    frozen = replace(samples, rows=rows[-1])
    counts = map(list, zip(*dataset.counts().values(), strict=True))
    about = results.Data(dataset.name, dataset.class_names, *counts, left_out, notes)
    config = Config(settings, schedules, about, conditions, _commit(), platform.python_version())
    return Prepared(config, dataset, samples, frozen)


def _complete(folder: Path, prepared: Prepared, executor: Executor) -> None:
    """Make what is missing of an experiment; raises Unfinished."""
    config, dataset = prepared.config, prepared.dataset
    settings = config.settings
    names = [dataset.names[i] for i in np.flatnonzero(dataset.validation)]
    runs.recover(folder)
    results.write_config(folder, config, names)
    if equal := data.list_duplicates(dataset):
        files.write_atomically(folder / data.DUPLICATES, equal)
    print(_describe_link(folder, "seed-0"))
    try:
        # The reference is solved on one core while the others train.
        solving = None
        if not _is_whole(audit.read_reference, folder, config):
            solving = executor.submit(solve_reference, prepared.frozen)
        base = Task(
            trainer=Tail if settings.fine_tune else Heads,
            samples=prepared.samples,
            recipe=settings.recipe,
            rates={},
            seed=0,
            batch_size=settings.batch_size,
            dropout=settings.dropout,
            steps=settings.steps_per_epoch,
        )
        with TrainingBar(executor.queue()) as bar:
            if settings.tune:
                read = audit.read_tuning, folder, config
                seeds = [seed for seed in range(settings.seeds) if not _is_whole(*read, seed)]
                tune.tune_seeds(
                    folder, config.schedules, base, config.conditions, seeds, executor, bar
                )
            runs.train_missing(folder, config, base, executor, bar)
        if solving:
            solved = replace(solving.result(), conditions=config.conditions.key)
            results.write_reference(folder, solved)
        experiment = audit.read_experiment(folder)
        ranking = rank(experiment)
        runs.write_means(folder, experiment.runs)
        print(write_report(experiment, ranking), end="")
        if settings.export:
            _export_best(experiment, ranking, dataset)
        mistakes.write_contact_sheet(experiment, ranking, dataset)
    except (Refusal, OSError) as error:
        raise Unfinished(describe(error, folder)) from error
    print(_describe_link(folder, "mean" if settings.seeds > 1 else "seed-0"))


def _export_best(experiment: Experiment, ranking: Ranking, dataset: data.Dataset) -> None:
    """Export the best schedule's lowest seed, and measure what float16 changes; raises Refusal.

    Not the run that is best on the validation images: that would choose by what it is judged by.
    """
    paths = list(map(Path, experiment.config.settings.export))
    label, best_runs = ranking.best
    if not best_runs:
        raise Refusal(f"--export {paths[0]}: every schedule has a run that diverged; none is best")
    export.export_model(experiment, label, best_runs[0].result.seed, paths)
    rows = np.flatnonzero(dataset.validation)
    for path in paths:
        if path.name.endswith(export.HALF):
            graph = litert.Graph(path.read_bytes(), tasks.cores())
            images = map(decoding.decode, dataset.source.read(dataset.rows[rows]))
            answers = [graph.run(image[None])[0].argmax() for image in images]
            accuracy = np.mean(answers == dataset.labels[rows])
            told = f"validation accuracy {accuracy:.4f} with weights in float16"
            print(f"{path}: {told}, {best_runs[0].result.val_accuracy[-1]:.4f} as trained")


def _describe_link(folder: Path, group: str) -> str:
    """Say how to see one curve a schedule: that of the seed, or of the mean over seeds."""
    page = f"http://localhost:6006/?runFilter={group}%2Fvalidation&smoothing=0#timeseries"
    return f"curves: tensorboard --logdir {shlex.quote(str(folder))}\n        {page}"


def _is_whole(read: Callable, *arguments: Any) -> bool:
    """Whether a reader of audit.py finds its files, and finds them to agree."""
    with contextlib.suppress(Refusal):
        return read(*arguments) is not None
    return False
