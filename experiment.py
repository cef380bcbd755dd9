"""The steps of an experiment in order: data, features, grid (--tune), runs, report, export.

Every step leaves whole files, so an experiment that was killed at any moment can be resumed:
finished work stays; the rest is made as if never interrupted, to the last bit.
"""

import contextlib
import importlib.metadata
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
import cli
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
import tasks
import tune
from heads import HeadsTask, split_heads
from progress import TrainingBar
from reference import solve_reference
from results import Conditions, Config
from settings import Settings


@dataclass(frozen=True)
class Prepared:
    """What training needs."""

    config: Config
    samples: features.Samples
    dataset: data.Dataset  # without damaged images


def run(settings: Settings, schedules: dict[str, list[float]], ray: str | None = None) -> None:
    """Run a new experiment, on a Ray cluster if its address is given.

    Raises cli.Refusal or OSError, and once it has begun cli.Unfinished.
    """
    directory = Path(settings.logdir) / settings.name
    _require_new(directory, settings)
    conditions, dataset = _load(settings)
    with _open_executor(ray, dataset, settings) as executor:
        prepared = _extract(settings, schedules, conditions, dataset, executor)
        directory.mkdir(parents=True, exist_ok=True)
        with files.lock(directory):
            _require_new(directory, settings)
            _complete(directory, prepared, executor)


def resume(directory: Path, ray: str | None = None) -> None:
    """Finish an experiment; raises cli.Refusal or OSError, where it stops again cli.Unfinished."""
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
            _complete(directory, prepared, executor)


def _require_new(directory: Path, settings: Settings) -> None:
    """Raise Refusal if an output path is taken, OSError if logs cannot be written."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        # A process that was killed at its first write leaves a temporary file.
        names = {path.name for path in directory.iterdir()} - {files.LOCK}
        if not all(map(files.TEMPORARY.fullmatch, names)):
            advice = f"choose another --name, or finish it with --resume {directory}"
            raise cli.Refusal(f"{directory} exists; {advice}")
    for path in settings.export or ():
        export.require_free(Path(path))


def _load(settings: Settings) -> tuple[Conditions, data.Dataset]:
    """Load the data and print what they are; the conditions are those of today's versions."""
    source = settings.data, settings.train, settings.test, settings.validation_fraction
    dataset = data.load(*source, left_out=(settings.logdir, settings.cache_dir))
    count = int(dataset.validation.sum())
    sides = f"{len(dataset.rows) - count} training and {count} validation images"
    print(f"{dataset.name}: {sides} of {len(dataset.class_names)} classes")
    width = max(map(len, dataset.class_names))
    for name, (train, validation) in dataset.counts().items():
        print(f"  {name:{width}} {train:7} {validation:7}")
    for note in dataset.notes:
        print(f"note: {note}")
    copied = ("image_size", "preprocessing", "batch_size", "dropout")
    conditions = Conditions(
        format=results.FORMAT,
        data=dataset.fingerprint,
        weights=model.weights_key(settings.weights),
        engine=features.engine(),
        decoder=features.decoder(),
        **{name: getattr(settings, name) for name in copied},
        **{name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy")},
    )
    return conditions, dataset


def _open_executor(ray: str | None, dataset: data.Dataset, settings: Settings) -> Executor:
    """Return threads, or the Ray cluster at an address, whose nodes must see the same files."""
    if ray is None:
        return tasks.Threads()
    # Ray is optional.
    import cluster

    few = dataset.source.subset(dataset.rows[[0, len(dataset.rows) // 2, -1]])
    folders = [Path(settings.logdir), Path(settings.cache_dir)]
    return cluster.RayExecutor(ray, folders, few, settings.weights)


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
) -> Prepared:
    """Compute the features that the cache lacks, and leave damaged images out."""
    recipe = settings.image_size, settings.preprocessing, settings.weights
    cache = settings.cache_dir, settings.skip_damaged
    computed = features.extract(dataset, *recipe, *cache, executor)
    cached = len(dataset.labels) - len(computed.damaged) - computed.computed
    print(f"features: {computed.computed} computed, {cached} from {computed.directory}")
    remarks = data.remark_notes(dataset, computed.remarks)
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
    samples = features.Samples(computed.directory, labels, len(dataset.class_names), *sides)
    counts = map(list, zip(*dataset.counts().values(), strict=True))
    about = results.Data(dataset.name, dataset.class_names, *counts, left_out, notes)
    config = Config(settings, schedules, about, conditions, _commit(), platform.python_version())
    return Prepared(config, samples, dataset)


def _complete(directory: Path, prepared: Prepared, executor: Executor) -> None:
    """Make what is missing of an experiment; raises cli.Unfinished."""
    config, dataset = prepared.config, prepared.dataset
    names = [dataset.names[i] for i in np.flatnonzero(dataset.validation)]
    runs.recover(directory)
    results.write_config(directory, config, names)
    print(_describe_link(directory, "seed-0"))
    try:
        # The reference is solved on one core while the others train.
        solving = None
        if not _is_whole(audit.read_reference, directory, config):
            solving = executor.submit(solve_reference, prepared.samples)
        _train(directory, prepared, executor)
        if solving:
            results.write_reference(directory, solving.result())
        experiment = audit.audit(directory)
        ranking = intervals.rank(experiment)
        runs.write_means(directory, experiment.runs)
        print(report.write(experiment, ranking), end="")
        mistakes.write_contact_sheet(experiment, ranking, dataset)
        if config.settings.export:
            export.export(experiment, ranking, list(map(Path, config.settings.export)))
    except (cli.Refusal, OSError) as error:
        raise cli.Unfinished(cli.describe(error, directory)) from error
    print(_describe_link(directory, "mean" if config.settings.seeds > 1 else "seed-0"))


def _describe_link(directory: Path, group: str) -> str:
    """Say how to see one curve a schedule: that of the seed, or of the mean over seeds."""
    page = f"http://localhost:6006/?runFilter={group}%2Fvalidation&smoothing=0#timeseries"
    return f"curves: tensorboard --logdir {shlex.quote(str(directory))}\n        {page}"


def _is_whole(read: Callable, *arguments: Any) -> bool:
    """Whether a reader of audit.py finds its files, and finds them to agree."""
    with contextlib.suppress(cli.Refusal):
        return read(*arguments) is not None
    return False


def _train(directory: Path, prepared: Prepared, executor: Executor) -> None:
    """Make what is missing of the grids and runs; the heads of a seed train side by side."""
    config, samples = prepared.config, prepared.samples
    settings, missing = config.settings, []
    base = HeadsTask(samples, {}, 0, settings.batch_size, settings.dropout)
    with TrainingBar(executor.queue()) as bar:
        if settings.tune:
            read = audit.read_tuning, directory, config
            seeds = [seed for seed in range(settings.seeds) if not _is_whole(*read, seed)]
            tune.tune(directory, config.schedules, base, seeds, executor, bar)
        for seed in range(settings.seeds):
            rates = _missing_runs(directory, config, seed)
            for group in split_heads(list(rates), samples.classes, settings.batch_size):
                heads = replace(base, rates={label: rates[label] for label in group}, seed=seed)
                task = directory, heads, config.conditions, bar.report, executor.retries
                missing.append(runs.RunsTask(*task))
                bar.total += sum(map(len, heads.rates.values()))
        for attempts in tasks.run_tasks(executor, runs.train_runs, missing, bar.show):
            bar.show()
            for attempt in attempts:
                bar.write(_summarize(runs.publish(attempt)))


def _missing_runs(directory: Path, config: Config, seed: int) -> dict[str, list[float]]:
    """Return the rates of a seed's runs that are still to be made, or made again."""
    tuning, missing = audit.read_tuning(directory, config, seed), {}
    for label in config.schedules:
        rates = audit.planned_rates(config, tuning, label)
        if rates is None:
            print(f"note: every head of {label} seed {seed} diverged, so it has no run")
            continue
        try:
            if (results.run_directory(directory, label, seed) / results.RESULT).exists():
                audit.audit_run(directory, config, label, seed, tuning)
                continue
        except cli.Refusal as error:
            print(f"train.py: {error}; this run is done again", file=sys.stderr)
        missing[label] = rates
    return missing


def _summarize(result: results.Result) -> str:
    final = result.val_accuracy[-1], result.val_loss[-1]
    accuracy, loss = ("not finite" if value is None else f"{value:.4f}" for value in final)
    run = f"{result.schedule} seed {result.seed}"
    return f"{run}: validation accuracy {accuracy}, loss {loss} after {len(result.rate)} epochs"
