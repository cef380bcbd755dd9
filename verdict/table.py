"""The table of the last epoch: its columns, and how numbers and names are written in Markdown."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from schedulers import CONTROL
from storage.results import Experiment
from verdict.intervals import Interval
from verdict.ranking import Ranking, Score, tuning_losses

CLOSE = 1.05  # a peak is about as good as the best up to so many times the least loss


@dataclass(frozen=True)
class PeakRange:
    """The lowest and the highest peak that are about as good as the best."""

    low: float
    high: float
    is_lowest: bool  # no lower peak was trained, so the range may go on there
    is_highest: bool  # likewise above

    def __str__(self) -> str:
        low = f"≤ {self.low:.0e}" if self.is_lowest else f"{self.low:.0e}"
        high = f"≥ {self.high:.0e}" if self.is_highest else f"{self.high:.0e}"
        if self.low < self.high or (self.is_lowest and self.is_highest):
            return f"{low} to {high}"
        return high if self.is_highest else low


@dataclass(frozen=True)
class Row:
    """What the cells of a row are made of; empty where there is nothing to tell."""

    title: str
    accuracy: Interval | None = None
    loss: Interval | None = None
    difference: Score | None = None  # the best schedule minus this row
    count: str = ""  # of the runs that count
    epochs: str = ""
    peaks: Sequence[float] = ()  # of its runs
    close: PeakRange | None = None
    is_tuned: bool = False


@dataclass(frozen=True)
class Column:
    """A column: its title, and the text of its cell in a row."""

    title: str
    cell: Callable[[Row], str]
    only_tuned: bool = False


COLUMNS = [
    Column("schedule", lambda row: row.title),
    Column("n", lambda row: row.count),
    Column("epochs", lambda row: row.epochs),
    Column("peak rate", lambda row: span(row.peaks, ".0e" if row.is_tuned else ".1e")),
    Column("peaks within 5 %", lambda row: str(row.close or ""), only_tuned=True),
    Column("val. accuracy", lambda row: number(row.accuracy)),
    Column("over seeds", lambda row: spread(row.accuracy)),
    Column("val. loss", lambda row: number(row.loss)),
    Column("Δ accuracy", lambda row: number(row.difference and row.difference.accuracy, "+")),
    Column("Δ loss", lambda row: number(row.difference and row.difference.loss, "+")),
]


def number(interval: Interval | None, sign: str = "") -> str:
    """Format a mean with half of its interval, where it has one: `0.9190 ± 0.0012`."""
    if interval is None:
        return ""
    # Adding 0.0 turns -0.0 into 0.0.
    text = f"{round(interval.mean, 4) + 0.0:{sign}.4f}"
    return f"{text} ± {interval.half_width:.4f}" if np.isfinite(interval.half_width) else text


def spread(interval: Interval | None) -> str:
    """Format half of the interval for new seeds on the same images, where it has one."""
    if interval is None or not np.isfinite(interval.over_seeds):
        return ""
    return f"± {interval.over_seeds:.4f}"


def span(rates: Sequence[float], form: str) -> str:
    """Format the lowest and the highest rate, or the only one: `2e-03 to 5e-03`."""
    if not len(rates):
        return ""
    return " to ".join(f"{rate:{form}}" for rate in sorted({min(rates), max(rates)}))


def escape(text: str) -> str:
    """Return a user's text as one line of Markdown that means the text and nothing else."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    # An underscore inside a word starts no emphasis and stays readable.
    return re.sub(r"[\\`*{}\[\]<>#|$~&]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line)


def results_table(experiment: Experiment, ranking: Ranking) -> str:
    """Return the table: a row for each schedule, the best first, and one for the reference."""
    schedules, tuned = experiment.config.schedules, experiment.config.settings.tune
    labels = [*ranking.runs, *(label for label in schedules if label not in ranking.runs)]
    close = close_peaks(experiment)
    rows = [schedule_row(experiment, ranking, label, close.get(label)) for label in labels]
    if solved := experiment.reference:
        ends = solved.val_categorical_accuracy, solved.val_loss
        accuracy, loss = (Interval(end, np.inf, np.inf) for end in ends)
        frozen = "frozen, " if experiment.config.settings.fine_tune else ""
        title = f"{frozen}logistic regression, C = {solved.C:g}"
        rows.append(Row(title, accuracy, loss, ranking.reference))
    return markdown_table([one for one in COLUMNS if tuned or not one.only_tuned], rows)


def schedule_row(
    experiment: Experiment, ranking: Ranking, label: str, close: PeakRange | None
) -> Row:
    """Return the row of a schedule, whether it has runs or not."""
    config, finished = experiment.config, experiment.runs.get(label, [])
    is_control = config.settings.tune and label == CONTROL
    diverged = sum(run.diverged for run in finished)
    count = f"{len(ranking.runs.get(label, []))} of {config.settings.seeds}"
    score = ranking.scores.get(label)
    return Row(
        title=f"{escape(label)} (control)" if is_control else escape(label),
        accuracy=score and score.accuracy,
        loss=score and score.loss,
        difference=ranking.compared.get((ranking.best[0], label)),
        count=f"{count}, {diverged} diverged" if diverged else count,
        epochs=f"{len(config.schedules[label])}",
        peaks=[run.result.peak_lr for run in finished],
        close=close,
        is_tuned=config.settings.tune,
    )


def close_peaks(experiment: Experiment) -> dict[str, PeakRange]:
    """Return for each schedule the range of peaks whose mean loss over seeds is near the least."""
    if not experiment.tuning:
        return {}
    peaks, losses = tuning_losses(experiment)
    ranges = {}
    for label, table in losses.items():
        mean = table.mean(axis=0)  # NaN where a seed did not train this peak
        trained = peaks[np.isfinite(mean)]
        close = peaks[mean <= CLOSE * np.nanmin(mean)]
        ends = close[0] == trained[0], close[-1] == trained[-1]
        ranges[label] = PeakRange(close[0], close[-1], bool(ends[0]), bool(ends[1]))
    return ranges


def markdown_table(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Return a table whose cells are padded, so that it can be read as text too."""
    cells = [[column.title for column in columns]]
    cells += [[column.cell(row) for column in columns] for row in rows]
    first, *others = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * first, *("-" * (width - 1) + ":" for width in others)])
    form = " | ".join([f"{{:{first}}}", *(f"{{:>{width}}}" for width in others)])
    return "\n".join(f"| {form.format(*line)} |" for line in cells)
