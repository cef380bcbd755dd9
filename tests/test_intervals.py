"""Intervals: against formulas of others, and by simulation where the truth is known."""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
from experiment_files import CONDITIONS
from scipy import stats

from storage import results
from verdict import intervals
from verdict.ranking import rank

EXPERIMENTS = 1000
AT_MOST = 0.05 + 3 * math.sqrt(0.05 * 0.95 / EXPERIMENTS)  # 5 %, and three standard errors


def test_one_seed_gives_the_interval_of_a_paired_t_test_over_images():
    table = np.random.default_rng(0).normal(0.1, 1, (1, 50))
    found = intervals.interval(table)
    low, high = stats.ttest_1samp(table[0], 0).confidence_interval(0.95)
    assert found.mean == pytest.approx((low + high) / 2)
    assert found.half_width == pytest.approx((high - low) / 2)
    assert found.over_seeds == math.inf


def test_one_seed_has_the_variance_of_agresti_and_min():
    # Only the first is right about 7 of 100 images, only the second about 3; half an image on top.
    table = np.array([[1.0] * 7 + [-1.0] * 3 + [0.0] * 90])
    variance, _ = intervals.variance_of_mean(table, 1)
    assert variance * 100 * 99 == pytest.approx(7 + 3 + 1 - 4**2 / 100)


def test_variance_is_that_of_the_mean_squares_of_a_two_way_layout():
    # Worked by hand: grand mean 3, seed means 2 and 4, image means 1.5, 3.5 and 4.
    table = np.array([[1.0, 2.0, 3.0], [2.0, 5.0, 5.0]])
    ms_seed, ms_image, ms_residual = 6.0, 3.5, 0.5
    both = ms_seed + ms_image - ms_residual
    freedom = both**2 / (ms_seed**2 / 1 + ms_image**2 / 2 + ms_residual**2 / 2)
    assert intervals.variance_of_mean(table) == pytest.approx((both / 6, freedom))


def test_variance_is_not_below_that_of_images_alone_or_of_seeds_alone():
    noise = np.random.default_rng(0).normal(0, 1, (3, 200))
    without_seeds = noise - noise.mean(axis=1, keepdims=True)
    ms_image = 3 * without_seeds.mean(axis=0).var(ddof=1)
    assert intervals.variance_of_mean(without_seeds) == pytest.approx((ms_image / 600, 199))
    without_images = noise - noise.mean(axis=0)
    without_images += np.array([[1.0], [0.0], [-1.0]]) - without_images.mean(axis=1, keepdims=True)
    assert intervals.variance_of_mean(without_images) == pytest.approx((1 / 3, 2))


def test_over_seeds_is_student_s_interval_and_never_0_for_counts():
    table = np.random.default_rng(0).random((5, 40))
    low, high = stats.ttest_1samp(table.mean(axis=1), 0).confidence_interval(1 - 0.05 / 6)
    assert intervals.interval(table, together=6).over_seeds == pytest.approx((high - low) / 2)
    equal = intervals.interval(np.ones((2, 40)), 1)
    assert equal.over_seeds > 0 and equal.half_width > 0


def test_a_single_image_gives_no_interval():
    assert intervals.interval(np.ones((3, 1)), 1).half_width == math.inf


# --- Simulation -------------------------------------------------------------------------------


# Standard deviations of skill over images, over seeds, and over both; of difficulty it is 1.
# Differences come out as on the Intel images, with more effect of the seed.
OF_IMAGES, OF_SEEDS, OF_BOTH, MEAN_SKILL = 0.25, 0.02, 0.15, 1.4


def simulate(random, seeds, images, advantage=0.0):
    """Return d[seed, image] of two schedules, of which the first has an advantage in skill.

    A run is right about an image if its skill is above the image's difficulty. A single seed is
    asked about its two models, whose skill then has no effect of the seed.
    """
    normal = functools.partial(random.standard_normal, dtype=np.float32)
    difficulty = normal((1, images)) - MEAN_SKILL
    of_seeds = OF_SEEDS * (seeds > 1)
    right = [
        mean + OF_IMAGES * normal((1, images)) + of_seeds * normal((seeds, 1))
        + OF_BOTH * normal((seeds, images)) > difficulty
        for mean in (advantage, 0.0)
    ]  # fmt: skip
    return right[0].astype(np.float64) - right[1]


def advantage_of(standard_errors, tables):
    """Return the advantage that makes the difference in accuracy so many standard errors."""
    error = np.mean([intervals.variance_of_mean(table, 1)[0] ** 0.5 for table in tables])
    deviation = math.sqrt(1 + OF_IMAGES**2 + OF_SEEDS**2 + OF_BOTH**2)
    return standard_errors * error / stats.norm.pdf(MEAN_SKILL, scale=deviation)


@pytest.mark.parametrize("seeds", [1, 3, 10])
@pytest.mark.parametrize("images", [300, 3000])
def test_equal_schedules_seldom_and_different_ones_mostly_are_told_apart(seeds, images):
    random = np.random.default_rng(seeds * images)
    tables = [simulate(random, seeds, images) for _ in range(EXPERIMENTS)]
    wrong = np.mean([intervals.interval(table, 1).sign != 0 for table in tables])
    # More than 1 %, or the interval would be too wide to be of use.
    assert 0.01 < wrong <= AT_MOST
    advantage = advantage_of(4, tables[:100])
    tables = [simulate(random, seeds, images, advantage) for _ in range(EXPERIMENTS // 5)]
    assert np.mean([intervals.interval(table, 1).sign == 1 for table in tables]) > 0.7


@pytest.mark.parametrize(("seeds", "images", "of_seeds"), [(5, 300, OF_SEEDS), (3, 3000, 0.06)])
def test_five_equal_schedules_are_seldom_told_apart_in_accuracy_or_in_loss(seeds, images, of_seeds):
    random, repeats, label = np.random.default_rng(0), 200, np.zeros(images, np.int32)

    def experiment():
        """Five schedules of the same skill."""
        runs = {}
        difficulty = random.standard_normal(images) - MEAN_SKILL
        for name in "abcde":
            of_images = OF_IMAGES * random.standard_normal(images) - difficulty
            skills = of_images + OF_BOTH * random.standard_normal((seeds, images))
            skills += of_seeds * random.standard_normal((seeds, 1))
            outputs = [
                results.Outputs((skill < 0).astype(np.int32), label, np.exp(-skill).astype("f4"))
                for skill in skills
            ]
            result = results.Result(name, 0, 1e-3, CONDITIONS, [1e-3], [1.0], [0.1], [1.0], [0.1])
            runs[name] = [
                results.Run(replace(result, seed=seed), found, False)
                for seed, found in enumerate(outputs)
            ]
        return results.Experiment(None, None, runs, None, {})

    rankings = [rank(experiment()) for _ in range(repeats)]
    signs = [[any(pair.signs) for pair in ranking.compared.values()] for ranking in rankings]
    assert np.shape(signs) == (repeats, 10)
    assert np.mean(np.any(signs, axis=1)) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / repeats)


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_hold_where_two_schedules_differ_on_few_images(seeds):
    random, images, expected = np.random.default_rng(0), 200, (0.5, 1, 2, 3, 5)

    def coverage(better, worse):
        """Part of intervals with the truth, where so many images differ in each direction."""
        draws = random.random((500, images)) * images
        tables = (draws < better).astype(float) - ((draws >= better) & (draws < better + worse))
        found = [intervals.interval(np.tile(table, (seeds, 1)), 1) for table in tables]
        errors = [abs(one.mean - (better - worse) / images) / one.half_width for one in found]
        return np.mean(np.array(errors) <= 1)

    assert min(coverage(number, number) for number in expected) >= 0.94
    assert np.mean([coverage(number, 0) for number in expected]) >= 0.94
