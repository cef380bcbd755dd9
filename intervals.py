"""How sure: intervals that count seeds and images, and the rule that ranks schedules.

A table holds a number for each seed and validation image, float64 (S, I): whether a run is right
(1 or 0), its loss, or the difference of two schedules in one of these. Intervals are for new seeds
and new images; other training images, which vary results too, are not counted (Bouthillier et al.
2021, Accounting for Variance in Machine Learning Benchmarks, MLSys 3). Here is also the one rule
for what has diverged, which peak is chosen, and which schedule is best.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

# scipy.stats has the same quantile, but takes a second to import.
from scipy.special import stdtrit

from results import Experiment, Outputs, Run


@dataclass(frozen=True)
class Interval:
    """The mean of a table, and half of its 95 % interval: infinite where that cannot be known."""

    mean: float
    half_width: float  # for new seeds and new images; with one seed, for new images alone
    over_seeds: float  # for new seeds and the same images

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies above or below 0, else 0."""
        return int(np.sign(self.mean)) if abs(self.mean) > self.half_width else 0


@dataclass(frozen=True)
class Score:
    """Accuracy and loss of a schedule, or how far one lies above another or the reference."""

    accuracy: Interval
    loss: Interval

    @property
    def signs(self) -> tuple[int, int]:
        """The signs of both; of a difference that cannot be told (0, 0)."""
        return self.accuracy.sign, self.loss.sign


@dataclass(frozen=True)
class Ranking:
    """The schedules with a run that did not diverge, the best first."""

    runs: dict[str, list[Run]]
    scores: dict[str, Score]
    compared: dict[tuple[str, str], Score]  # (better, worse); see rank
    reference: Score | None  # of the best schedule minus the reference

    @property
    def best(self) -> tuple[str, list[Run]]:
        """The best schedule and its runs; an empty name without any if all runs diverged."""
        return next(iter(self.runs.items()), ("", []))

    @property
    def seeds(self) -> int:
        """The largest number of runs of a schedule."""
        return max(map(len, self.runs.values()))

    @property
    def ahead(self) -> dict[str, Interval]:
        """How far the best schedule is ahead, in accuracy, of every other it is compared with."""
        pairs = self.compared.items()
        return {labels[1]: pair.accuracy for labels, pair in pairs if labels[0] == self.best[0]}


def variance_of_mean(table: np.ndarray, step: float = 0.0) -> tuple[float, float]:
    """Return the variance of the mean of a table (S, I), and its degrees of freedom.

    Two-way crossed analysis of variance: (MS_seed + MS_image - MS_residual) / (S I), not below what
    seeds or images give alone; degrees of freedom by Satterthwaite (1946, Biometrics Bulletin
    2:110-114). One seed: images alone, as in McNemar's test. One image: infinite.

    `step` is 1 where a run is right or wrong: half an image is added on either side of the mean,
    because equal results prove little (Agresti and Min 2005, Statistics in Medicine 24:729-740).
    """
    seeds, images = table.shape
    if images < 2:
        return math.inf, 1.0
    mean, seed_means, image_means = table.mean(), table.mean(axis=1), table.mean(axis=0)
    ms_image = seeds * (np.sum((image_means - mean) ** 2) + step**2) / (images - 1)
    if seeds == 1:
        return float(ms_image / images), images - 1
    ms_seed = images * np.var(seed_means, ddof=1)
    residuals = table - seed_means[:, None] - image_means + mean
    freedom = np.array([seeds - 1, images - 1, (seeds - 1) * (images - 1)])
    ms_residual = np.sum(residuals**2) / freedom[2]
    both = ms_seed + ms_image - ms_residual
    squares = np.sum(np.square([ms_seed, ms_image, ms_residual]) / freedom)
    sources = (ms_seed, freedom[0]), (ms_image, freedom[1]), (both, both**2 / max(squares, 1e-300))
    largest, degrees = max(sources)
    return float(largest / table.size), float(degrees)


def interval(table: np.ndarray, step: float = 0.0, together: int = 1) -> Interval:
    """Return the mean of a table (S, I) with its 95 % interval; `step` as in variance_of_mean.

    `together` is the number of intervals that are to hold at once with 95 % (Bonferroni; Dunn 1961,
    Journal of the American Statistical Association 56:52-64).
    """
    seeds, images = table.shape
    quantile = 1 - 0.05 / together / 2
    variance, freedom = variance_of_mean(table, step)
    half_width, over_seeds = stdtrit(freedom, quantile) * math.sqrt(variance), math.inf
    if seeds > 1:
        # At least the deviation of rounding to whole images, because equal seeds prove nothing.
        deviation = max(np.std(table.mean(axis=1), ddof=1), step / images / math.sqrt(12))
        over_seeds = stdtrit(seeds - 1, quantile) * deviation / math.sqrt(seeds)
        # Satterthwaite's degrees of freedom are too many where few seeds vary more than images.
        half_width = max(half_width, over_seeds)
    return Interval(float(table.mean()), float(half_width), float(over_seeds))


def compare(first: list[Outputs], second: list[Outputs], together: int) -> Score:
    """Compare runs with runs of the same seeds, or with one that has none: first minus second."""
    right, loss = _tables(first) - _tables(second)
    # Equal losses of all images are of equal runs, as equal rates give, and need no interval.
    step = 1 if loss.any() else 0
    return Score(interval(right, step, together), interval(loss, 0, together))


def rank(experiment: Experiment) -> Ranking:
    """Rank the schedules of an experiment, and compare all pairs and the best with the reference.

    The one rule for what is best: the highest mean final validation accuracy, then the lowest loss.
    Accuracy and loss both decide, so the intervals of all pairs in both hold together; those of the
    reference, for any best. Pairs that share one seed are left out, unless no schedule has more.
    """
    runs = {
        label: {run.result.seed: run for run in finished if not run.diverged}
        for label, finished in experiment.runs.items()
    }
    outputs = {label: [run.outputs for run in sound.values()] for label, sound in runs.items()}
    scores = {}
    for label in filter(outputs.get, outputs):
        right, loss = _tables(outputs[label])
        scores[label] = Score(interval(right, 1), interval(loss))
    order = sorted(scores, key=lambda of: (-scores[of].accuracy.mean, scores[of].loss.mean))
    enough = min(2, max(map(len, outputs.values())))
    compared, pairs = {}, list(itertools.combinations(order, 2))
    for pair in pairs:
        seeds = sorted(set.intersection(*(set(runs[label]) for label in pair)))
        if len(seeds) >= enough:
            sides = [[runs[label][seed].outputs for seed in seeds] for label in pair]
            compared[pair] = compare(*sides, 2 * len(pairs))
    gap = None
    if order and (solved := experiment.reference):
        gap = compare(outputs[order[0]], [solved.outputs], 2 * len(order))
    ranked = {label: list(runs[label].values()) for label in order}
    return Ranking(ranked, scores, compared, gap)


def tuning_losses(experiment: Experiment) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the P peaks that all grids have, and each schedule's losses there: (seeds, P).

    A loss is NaN where a head diverged. Schedules that diverged in a seed at every peak are left
    out.
    """
    grids, tables = list(experiment.tuning.values()), {}
    peaks = sorted(set.intersection(*(set(grid.peaks) for grid in grids)))
    for label in experiment.config.schedules:
        table = [[grid.loss[label][grid.peaks.index(peak)] for peak in peaks] for grid in grids]
        if not all(None in losses for losses in zip(*table, strict=True)):
            tables[label] = np.array(table, np.float64)
    return np.array(peaks), tables


def _tables(outputs: list[Outputs]) -> np.ndarray:
    """Return whether runs are right, and their losses: (2, runs, images)."""
    right = [run.predicted == run.label for run in outputs]
    return np.array([right, [run.loss for run in outputs]], np.float64)
