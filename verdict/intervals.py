"""How sure: 95 % intervals that count seeds and images.

A table holds a number for each seed and validation image, float64 (S, I): whether a run is right
(1 or 0), its loss, or the difference of two schedules in one of these. Intervals are for new seeds
and new images; other training images, which vary results too, are not counted (Bouthillier et al.
2021, Accounting for Variance in Machine Learning Benchmarks, MLSys 3).
"""

import math
from dataclasses import dataclass

import numpy as np

# scipy.stats has the same quantile, but takes a second to import.
from scipy.special import stdtrit


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
    # (variance of a single number, degrees of freedom): the largest variance counts.
    of_seeds, of_images = (ms_seed, freedom[0]), (ms_image, freedom[1])
    of_both = both, both**2 / max(squares, 1e-300)
    largest, degrees = max(of_seeds, of_images, of_both)
    return float(largest / table.size), float(degrees)


def interval(table: np.ndarray, step: float = 0.0, together: int = 1) -> Interval:
    """Return the mean of a table (S, I) with its 95 % interval; `step` as in variance_of_mean.

    `together` is the number of intervals that are to hold at once with 95 % (Bonferroni; Dunn 1961,
    Journal of the American Statistical Association 56:52-64).
    """
    seeds, images = table.shape
    quantile = 1 - 0.05 / together / 2
    variance, freedom = variance_of_mean(table, step)
    half_width = stdtrit(freedom, quantile) * math.sqrt(variance)
    over_seeds = math.inf
    if seeds > 1:
        # At least the deviation of rounding to whole images, because equal seeds prove nothing.
        deviation = max(np.std(table.mean(axis=1), ddof=1), step / images / math.sqrt(12))
        over_seeds = stdtrit(seeds - 1, quantile) * deviation / math.sqrt(seeds)
        # Satterthwaite's degrees of freedom are too many where few seeds vary more than images.
        half_width = max(half_width, over_seeds)
    return Interval(float(table.mean()), float(half_width), float(over_seeds))
