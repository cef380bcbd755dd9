"""Each schedule at its own best rate: a grid of peaks, chosen on held-out training images.

A schedule's shape is its table of rates divided by the largest; times a peak it is a head of the
grid. The heads of a seed train side by side on four fifths of the training images, and the peak
with the least loss on the other fifth is chosen. No validation image can reach the choice.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from heads import EpochMetrics, HeadsTask, split_heads, train_heads
from progress import Progress, TrainingBar
from results import Tuning, choose_peaks, is_diverged, write_tuning
from schedulers import scale_to_peak
from tasks import run_tasks, workers

# 1, 2 and 5 in each decade. The grid begins with those from 1e-5 to 1e-1 and can grow.
PEAKS = [float(f"{digit}e{exponent}") for exponent in range(-7, 2) for digit in (1, 2, 5)][:-2]
START = range(PEAKS.index(1e-5), PEAKS.index(1e-1) + 1)
GROWTH = 3  # peaks by which the grid grows
HELD_OUT = 5  # one in five training images of each class chooses


@dataclass(frozen=True)
class GridTask:
    """Some heads of the grid of one seed."""

    heads: HeadsTask  # rates: (label, peak) -> rate of every epoch
    report_progress: Callable[[Progress], None]


def hold_out(labels: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """Return a fifth of the rows, drawn by the seed from each class; at least one of two images."""
    random, held_out = np.random.default_rng([seed, HELD_OUT]), []
    for label in np.unique(labels[rows]):
        images = random.permutation(rows[labels[rows] == label])
        held_out.append(images[: max(round(len(images) / HELD_OUT), len(images) > 1)])
    return np.sort(np.concatenate(held_out))


def train_grid(task: GridTask) -> tuple[int, dict[tuple[str, float], EpochMetrics]]:
    """Train heads of the grid; returns the seed and the last metrics of each head."""
    last: dict[tuple[str, float], EpochMetrics] = {}

    def keep(epoch: int, metrics: dict) -> None:
        last.update(metrics)
        task.report_progress(Progress(task.heads.seed, metrics))

    train_heads(task.heads, keep)
    return task.heads.seed, last


def tune(
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
    samples, grids = base.samples, dict.fromkeys(seeds, START)
    found: dict[int, dict[tuple[str, float], EpochMetrics]] = {seed: {} for seed in grids}
    parts = math.ceil(workers(executor) / max(1, len(grids)))  # few seeds use all cores, too
    while grids:
        tasks = []
        for seed, grid in grids.items():
            held_out = hold_out(samples.labels, samples.train, seed)
            fitted = np.setdiff1d(samples.train, held_out)
            parted = replace(samples, train=fitted, validation=held_out)
            pairs = itertools.product(shapes, (PEAKS[i] for i in grid))
            missing = [head for head in pairs if head not in found[seed]]
            for group in split_heads(missing, samples.classes, base.batch_size, parts):
                rates = {(label, peak): scale_to_peak(shapes[label], peak) for label, peak in group}
                heads = replace(base, samples=parted, rates=rates, seed=seed)
                tasks.append(GridTask(heads, bar.report))
                bar.expect(rates.values())
        for seed, metrics in run_tasks(executor, train_grid, tasks, bar.show):
            found[seed].update(metrics)
            if len(found[seed]) < len(shapes) * len(grids[seed]):
                continue
            tuning = _collect(found[seed], shapes, grids[seed], samples.classes)
            grown = _grow(grids[seed], [PEAKS.index(peak) for peak in tuning.chosen.values()])
            if grown != grids[seed]:
                grids[seed] = grown  # for the next round
            else:
                del grids[seed]
                write_tuning(directory, seed, tuning)


def _collect(
    found: dict[tuple[str, float], EpochMetrics],
    labels: Iterable[str],
    grid: range,
    classes: int,
) -> Tuning:
    """Return the final losses and accuracies on the held-out fifth; None for a diverged head."""
    peaks = [PEAKS[i] for i in grid]
    loss, accuracy = {}, {}
    for label in labels:
        heads = [found[label, peak] for peak in peaks]
        diverged = [is_diverged(head.loss, head.val_loss, classes) for head in heads]
        pairs = list(zip(heads, diverged, strict=True))
        loss[label] = [None if out else head.val_loss for head, out in pairs]
        accuracy[label] = [None if out else head.val_accuracy for head, out in pairs]
    return Tuning(peaks, loss, accuracy, choose_peaks(peaks, loss))


def _grow(grid: range, chosen: list[int]) -> range:
    """Return the grid with more peaks on each side where a chosen one lies on the edge."""
    start, stop = grid.start, grid.stop
    if start in chosen:
        start = max(start - GROWTH, 0)
    if stop - 1 in chosen:
        stop = min(stop + GROWTH, len(PEAKS))
    return range(start, stop)
