"""The verdicts of an experiment as summary.md: better, worse, or not distinguishable."""

import math
from collections.abc import Iterable

from runtime import files
from schedulers import CONTROL
from storage.results import MOST_REFERENCE_IMAGES, Conditions, Data, Experiment
from verdict import mistakes, plots
from verdict.ranking import Ranking, Score
from verdict.table import escape, number, results_table, span

RATE_RATIO = 1.5  # schedules whose peak rates differ by more are compared in rate, too
LISTED = 10  # damaged images that are named

SUMMARY = """\
# Learning-rate schedules on {name}

{headline}.
{tuning}
{table}

{findings}

![Validation accuracy, validation loss and learning rate by epoch](comparison.svg)
{spread}
How to read it:

- {tuned}± is half of a 95 % interval for new seeds and new validation images, by a two-way crossed
  analysis of variance (Satterthwaite 1946; Bouthillier et al. 2021). From fewer than 5 seeds it is
  rough; where n = 1, it is for new validation images and this model, and tells nothing of other
  seeds. Other training images are not counted. Over seeds: for new seeds and the same images.
- Δ: the best schedule minus this row, seed by seed and image by image, because runs of one seed
  share initial weights, batch order and dropout. The best is chosen after looking, so the intervals
  of all pairs of schedules, in accuracy and in loss, hold together (Bonferroni; Dunn 1961), as do
  those of any best and the reference. Not distinguishable does not mean equal.
- A run diverged if its loss is not finite, or if it ends clearly worse than it began, in loss and
  in accuracy. Its schedule cannot be best. What is finite counts in every mean.
- Logistic regression on {features}{limit} is a reference, not a bound. It is solved to
  convergence, with C chosen by folds of the training images.

What was checked:

- {finished} of {planned} runs are finished. In each, every rate is that of the schedule{at}, the
  curves are those logged for TensorBoard, and final accuracy and loss are those of the predictions
  kept for every validation image. So are the reference's.
- All runs share {conditions}.
- Not checked, because kept only once: losses of a grid, numbers of seeds and training images,
  names, notes, the reference's C. Whoever changes all alike is believed.

The data:

- {data}
"""
FEATURES = "the same features"
TUNING = "\n![Loss on held-out training images by peak rate](tuning.svg)\n"
SPREAD = "\n![How sure: seeds, and seeds and images](spread.svg)\n"
TUNED = """\
Peaks are chosen seed by seed, by the least loss on a stratified fifth of the training images and
  by no validation image; the choice is part of the seed's spread. Equal budgets: {epochs} epochs.
- Peaks within 5 %: the lowest and highest whose mean loss there, over seeds, is at most 5 % above
  the least; ≤ or ≥ where none beyond was trained. Peaks whose loss was not finite, or that were not
  trained, in a seed are left out here and in the plot.
- """


def name(label: str, seeds: int) -> str:
    """Name a schedule, or its trained model where a single seed tells nothing of the schedule."""
    return escape(label) if seeds > 1 else f"the model of {escape(label)}"


def join(words: Iterable[str]) -> str:
    """Join words as in `a, b and c`."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def relation(score: Score | None) -> str:
    """Say how the first of two relates to the second, with {} for the second's name."""
    if not score:
        return "shares too few seeds with {} to be compared"
    accuracy, loss = score.signs
    if accuracy and accuracy == -loss:
        return f"is {'better' if accuracy > 0 else 'worse'} than {{}} in accuracy and loss"
    signs = {"accuracy": accuracy, "loss": loss}
    words = [f"a {'higher' if sign > 0 else 'lower'} {of}" for of, sign in signs.items() if sign]
    return (
        f"has {' but also '.join(words)} than {{}}" if words else "is not distinguishable from {}"
    )


def headline(experiment: Experiment, ranking: Ranking) -> str:
    """Return the answer, without its full stop."""
    best, scores = ranking.best[0], ranking.scores
    if not best:
        return "Every schedule has a run that diverged, so none is best"
    others, seeds = [label for label in ranking.runs if label != best], ranking.seeds
    if others:
        relations: dict[str, list[str]] = {}
        for label in others:
            words = relation(ranking.compared.get((best, label)))
            relations.setdefault(words, []).append(name(label, seeds))
        top = scores[best].accuracy.mean
        equal = [name(label, seeds) for label in others if scores[label].accuracy.mean == top]
        place = f"ties with {join(equal)} for" if equal else "ends with"
        said = [words.format(join(names)) for words, names in relations.items()]
        text = f"{name(best, seeds)} {join([f'{place} the highest accuracy', *said])}"
        if seeds == 1:
            text = f"With one run each this compares trained models, not schedules; {text}"
    else:
        ends = f"{number(scores[best].accuracy)} and a loss of {number(scores[best].loss)}"
        text = f"{escape(best)} ends at a validation accuracy of {ends}"
    if lost := [name(label, seeds) for label in experiment.runs if label in ranking.diverged]:
        text += f"; runs of {join(lost)} diverged"
    if experiment.config.settings.tune:
        return f"At its own best peak{' each' if others else ''}: {text}"
    peaks = [run.result.peak_lr for runs in ranking.runs.values() for run in runs]
    if max(peaks) > RATE_RATIO * min(peaks):
        reason = f"the schedules peak at {span(peaks, '.1e')}, so this compares rates too"
        text = f"As configured: {text}; {reason}; --tune compares each at its best"
    return text


def learning_remark(experiment: Experiment, ranking: Ranking) -> str:
    """Say what to do where even the best schedule ends with a loss above that of guessing."""
    best, classes = ranking.best[0], len(experiment.config.data.class_names)
    if not best or ranking.scores[best].loss.mean <= math.log(classes):
        return ""
    text = (
        f"The validation loss of {escape(best)} is above {math.log(classes):.4f}, that of guessing"
    )
    is_tuned = experiment.config.settings.tune
    if ranking.scores[best].accuracy.mean < 0.5:
        way = "" if is_tuned else ", a higher rate, or --tune"
        return f"{text}: it has learnt little and needs more epochs{way}"
    way = "" if is_tuned else ": try a lower one, or --tune"
    return f"{text}, though most images are right: it is too sure, as after too high a rate{way}"


def tuning_remarks(experiment: Experiment, ranking: Ranking) -> list[str]:
    """Say what differs from the control, which peaks may not be the best, and what has no run."""
    remarks, edges, missing = [], set(), []
    if CONTROL in ranking.runs and ranking.compared:
        apart = [pair for pair, score in ranking.compared.items() if any(score.signs)]
        others = [set(pair) - {CONTROL} for pair in apart if CONTROL in pair]
        others = join([name(*labels, ranking.seeds) for labels in others] or ["none"])
        control = "the control, a constant rate, in accuracy or in loss"
        remarks.append(f"Can be told apart from {control}: {others}")
    for seed, grid in experiment.tuning.items():
        ends = grid.peaks[0], grid.peaks[-1]
        edges |= {f"{escape(of)} ({peak:.0e})" for of, peak in grid.chosen.items() if peak in ends}
        missing += [f"{escape(of)} seed {seed}" for of in grid.loss if of not in grid.chosen]
    if edges:
        place = "lie on the edge of the grid, so better ones may lie beyond"
        remarks.append(f"Chosen peaks of {join(sorted(edges))} {place}")
    if missing:
        remarks.append(f"Every peak of {join(missing)} diverged, so there is no run")
    return remarks


def findings(ranking: Ranking) -> str:
    """List the pairs of schedules that can be told apart, and say whether there are others."""
    lines = []
    for pair, score in ranking.compared.items():
        if any(score.signs):
            first, second = (name(label, ranking.seeds) for label in pair)
            said = f"{first} {relation(score).format(second)}"
            ends = f"accuracy {number(score.accuracy, '+')}, loss {number(score.loss, '+')}"
            lines.append(f"- {said}: {ends}.")
    if len(lines) < len(ranking.compared):
        others = "No other pair" if lines else "No pair"
        lines.append(f"- {others} of schedules can be told apart, in accuracy or in loss.")
    return "\n".join(lines)


def what_was_trained(experiment: Experiment, ranking: Ranking) -> str:
    """Say which blocks were trained and what that gained, with its interval; "" if none were."""
    first, gained = experiment.config.settings.fine_tune, ranking.reference
    if not first:
        return ""
    text = f"Trained are {first} of MobileNetV2, all behind it, and the head"
    if gained is None:
        return text
    ends = f"accuracy {number(gained.accuracy, '+')}, loss {number(gained.loss, '+')}"
    best, seeds = ranking.best[0], ranking.seeds
    said = relation(gained).format("logistic regression on the frozen backbone")
    return f"{text}. What that gained: {name(best, seeds)} {said} ({ends})"


def format_summary(experiment: Experiment, ranking: Ranking) -> str:
    """Return summary.md."""
    config, data, most = experiment.config, experiment.config.data, MOST_REFERENCE_IMAGES
    tuned = config.settings.tune
    said = [headline(experiment, ranking), what_was_trained(experiment, ranking)]
    said += [learning_remark(experiment, ranking)]
    said += tuning_remarks(experiment, ranking) if tuned else []
    found = [findings(ranking)]
    if ranking.best[0]:
        (best, runs), classes = ranking.best, map(escape, data.class_names)
        found.append(mistakes.describe(runs, name(best, len(runs)), list(classes)))
    has_spread = ranking.ahead and ranking.seeds > 1
    parts = {"tuning": TUNING, "spread": SPREAD, "limit": f" of {most:,} training images"}
    parts["tuned"] = TUNED.format(epochs=max(map(len, config.schedules.values())))
    parts["at"] = " at the chosen peak"
    applies = {"tuning": tuned, "tuned": tuned, "at": tuned, "spread": has_spread}
    applies["limit"] = sum(data.train) > most
    return SUMMARY.format(
        name=escape(data.name),
        headline=". ".join(filter(None, said)),
        table=results_table(experiment, ranking),
        findings="\n".join(filter(None, found)),
        features="the features of the frozen backbone" if config.settings.fine_tune else FEATURES,
        finished=sum(map(len, experiment.runs.values())),
        planned=config.settings.seeds * len(config.schedules),
        conditions=escape(describe_conditions(config.conditions)),
        data="\n- ".join(map(escape, describe_data(data))),
        **{key: text if applies[key] else "" for key, text in parts.items()},
    )


def describe_conditions(conditions: Conditions) -> str:
    """Say what all runs share."""
    shared = {key: value for key, value in vars(conditions).items() if value is not None}
    hashes = {key: value[:12] for key, value in shared.items() if len(str(value)) == 64}
    return join(f"{key.replace('_', ' ')} {value}" for key, value in (shared | hashes).items())


def describe_data(data: Data) -> list[str]:
    """Say what the images are, and which are left out."""
    sides = f"{sum(data.train):,} training and {sum(data.validation):,} validation images"
    about = [f"{data.name}: {sides} of {len(data.class_names)} classes.", *data.notes]
    if data.left_out:
        named = ", ".join(data.left_out[:LISTED])
        more = ", …" if len(data.left_out) > LISTED else ""
        about.append(f"Left out, because damaged: {len(data.left_out):,} images ({named}{more}).")
    return about


def write_report(experiment: Experiment, ranking: Ranking) -> str:
    """Write summary.md and plots of an audited experiment beside its logs; returns summary.md."""
    written = {"comparison.svg": plots.comparison_plot(experiment, ranking)}
    if experiment.tuning:
        written["tuning.svg"] = plots.tuning_plot(experiment)
    if ranking.ahead and ranking.seeds > 1:
        written["spread.svg"] = plots.spread_plot(ranking)
    if ranking.best[0]:
        written |= mistakes.report_files(experiment, ranking)
    written["summary.md"] = format_summary(experiment, ranking)
    for name, content in written.items():
        files.write_atomically(experiment.directory / name, content)
    return written["summary.md"]
