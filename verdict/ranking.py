"""Which schedule is best: the one rule that ranks them, and all pairs compared with intervals."""

import itertools
from dataclasses import dataclass

import numpy as np

from storage.results import Experiment, Outputs, Run
from verdict.intervals import Interval, interval


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
    """The schedules with a run whose loss is finite, the best first."""

    runs: dict[str, list[Run]]  # those whose loss is finite
    scores: dict[str, Score]
    compared: dict[tuple[str, str], Score]  # (better, worse); see rank
    reference: Score | None  # of the best schedule minus the reference
    diverged: set[str]  # schedules with a run that diverged; they come last

    @property
    def best(self) -> tuple[str, list[Run]]:
        """The best schedule and its runs; an empty name without any if none is without fault.

        A schedule with a run that diverged is never the best.
        """
        sound = (item for item in self.runs.items() if item[0] not in self.diverged)
        return next(sound, ("", []))

    @property
    def seeds(self) -> int:
        """The largest number of runs of a schedule."""
        return max(map(len, self.runs.values()))

    @property
    def ahead(self) -> dict[str, Interval]:
        """How far the best schedule is ahead, in accuracy, of every other it is compared with."""
        pairs = self.compared.items()
        return {labels[1]: pair.accuracy for labels, pair in pairs if labels[0] == self.best[0]}


def compare(first: list[Outputs], second: list[Outputs], together: int) -> Score:
    """Compare runs with runs of the same seeds, or with one that has none: first minus second."""
    right, loss = _tables(first) - _tables(second)
    # Equal losses of all images are of equal runs, as equal rates give, and need no interval.
    step = 1 if loss.any() else 0
    return Score(interval(right, step, together), interval(loss, 0, together))


def rank(experiment: Experiment) -> Ranking:
    """Rank the schedules of an experiment, and compare all pairs and the best with the reference.

    The one rule for what is best: no run that diverged, the highest mean final validation accuracy,
    then the lowest loss. Accuracy and loss both decide, so the intervals of all pairs in both hold
    together; those of the reference, for any best. Pairs that share one seed are left out, unless
    no schedule has more.
    """
    runs = {
        label: {run.result.seed: run for run in finished if run.is_finite}
        for label, finished in experiment.runs.items()
    }
    scores = {label: _score(list(by_seed.values())) for label, by_seed in runs.items() if by_seed}
    diverged = {
        label for label, finished in experiment.runs.items() if any(r.diverged for r in finished)
    }

    def place(label: str) -> tuple[bool, float, float]:
        score = scores[label]
        return label in diverged, -score.accuracy.mean, score.loss.mean

    ranked = {label: runs[label] for label in sorted(scores, key=place)}
    compared = _compare_pairs(ranked)
    reference = None
    if ranked and experiment.reference:
        best = [run.outputs for run in next(iter(ranked.values())).values()]
        reference = compare(best, [experiment.reference.outputs], 2 * len(ranked))
    lists = {label: list(by_seed.values()) for label, by_seed in ranked.items()}
    return Ranking(lists, scores, compared, reference, diverged)


def _score(runs: list[Run]) -> Score:
    right, loss = _tables([run.outputs for run in runs])
    return Score(interval(right, 1), interval(loss))


def _compare_pairs(ranked: dict[str, dict[int, Run]]) -> dict[tuple[str, str], Score]:
    """Compare all pairs of schedules, {label: {seed: run}}, on the seeds that both have."""
    enough = min(2, max(map(len, ranked.values()), default=0))
    compared, pairs = {}, list(itertools.combinations(ranked, 2))
    for first, second in pairs:
        seeds = sorted(ranked[first].keys() & ranked[second].keys())
        if len(seeds) >= enough:
            sides = [[ranked[label][seed].outputs for seed in seeds] for label in (first, second)]
            compared[first, second] = compare(sides[0], sides[1], 2 * len(pairs))
    return compared


def tuning_losses(experiment: Experiment) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the P peaks that all grids have, and each schedule's losses there: (seeds, P).

    A loss is NaN where it was not finite, or not trained. Schedules without a peak that all seeds
    have are left out.
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
