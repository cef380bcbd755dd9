"""Each schedule at its own best rate: a grid of peaks, chosen on held-out training images.

A schedule's shape is its table of rates divided by the largest; times a peak it is a head of the
grid. The heads of a seed train side by side on four fifths of the training images, and the peak
with the least loss on the other fifth is chosen. No validation image can reach the choice.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import numpy as np

from features.cache import Samples
from runtime.tasks import Progress, TrainingBar, run_tasks
from schedulers import scale_to_peak
from storage.results import Tuning, choose_peaks, is_diverged, write_tuning
from training.heads import EpochMetrics, HeadsTask, split_heads, train_heads

# 1, 2 and 5 in each decade. The grid begins with those from 1e-5 to 1e-1 and can grow.
PEAKS = [float(f"{digit}e{exponent}") for exponent in range(-7, 2) for digit in (1, 2, 5)][:-2]
START = slice(PEAKS.index(1e-5), PEAKS.index(1e-1) + 1)
GROWTH = 3  # peaks by which the grid grows
HELD_OUT = 5  # one in five training images of each class chooses

Grid = dict[tuple[str, float], EpochMetrics | None]  # label and peak -> how that head ends


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


def train_grid(report: Callable[[Progress], None], task: HeadsTask) -> tuple[int, Grid]:
    """Train heads of the grid of a seed; returns the seed and the last metrics of each head."""
    heads = train_heads(task, lambda _, metrics: report(Progress(task.seed, metrics)))
    return task.seed, {name: head.metrics for name, head in heads.items()}


def tune_seeds(
    directory: Path,
    shapes: dict[str, list[float]],
    base: HeadsTask,
    seeds: Iterable[int],
    executor: Executor,
    bar: TrainingBar,
) -> None:
    """Train the grid of every seed and write its tuning/seed-K.json.

    Where the least loss of a schedule lies on the edge of the grid, all schedules of that seed get
    more peaks on that side. It is decided by the seed's own losses, so a resume decides alike.
    """
    grids = {seed: dict.fromkeys(itertools.product(shapes, PEAKS[START])) for seed in seeds}
    while grids:
        tasks = []
        parts = math.ceil(executor.workers / len(grids))  # few seeds use all cores, too
        for seed, grid in grids.items():
            samples = hold_out(base.samples, seed)
            missing = [head for head, metrics in grid.items() if metrics is None]
            for group in split_heads(missing, samples.classes, base.batch_size, parts):
                rates = {(label, peak): scale_to_peak(shapes[label], peak) for label, peak in group}
                tasks.append(replace(base, samples=samples, rates=rates, seed=seed))
                bar.total += sum(map(len, rates.values()))
        train = functools.partial(train_grid, bar.report)
        for seed, metrics in run_tasks(executor, train, tasks, bar.show):
            grids[seed] |= metrics
            if None not in grids[seed].values():
                tuning = _collect(grids[seed], base.samples.classes)
                # Beyond each edge of the grid on which a chosen peak lies.
                chosen, (lowest, *_, highest) = tuning.chosen.values(), tuning.peaks
                below = [peak for peak in PEAKS if peak < lowest and lowest in chosen]
                above = [peak for peak in PEAKS if peak > highest and highest in chosen]
                if more := below[-GROWTH:] + above[:GROWTH]:
                    grids[seed] |= dict.fromkeys(itertools.product(shapes, more))
                else:
                    write_tuning(directory, seed, tuning)
                    del grids[seed]


def _collect(grid: Grid, classes: int) -> Tuning:
    peaks = sorted({peak for _, peak in grid})
    loss = {label: [] for label, _ in grid}
    for label, peak in itertools.product(loss, peaks):
        head = grid[label, peak]
        diverged = is_diverged(head.loss, head.val_loss, classes)
        loss[label].append(None if diverged else head.val_loss)
    return Tuning(peaks, loss, choose_peaks(peaks, loss))
