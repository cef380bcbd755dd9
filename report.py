"""Which schedule is better, and how sure are we? Audits an experiment and compares its schedules.

python report.py tensorboard/intel      # prints summary.md, written with plots beside the logs
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

import cli
import files
import intervals
import plots
from audit import audit
from events import ACCURACY, LOSS
from intervals import Comparison, Interval, Ranking
from reference import IMAGES
from results import Experiment

NEAR = 0.99  # part of the reference's accuracy that counts as reached
RATE_RATIO = 1.5  # schedules whose peak rates differ by more are compared in rate, too
LISTED = 10  # damaged images that are named

# (accuracy, loss) of the first of two: 1 higher, -1 lower, 0 where the interval holds 0.
RELATIONS = {
    (1, -1): "is better than {} in accuracy and loss",
    (1, 0): "has a higher accuracy than {}",
    (0, -1): "has a lower loss than {}",
    (0, 0): "is not distinguishable from {}",
    (1, 1): "has a higher accuracy but also a higher loss than {}",
    (0, 1): "has a higher loss than {}",
    (-1, -1): "has a lower loss but also a lower accuracy than {}",
    (-1, 0): "has a lower accuracy than {}",
    (-1, 1): "is worse than {} in accuracy and loss",
}

SUMMARY = """\
# Learning-rate schedules on {name}

{headline}.

{table}

{findings}

![Validation accuracy, validation loss and learning rate by epoch](comparison.svg)
{spread}
How to read it:

- ± is half of a 95 % interval for new seeds and new validation images, by a two-way crossed
  analysis of variance (Satterthwaite 1946; Bouthillier et al. 2021). From fewer than 5 seeds it is
  rough; where n = 1, it is for new validation images and the very model, and tells nothing of other
  seeds. Other training images are not counted. Over seeds: for new seeds and the very images.
- Δ: the best schedule minus this row, seed by seed and image by image, because runs of one seed
  share initial weights, batch order and dropout. The best is chosen after looking, so the intervals
  of all pairs of schedules, in accuracy and in loss, hold together (Bonferroni; Dunn 1961), as do
  those of any best and the reference. Not distinguishable does not mean equal. Where numbers of
  epochs differ, budgets do too; --epochs makes them equal.
- A run whose loss is not finite, or in training above that of guessing, has diverged and is not
  counted. Epochs to {near:.4f}: until the mean validation accuracy is 99 % of {whose}.
- Logistic regression on the same features{limit} is a reference, not a bound. It is solved to
  convergence, with C chosen by folds of the training images.

What was checked:

- {finished} of {planned} runs are finished. In each, every logged rate is that of the schedule, and
  final accuracy and loss are those logged and those of the predictions kept for every validation
  image. So are the reference's.
- All runs share {conditions}.
- Not checked, because it is kept only once: curves before the last epoch, numbers of seeds and of
  training images, names, notes, and the reference's C. Whoever changes all files alike is believed.

The data:

- {data}
"""


def number(interval: Interval, sign: str = "") -> str:
    """Format a mean with half of its interval, where it has one: `0.9190 ± 0.0012`."""
    # Adding 0.0 turns -0.0 into 0.0.
    text = f"{round(interval.mean, 4) + 0.0:{sign}.4f}"
    return f"{text} ± {interval.half_width:.4f}" if np.isfinite(interval.half_width) else text


def differences(comparison: Comparison) -> list[str]:
    """Format how far the first of two lies above the second, in accuracy and in loss."""
    return [number(comparison.accuracy, "+"), number(comparison.loss, "+")]


def relation(comparison: Comparison) -> str:
    """Say how the first of two relates to the second, with {} for the second's name."""
    return RELATIONS[comparison.accuracy.sign, comparison.loss.sign]


def name(label: str, seeds: int) -> str:
    """Name a schedule, or its trained model where a single seed tells nothing of the schedule."""
    return escape(label) if seeds > 1 else f"the model of {escape(label)}"


def join(words: Iterable[str]) -> str:
    """Join words as in `a, b and c`."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def escape(text: str) -> str:
    """Return a user's text as one line of Markdown that means the text and nothing else."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    # An underscore inside a word starts no emphasis and stays readable.
    return re.sub(r"[\\`*{}\[\]<>#|$~&]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line)


def headline(ranking: Ranking) -> str:
    """Return the answer, without its full stop."""
    if not ranking.runs:
        return "All finished runs diverged, so no schedule has a rank"
    (best, *others), accuracy = ranking.runs, ranking.accuracy
    if not others:
        ends = f"a validation accuracy of {number(accuracy[best])}"
        return f"{escape(best)} ends at {ends} and a loss of {number(ranking.loss[best])}"
    seeds = max(map(len, ranking.runs.values()))
    equal = [label for label in others if accuracy[label].mean == accuracy[best].mean]
    relations: dict[str, list[str]] = {}
    for label in others:
        pair = ranking.compared.get((best, label))
        words = relation(pair) if pair else "shares too few seeds with {} to be compared"
        relations.setdefault(words, []).append(name(label, seeds))
    place = f"ties with {join(name(label, seeds) for label in equal)} for" if equal else "ends with"
    said = [words.format(join(names)) for words, names in relations.items()]
    said.insert(0, f"{place} the highest accuracy")
    text = f"{name(best, seeds)} {join(said)}"
    if seeds == 1:
        text = f"One run each tells of trained models, not of schedules; {text}"
    peaks = [run.result.peak_lr for runs in ranking.runs.values() for run in runs]
    if max(peaks) > RATE_RATIO * min(peaks):
        text = (
            f"As configured: {text}; the schedules peak at {min(peaks):.1e} to {max(peaks):.1e}, "
            "so this compares rates too; --tune compares each at its best"
        )
    return text


def results_table(experiment: Experiment, ranking: Ranking, near: float) -> str:
    """Return the table of the last epoch: a row for each schedule and one for the reference."""
    config, solved = experiment.config, experiment.reference
    rows = [["schedule", "n", "epochs", "peak rate", "val. accuracy", "over seeds", "val. loss"]]
    rows[0] += ["Δ accuracy", "Δ loss", f"epochs to {near:.4f}"]
    labels = [*ranking.runs, *(label for label in config.schedules if label not in ranking.runs)]
    for label in labels:
        runs, rates = ranking.runs.get(label, []), config.schedules[label]
        diverged = sum(run.diverged for run in experiment.runs.get(label, []))
        n = f"{len(runs)} of {config.settings.seeds}" + f", {diverged} diverged" * bool(diverged)
        row = [escape(label), n, f"{len(rates)}", f"{max(rates):.1e}", *[""] * 6]
        if runs:
            row[4], row[6] = number(ranking.accuracy[label]), number(ranking.loss[label])
            over_seeds = ranking.accuracy[label].over_seeds
            row[5] = f"± {over_seeds:.4f}" if np.isfinite(over_seeds) else ""
            reached = np.mean([run.val_accuracy for run in runs], axis=0) >= near
            row[9] = f"{np.argmax(reached) + 1}" if reached.any() else ""
        if pair := ranking.compared.get((labels[0], label)):
            row[7:9] = differences(pair)
        rows.append(row)
    if solved:
        finals = f"{solved.val_categorical_accuracy:.4f}", "", f"{solved.val_loss:.4f}"
        behind = differences(ranking.reference) if ranking.reference else ["", ""]
        rows.append([f"logistic regression, C = {solved.C:g}", "", "", "", *finals, *behind, ""])
    # Padded, so that it can be read as text too.
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    lines = []
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append(f"| {' | '.join([first.ljust(widths[0]), *cells])} |")
    return "\n".join(lines)


def findings(ranking: Ranking) -> str:
    """List the pairs of schedules that can be told apart, and say whether there are others."""
    lines = []
    for labels, pair in ranking.compared.items():
        if pair.accuracy.sign or pair.loss.sign:
            first, second = (name(label, pair.accuracy.seeds) for label in labels)
            said = f"{first} {relation(pair).format(second)}"
            lines.append("- {}: accuracy {}, loss {}.".format(said, *differences(pair)))
    if len(lines) < len(ranking.compared):
        others = "No other pair" if lines else "No pair"
        lines.append(f"- {others} of schedules can be told apart, in accuracy or in loss.")
    return "\n".join(lines)


def summarise(experiment: Experiment, ranking: Ranking) -> str:
    """Return summary.md."""
    config, solved, data = experiment.config, experiment.reference, experiment.config.data
    top = max((accuracy.mean for accuracy in ranking.accuracy.values()), default=np.nan)
    near = NEAR * (solved.val_categorical_accuracy if solved else top)
    conditions = join(
        f"{key.replace('_', ' ')} {value[:12] if len(str(value)) == 64 else value}"
        for key, value in vars(config.conditions).items()
    )
    sides = f"{sum(data.train):,} training and {sum(data.validation):,} validation images"
    about = [f"{data.name}: {sides} of {len(data.class_names)} classes.", *data.notes]
    if data.left_out:
        named = ", ".join(data.left_out[:LISTED]) + ", …" * (len(data.left_out) > LISTED)
        about.append(f"Left out, because damaged: {len(data.left_out):,} images ({named}).")
    return SUMMARY.format(
        name=escape(data.name),
        headline=headline(ranking),
        table=results_table(experiment, ranking, near),
        findings=findings(ranking),
        spread="\n![How sure: seeds, and seeds and images](spread.svg)\n" * bool(ranking.ahead),
        near=near,
        limit=f" of {IMAGES:,} training images" * (sum(data.train) > IMAGES),
        whose="the reference's" if solved else "the best schedule's",
        finished=sum(map(len, experiment.runs.values())),
        planned=config.settings.seeds * len(config.schedules),
        conditions=escape(conditions),
        data="\n- ".join(map(escape, about)),
    )


def write(directory: Path) -> str:
    """Audit an experiment, write summary.md and plots beside its logs, and return summary.md.

    Raises FileError where the audit refuses the experiment; nothing is written then.
    """
    experiment = audit(directory)
    ranking = intervals.rank(experiment)
    written = {"comparison.svg": plots.comparison_plot(experiment, ranking)}
    if ranking.ahead:
        written["spread.svg"] = plots.spread_plot(ranking)
    for label in ranking.runs:
        for tag, name in ((ACCURACY, "accuracy"), (LOSS, "loss")):
            written[f"{label}/{tag}.svg"] = plots.schedule_plot(experiment, ranking, label, name)
    summary = summarise(experiment, ranking)
    for path, content in {**written, "summary.md": summary}.items():
        files.write_atomically(directory / path, content)
    return summary


def main(arguments: list[str] | None = None) -> int:
    """Report on the experiment that the command line names; return the exit status, 0 or 2."""
    parser = cli.Parser(prog="report.py", description=__doc__.partition("\n")[0])
    parser.add_argument("experiment", type=Path, help="a directory that train.py made")
    try:
        print(write(parser.parse_args(arguments).experiment), end="")
    except (files.FileError, OSError) as error:
        print(f"report.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    cli.end_quietly()
    # A terminal may lack ± and Δ.
    sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())
