"""The ranking: which schedule is best, and which pairs can be told apart."""

import math

import numpy as np
import pytest
from experiment_files import RATES, write_experiment, write_reference, write_run

from storage.audit import read_experiment
from verdict import intervals
from verdict.ranking import compare, rank

# --- Ranking ----------------------------------------------------------------------------------


def test_all_pairs_are_corrected_for_in_accuracy_and_in_loss(tmp_path):
    write_experiment(tmp_path / "x", {"exp": [50, 51], "linear": [54, 55], "warm": [40, 45]})
    ranking = rank(read_experiment(tmp_path / "x"))
    assert list(ranking.runs) == ["linear", "exp", "warm"]
    assert list(ranking.compared) == [("linear", "exp"), ("linear", "warm"), ("exp", "warm")]
    outputs = {label: [run.outputs for run in runs] for label, runs in ranking.runs.items()}
    right = {
        label: np.array([run.predicted == run.label for run in outputs[label]], float)
        for label in outputs
    }
    for (first, second), found in ranking.compared.items():
        wanted = intervals.interval(right[first] - right[second], 1, together=6)
        assert found.accuracy == wanted
        assert found.loss.mean == pytest.approx(0, abs=1e-6)
    assert ranking.scores["exp"].accuracy == intervals.interval(right["exp"], 1)


def test_the_reference_is_compared_by_image_and_corrected_for_the_choice_of_the_best(tmp_path):
    write_experiment(tmp_path / "x", {"exp": [50, 51], "linear": [54, 55]})
    write_reference(tmp_path / "x", right=57, loss=0.2)
    experiment = read_experiment(tmp_path / "x")
    found = rank(experiment).reference
    runs = [run.outputs for run in experiment.runs["linear"]]
    wanted = compare(runs, [experiment.reference.outputs], together=4)
    assert found == wanted
    assert found.accuracy.mean == pytest.approx((54.5 - 57) / 60)
    assert found.loss.mean == pytest.approx(0.1, abs=1e-6)


def test_the_best_has_the_highest_accuracy_and_of_equal_ones_the_lowest_loss(tmp_path):
    experiment = write_experiment(tmp_path / "x", {"exp": [50, 52], "linear": [], "warm": [45, 49]})
    assert next(iter(rank(read_experiment(experiment)).runs), None) == "exp"
    for seed, right in enumerate([51, 51]):
        write_run(experiment, "linear", seed, right, loss=0.29)
    assert next(iter(rank(read_experiment(experiment)).runs), None) == "linear"
    write_run(experiment, "linear", 1, 50, loss=0.01)
    assert next(iter(rank(read_experiment(experiment)).runs), None) == "exp"


def test_a_schedule_with_a_diverged_run_is_never_best_and_what_is_finite_counts(tmp_path):
    experiment = write_experiment(tmp_path / "x", {"exp": [50, 52], "linear": [60, 60]})
    write_run(experiment, "linear", 0, 60, loss=math.nan)
    ranking = rank(read_experiment(experiment))
    assert [run.result.seed for run in ranking.runs["linear"]] == [1]
    assert ranking.scores["linear"].accuracy.mean == 1
    assert list(ranking.runs) == ["exp", "linear"] and ranking.best[0] == "exp"
    # Worse than before training in loss and in accuracy.
    write_run(experiment, "exp", 0, 10, loss=1.0, untrained=(0.5, 0.4))
    ranking = rank(read_experiment(experiment))
    assert ranking.scores["exp"].accuracy.mean == (10 + 52) / 120
    assert ranking.diverged == {"exp", "linear"} and ranking.best == ("", [])


@pytest.mark.parametrize(
    ("right", "loss", "untrained", "diverged"),
    [
        (10, 1.0, (0.5, 0.4), True),
        (10, 0.7, (0.5, 0.4), False),  # not twice the loss
        (29, 1.0, (0.5, 0.4), False),  # no clear difference in accuracy
        (60, 9.0, (0.1, 2.5), False),  # sure and sometimes wrong, but it has learnt
        (6, 2.4, (0.1, 2.5), False),  # has not learnt yet
        (60, math.nan, (0.1, 2.5), True),
        (10, 1.0, None, False),  # an experiment that does not say
    ],
)
def test_a_run_diverged_if_it_is_not_finite_or_clearly_worse_than_it_began(
    tmp_path, right, loss, untrained, diverged
):
    experiment = write_experiment(tmp_path / "x", {"exp": [50]})
    write_run(experiment, "exp", 0, right, loss, untrained=untrained)
    assert read_experiment(experiment).runs["exp"][0].diverged == diverged


def test_only_equal_rates_give_an_interval_of_0(tmp_path):
    rates = {"exp": RATES["exp"], "same": RATES["exp"], "other": RATES["linear"]}
    right, losses = {label: [50, 51] for label in rates}, {"other": 0.31}
    experiment = write_experiment(tmp_path / "x", right, rates=rates, losses=losses)
    compared = rank(read_experiment(experiment)).compared
    assert compared["exp", "same"].accuracy.half_width == 0
    assert compared["exp", "same"].accuracy.sign == compared["exp", "same"].loss.sign == 0
    assert compared["exp", "other"].accuracy.mean == 0
    assert compared["exp", "other"].accuracy.half_width > 0.03


def test_only_seeds_that_both_have_are_compared_and_at_least_two(tmp_path):
    right = {"exp": [50, 52, 54], "linear": [55, 56], "warm": [57]}
    compared = rank(read_experiment(write_experiment(tmp_path / "x", right))).compared
    assert list(compared) == [("linear", "exp")]
    assert compared["linear", "exp"].accuracy.mean == pytest.approx(4.5 / 60)
