"""Each schedule at its own best rate: a grid of peaks, chosen on held-out training images.

A schedule's shape is its table of rates divided by the largest; times a peak it is a candidate of
the grid. Candidates train on four fifths of the training images, and the peak with the least loss
on the other fifth is chosen. No validation image can reach the choice.
"""

import functools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import numpy as np

from features.shards import Samples
from runtime.tasks import run_tasks
from schedulers import scale_to_peak
from storage.results import Conditions, Tuning, choose_peaks, write_tuning
from training.trainer import PEAKS, Progress, Task, TrainingBar, train

HELD_OUT = 5  # one in five training images of each class chooses

Candidate = tuple[str, float]  # label and peak


class SeedGrid:
    """The grid of a seed while it grows, until the best peak of each schedule is bracketed."""

    def __init__(self, labels: Sequence[str], start: Sequence[float]):
        self._start = start
        # A loss that is not finite is infinite here.
        self._losses: dict[str, dict[float, float]] = {label: {} for label in labels}

    def missing(self) -> list[Candidate]:
        """Return what is to be trained next: the start, then neighbours of each best peak."""
        return [
            (label, peak)
            for label, losses in self._losses.items()
            for peak in (self._neighbours(losses) if losses else self._start)
            if peak not in losses
        ]

    @staticmethod
    def _neighbours(losses: dict[float, float]) -> list[float]:
        best = PEAKS.index(min(losses, key=lambda peak: (losses[peak], peak)))
        return PEAKS[max(best - 1, 0) : best + 2]

    def add(self, losses: dict[Candidate, float]) -> None:
        """Add the losses on the held-out fifth of what was trained."""
        for (label, peak), loss in losses.items():
            self._losses[label][peak] = loss if math.isfinite(loss) else math.inf

    def tuning(self) -> Tuning:
        """Return what is stored of the grid."""
        peaks = sorted(set().union(*self._losses.values()))
        losses: dict[str, list[float | None]] = {}
        for label, found in self._losses.items():
            ends = [found.get(peak, math.inf) for peak in peaks]
            losses[label] = [loss if math.isfinite(loss) else None for loss in ends]
        return Tuning(peaks, losses, choose_peaks(peaks, losses))


def hold_out(samples: Samples, seed: int) -> Samples:
    """Split the training images: a fifth of each class, drawn by the seed, becomes validation."""
    random, held_out = np.random.default_rng([seed, HELD_OUT]), []
    labels = samples.labels[samples.train]
    for label in np.unique(labels):
        images = random.permutation(samples.train[labels == label])
        # At least one image, unless there is no other to train on.
        held_out.append(images[: max(round(len(images) / HELD_OUT), min(len(images) - 1, 1))])
    validation = np.sort(np.concatenate(held_out))
    return replace(samples, train=np.setdiff1d(samples.train, validation), validation=validation)


def train_grid(
    report: Callable[[Progress], None], task: Task
) -> tuple[int, dict[Candidate, float]]:
    """Train candidates of a seed; returns the seed and the last loss of each on the fifth."""
    trained = train(task, lambda _, epochs: report(task.progress(epochs)))
    return task.seed, {name: end.epoch.val_loss for name, end in trained.items()}


def tune_seeds(
    directory: Path,
    shapes: dict[str, list[float]],
    base: Task,
    conditions: Conditions,
    seeds: Sequence[int],
    executor: Executor,
    bar: TrainingBar,
) -> None:
    """Train the grid of every seed and write its tuning/seed-K.json.

    How a grid grows is decided by the seed's own losses, so a resume decides alike.
    """
    # So many seeds at once that all cores are used, and what is ready is written soon.
    for begin in range(0, len(seeds), executor.workers):
        some = seeds[begin : begin + executor.workers]
        grids = {seed: SeedGrid(list(shapes), base.trainer.START) for seed in some}
        parts = math.ceil(executor.workers / len(some))
        while tasks := [
            task
            for seed, grid in grids.items()
            for task in plan_grid(base, seed, shapes, grid.missing(), parts)
        ]:
            for task in tasks:
                bar.expect(task)
            train_some = functools.partial(train_grid, bar.report)
            for seed, losses in run_tasks(executor, train_some, tasks, bar.show):
                grids[seed].add(losses)
        for seed, grid in grids.items():
            write_tuning(directory, seed, replace(grid.tuning(), conditions=conditions.key))


def plan_grid(
    base: Task, seed: int, shapes: dict[str, list[float]], missing: list[Candidate], parts: int
) -> list[Task]:
    """Return the tasks that train candidates of a seed."""
    samples = hold_out(base.samples, seed)
    tasks = []
    for group in base.trainer.split(base, missing, parts):
        rates = {(label, peak): scale_to_peak(shapes[label], peak) for label, peak in group}
        tasks.append(replace(base, samples=samples, rates=rates, seed=seed, only_last=True))
    return tasks
