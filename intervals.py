"""How sure: intervals that count seeds and images, and the one rule for which schedule is best.

A table holds a number for each seed and validation image, float64 (S, I): whether a run is right
(1 or 0), its loss, or the difference of two schedules in one of these. The intervals are for new
seeds and new images. Other training images, which vary results too, are not counted (Bouthillier et
al. 2021, Accounting for Variance in Machine Learning Benchmarks, MLSys 3).
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

# scipy.stats has the same quantile, but takes a second to import.
from scipy.special import stdtrit

from results import Experiment, Outputs, Run

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """The mean of a table, and half of its 95 % interval: infinite where that cannot be known."""

    mean: float
    half_width: float  # for new seeds and new images; with one seed, for new images alone
    over_seeds: float  # for new seeds and the same images
    seeds: int
    freedom: float  # degrees of freedom of half_width

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies above or below 0, else 0."""
        return int(np.sign(self.mean)) if abs(self.mean) > self.half_width else 0


@dataclass(frozen=True)
class Comparison:
    """How far one schedule lies above another, or above the reference."""

    accuracy: Interval
    loss: Interval


@dataclass(frozen=True)
class Ranking:
    """The schedules with a run that did not diverge, the best first: label -> runs."""

    runs: dict[str, list[Run]]
    accuracy: dict[str, Interval]
    loss: dict[str, Interval]
    compared: dict[tuple[str, str], Comparison]  # a better and a worse one that share a seed
    reference: Comparison | None  # of the best schedule with the reference

    @property
    def ahead(self) -> dict[str, Interval]:
        """How far the best is ahead in accuracy of every other that shares a seed with it."""
        best = next(iter(self.runs), None)
        return {two: of.accuracy for (one, two), of in self.compared.items() if one == best}


def variance_of_mean(table: np.ndarray, step: float = 0.0) -> tuple[float, float]:
    """Return the variance of the mean of a table (S, I), and its degrees of freedom.

    Two-way crossed analysis of variance: (MS_seed + MS_image - MS_residual) / (S I), not below what
    seeds or images give alone; degrees of freedom by Satterthwaite (1946, Biometrics Bulletin
    2:110-114). One seed: images alone, as in McNemar's test. One image: infinite.

    Where a run is right or wrong, `step` is 1 and half an image is added on either side of the
    mean, because a few equal results do not prove a variance of 0 (Agresti and Min 2005, Statistics
    in Medicine 24:729-740).
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
    of_both = both**2 / max(np.sum(np.square([ms_seed, ms_image, ms_residual]) / freedom), 1e-300)
    largest, of_largest = max((ms_seed, freedom[0]), (ms_image, freedom[1]), (both, of_both))
    return float(largest / table.size), float(of_largest)


def interval(table: np.ndarray, step: float = 0.0, together: int = 1) -> Interval:
    """Return the mean of a table (S, I) with its 95 % interval; `step` as in variance_of_mean.

    `together` is the number of intervals that are to hold at once with 95 % (Bonferroni; Dunn 1961,
    Journal of the American Statistical Association 56:52-64).
    """
    seeds, images = table.shape
    quantile = 1 - (1 - CONFIDENCE) / together / 2
    variance, freedom = variance_of_mean(table, step)
    half_width, over_seeds = stdtrit(freedom, quantile) * math.sqrt(variance), math.inf
    if seeds > 1:
        # At least the deviation of rounding to whole images, because equal seeds prove nothing.
        deviation = max(np.std(table.mean(axis=1), ddof=1), step / images / math.sqrt(12))
        over_seeds = stdtrit(seeds - 1, quantile) * deviation / math.sqrt(seeds)
    return Interval(float(table.mean()), float(half_width), float(over_seeds), seeds, freedom)


def compare(first: list[Outputs], second: list[Outputs], step: float, together: int) -> Comparison:
    """Compare runs with runs of the same seeds, or with one that has none: first minus second."""
    right = _correctness(first) - _correctness(second)
    loss = _losses(first) - _losses(second)
    return Comparison(interval(right, step, together), interval(loss, 0, together))


def rank(experiment: Experiment) -> Ranking:
    """Rank the schedules of an experiment, and compare all pairs and the best with the reference.

    The one rule for what is best: the highest mean final validation accuracy, then the lowest loss.
    Accuracy and loss both decide, so the intervals of all pairs in both hold together; that of the
    reference, for any schedule that could have been the best. They are 0 only for equal rates,
    because these give equal runs.
    """
    runs = {label: [run for run in of if not run.diverged] for label, of in experiment.runs.items()}
    outputs = {label: [run.outputs for run in of] for label, of in runs.items() if of}
    accuracy = {label: interval(_correctness(of), 1) for label, of in outputs.items()}
    loss = {label: interval(_losses(of)) for label, of in outputs.items()}
    order = sorted(outputs, key=lambda label: (-accuracy[label].mean, loss[label].mean))
    compared, pairs = {}, list(itertools.combinations(order, 2))
    for pair in pairs:
        first, second = ({run.result.seed: run for run in runs[label]} for label in pair)
        if shared := sorted(set(first) & set(second)):
            first, second = [first[seed] for seed in shared], [second[seed] for seed in shared]
            equal = [run.result.rates for run in first] == [run.result.rates for run in second]
            of = [[run.outputs for run in side] for side in (first, second)]
            compared[pair] = compare(*of, 0 if equal else 1, 2 * len(pairs))
    gap = None
    if order and experiment.reference:
        gap = compare(outputs[order[0]], [experiment.reference.outputs], 1, 2 * len(order))
    return Ranking({label: runs[label] for label in order}, accuracy, loss, compared, gap)


def best_schedule(experiment: Experiment) -> str | None:
    """Return the label of the best schedule by the rule of `rank`; None if all runs diverged."""
    return next(iter(rank(experiment).runs), None)


def _correctness(runs: list[Outputs]) -> np.ndarray:
    return np.array([of.predicted == of.label for of in runs], np.float64)


def _losses(runs: list[Outputs]) -> np.ndarray:
    return np.array([of.loss for of in runs], np.float64)
