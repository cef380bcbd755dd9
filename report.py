"""Which schedule is better, and how sure are we? Audits an experiment, compares its schedules, draws its curves.

    python report.py tensorboard/intel      # prints the answer; writes summary.md and the SVG files beside the logs

Nothing is trained, and TensorFlow is not imported. Every number is read from the event files, and only after they were
found to agree with config.json and with the results.

    audited_runs -> best_schedule, comparisons -> sections -> markdown, plain
                 -> comparison_plot, schedule_plot
"""

import io
import itertools
import math
import re
import statistics
import sys
import textwrap
import warnings
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import commands
import numpy as np
from logs import (
    ACCURACY,
    LOSS,
    ExperimentError,
    check_rates,
    read_json,
    run_directories,
    scalars,
    write_whole,
)

CONFIDENCE = 0.95  # of every interval
NEAR = 0.99  # "almost there": the first epoch with this part of the final accuracy
REFERENCE = "logistic regression"  # on the same features
LISTED = 10  # left-out images the console names before it points to summary.md

GREY = "#7a828b"  # contrast at least 3.8 : 1 on GitHub's white and on its dark #0d1117
# Okabe and Ito's colour-blind-safe palette, light ones darkened and dark ones lightened: 3 : 1 on both backgrounds.
COLOURS = ("#1b7fc0", "#d55e00", "#009e73", "#c2669a", "#a67c00", "#3f8fc4")
MARKERS = "os^Dv*P"  # seven, so that with six colours the first 42 schedules all look different
STYLE = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": GREY,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "figure.titlesize": 11,
    "grid.alpha": 0.25,
    "grid.color": GREY,
    "axes.grid": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "report",  # fixed, or the ids in the file differ from run to run
    "text.color": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
}


class Runs(NamedTuple):
    """The finished runs of one schedule: `rates` (epochs,), the four curves (runs, epochs), all float64."""

    seeds: list
    rates: np.ndarray
    accuracy: np.ndarray
    loss: np.ndarray
    val_accuracy: np.ndarray
    val_loss: np.ndarray

    def finals(self):
        """Map each seed to its validation accuracy after the last epoch."""
        return dict(zip(self.seeds, self.val_accuracy[:, -1]))


# ---------------------------------------------------------------------------------------------------------- audit


def fields(path, *names):
    """Return the object in a JSON file; raises ExperimentError where one of the fields named is missing."""
    value = read_json(path)
    for name in names:
        if name not in value:
            raise ExperimentError(f"{path} lacks {name!r}")
    return value


def audited_config(directory):
    """Return config.json of an experiment; raises ExperimentError where it is missing or lacks what a report needs."""
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise ExperimentError(
            f"{directory} is no experiment, it holds no config.json; give a directory train.py made"
        )
    config = fields(path, "schedules", "seeds", "data", "weights_sha256")
    for name in ("name", "fingerprint", "class_names", "train", "validation"):
        if name not in config["data"]:
            raise ExperimentError(f"{path} lacks {name!r} of its data")
    return config


def audited_curves(run, rates, result):
    """Return the four curves of one run as (4, epochs): accuracy, loss, and both on the validation images.

    Raises ExperimentError, naming the run, unless its event files hold the rates of the schedule in every epoch and
    end with the final and best values in its result.json.
    """
    train, validation = scalars(run / "train"), scalars(run / "validation")
    check_rates(run, train, rates)
    curves = {
        "categorical_accuracy": train.get(ACCURACY, []),
        "loss": train.get(LOSS, []),
        "val_categorical_accuracy": validation.get(ACCURACY, []),
        "val_loss": validation.get(LOSS, []),
    }
    for name, curve in curves.items():
        if len(curve) != len(rates):
            raise ExperimentError(
                f"{run}: {name} is logged for {len(curve)} epochs, the schedule has {len(rates)}"
            )
    logged = {
        "final": {name: curve[-1] for name, curve in curves.items()},
        # fmax and fmin pass over the nan of a run that diverged
        "best": {
            "val_categorical_accuracy": np.fmax.reduce(curves["val_categorical_accuracy"]),
            "val_loss": np.fmin.reduce(curves["val_loss"]),
        },
    }
    for kind, values in logged.items():
        for name, value in values.items():
            claimed = result[kind].get(name)
            # Event files hold float32, so that is what is compared, exactly.
            same = isinstance(claimed, float | int) and np.array_equal(
                np.float32(claimed), value, equal_nan=True
            )
            if not same:
                raise ExperimentError(
                    f"{run}: result.json says {kind} {name} {claimed!r}, the event files say {value!s}"
                )
    return np.array(list(curves.values()), np.float64)


def validation_images(config):
    """Return the number of validation images."""
    return sum(config["data"]["validation"].values())


def check_conditions(run, conditions, other, wanted):
    """Raise ExperimentError, with both values, where a run was made under another condition than `other`."""
    for name, value in wanted.items():
        if conditions.get(name) != value:
            raise ExperimentError(
                f"{run} cannot be compared: its {name} is {conditions.get(name)!r}, that of {other} is {value!r}"
            )


def audited_runs(directory, config):
    """Return `({label: Runs}, conditions)` of the finished runs, in the order of config.json.

    `conditions` is what all of them share: data fingerprint, split, weights, batch size and so on. Raises
    ExperimentError, naming the run and what is wrong with it, where a run was not made as config.json says, where its
    event files disagree with the schedule or its result, where two runs differ in a condition, or where no run is
    finished.
    """
    made = run_directories(directory)
    if not made:
        raise ExperimentError(
            f"{directory} holds no finished run; train.py --resume {directory} makes them"
        )
    first, shared = made[0], fields(made[0] / "result.json", "conditions")["conditions"]
    curves = {label: {} for label in config["schedules"]}
    for run in made:
        label, seed = run.parent.name, int(run.name.removeprefix("seed-"))
        if label not in curves or seed not in range(config["seeds"]) or run.name != f"seed-{seed}":
            raise ExperimentError(
                f"{run} is no run of this experiment as config.json has it; move it away"
            )
        rates = config["schedules"][label]
        result = fields(
            run / "result.json", "schedule", "seed", "epochs", "conditions", "final", "best"
        )
        for name, wanted in {"schedule": label, "seed": seed, "epochs": len(rates)}.items():
            if result[name] != wanted:
                raise ExperimentError(
                    f"{run}: result.json is of {name} {result[name]!r}, {wanted!r} belongs here"
                )
        configured = {"data": config["data"]["fingerprint"], "weights": config["weights_sha256"]}
        check_conditions(run, result["conditions"], "config.json", configured)
        check_conditions(run, result["conditions"], first, shared)
        curves[label][seed] = audited_curves(run, rates, result)
    runs = {
        label: Runs(
            list(of), np.array(config["schedules"][label]), *np.stack(list(of.values()), axis=1)
        )
        for label, of in curves.items()
        if of
    }
    return runs, shared


# ----------------------------------------------------------------------------------------------------- statistics


def half_width(values, *, comparisons=1, floor=0.0):
    """Half of the 95 % interval for the mean of `values`, or None for a single value, which tells no spread.

    Student's t (Student 1908, Biometrika 6:1-25). `comparisons` is the number of intervals that are to hold together
    with 95 % (Bonferroni; Dunn 1961, J. Am. Stat. Assoc. 56:52-64); the standard deviation is taken to be at least
    `floor`.
    """
    # scipy.stats computes the same quantile, but takes a second to import.
    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        return None
    quantile = stdtrit(n - 1, 1 - (1 - CONFIDENCE) / comparisons / 2)
    return float(quantile * max(np.std(values, ddof=1), floor) / math.sqrt(n))


def rounding(images):
    """Standard deviation of rounding to whole images, a step of 1 / images: step / sqrt(12).

    Taken as the least spread of an accuracy, for a few runs that happen to end equal do not prove a spread of zero.
    """
    return 1 / images / math.sqrt(12)


def wilson_half_width(accuracy, images):
    """Half of the 95 % interval for an accuracy measured on that many images (Wilson 1927, JASA 22:209-212)."""
    z = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    return (
        z
        / (1 + z**2 / images)
        * math.sqrt(accuracy * (1 - accuracy) / images + z**2 / (4 * images**2))
    )


def best_schedule(runs):
    """Return the label with the highest mean final validation accuracy, of equal ones that with the lower loss."""
    return max(
        runs,
        key=lambda label: (
            runs[label].val_accuracy[:, -1].mean(),
            -runs[label].val_loss[:, -1].mean(),
        ),
    )


def comparisons(finals, best, images):
    """Compare the best schedule with every other: `{label: (n, mean, half)}`, how far each ends behind it.

    `finals` is `{label: {seed: final validation accuracy}}`, measured on that many images. `n` counts the seeds both
    have, `mean` (None for n = 0) is the mean of their differences, `half` (None for n < 2) half of its interval.

    Runs of one seed share head initialisation, batch order and dropout, so differences are taken seed by seed. The best
    is chosen after looking, so any pair could have come to be compared: all k (k - 1) / 2 are corrected for, and with
    95 % all intervals hold together.
    """
    pairs = math.comb(len(finals), 2)
    found = {}
    for label, other in finals.items():
        if label == best:
            continue
        differences = np.array(
            [finals[best][seed] - other[seed] for seed in other if seed in finals[best]]
        )
        if not len(differences):
            found[label] = (0, None, None)
        elif (
            len(differences) > 1 and not differences.any()
        ):  # equal in every seed: the same schedule by two names
            found[label] = (len(differences), 0.0, 0.0)
        else:
            half = half_width(differences, comparisons=pairs, floor=math.sqrt(2) * rounding(images))
            found[label] = (len(differences), float(differences.mean()), half)
    return found


def verdict(n, mean, half):
    """Return what a comparison says of the best: "better than", "worse than", "not distinguishable from" or ""."""
    if n < 2:
        return ""
    if abs(mean) <= half:
        return "not distinguishable from"
    return (
        "better than" if mean > 0 else "worse than"
    )  # worse: only where an unfinished schedule lacks seeds


# ----------------------------------------------------------------------------------------------------------- text


def number(value, half=None):
    """Format a metric with half of its interval where there is one: `0.9190 ± 0.0012`."""
    text = f"{round(value, 4) + 0.0:.4f}"  # + 0.0, or -0.00001 becomes -0.0000
    return text if half is None else f"{text} ± {half:.4f}"


def over_seeds(values, floor=0.0):
    """Format the mean of one value for each seed with its interval."""
    return number(np.mean(values), half_width(values, floor=floor))


def counted(n, one, many):
    """Format a number of things: `1 class`, `6 classes`."""
    return f"{n:,} {one if n == 1 else many}"


def enumeration(words):
    """Join words as in `a, b and c`."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def printable(text):
    """Return text from a user in one line without control characters, which could steer a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def shortened(text, length=24):
    """Return a name from a user in one line of at most that many characters, cut in the middle: ends tell more."""
    text = printable(text)
    return (
        text if len(text) <= length else f"{text[: length // 2]}…{text[length // 2 - length + 1 :]}"
    )


def headline(runs, best, compared, images):
    """Return the answer in one sentence."""
    if not compared:
        return f"{best} ends at a validation accuracy of {over_seeds(runs[best].val_accuracy[:, -1], rounding(images))}"
    said = {label: verdict(*comparison) for label, comparison in compared.items()}
    if not any(said.values()):
        return f"{best} ends highest, but single runs do not tell whether it is better"
    groups = []
    for words in ("better than", "not distinguishable from", "worse than"):
        labels = [label for label in said if said[label] == words]
        if labels:
            groups.append(
                f"{words} {enumeration(labels) if len(labels) <= 4 else f'{len(labels)} others'}"
            )
    verb = "is" if "better than" in said.values() else "ends highest, but is"
    return f"{best} {verb} {', '.join(groups)}"


def sentences_of_comparison(best, compared):
    """List one sentence for each schedule compared with the best: the verdict and its numbers."""
    lines = []
    for label, (n, mean, half) in compared.items():
        words = verdict(n, mean, half)
        if n == 0:
            lines.append(f"{best} and {label} have no seed in common yet")
        elif n == 1:
            above = f"{number(abs(mean))} {'above' if mean >= 0 else 'below'}"
            lines.append(f"{best} ends {above} {label}, but at n = 1 no interval can be given")
        elif words == "not distinguishable from":
            lines.append(f"{best} is {words} {label} at n = {n}: {number(mean, half)}")
        else:
            lines.append(f"{best} is {words} {label}: {number(mean, half)}")
    return lines


def table_of_ends(config, runs, reference, best, compared):
    """List the rows of the table of the last epoch, header first, a row for each schedule and for the reference."""
    floor = rounding(validation_images(config))
    rows = [
        [
            "schedule",
            "n",
            "epochs",
            "mean rate",
            "final val. accuracy",
            "final val. loss",
            "behind the best",
        ]
    ]
    for label, rates in config["schedules"].items():
        n = len(runs[label].seeds) if label in runs else 0
        of = "" if n == config["seeds"] else f" of {config['seeds']}"
        row = [label, f"{n}{of}", f"{len(rates)}", f"{np.mean(rates):.2e}", "", "", ""]
        if label in runs:
            row[4:6] = (
                over_seeds(runs[label].val_accuracy[:, -1], floor),
                over_seeds(runs[label].val_loss[:, -1]),
            )
        _, mean, half = compared.get(label, (0, None, None))
        if mean is not None:
            row[6] = number(mean, half)
        elif label == best and compared:
            row[6] = "best"
        rows.append(row)
    if reference:
        accuracy, loss = (
            number(reference["val_categorical_accuracy"]),
            number(reference["val_loss"]),
        )
        rows.append([f"{REFERENCE}, C = {reference['C']:g}", "", "", "", accuracy, loss, ""])
    return rows


def table_of_ways(config, runs):
    """List the rows of the table of all epochs, header first: the best values and how soon each schedule is near."""
    floor = rounding(validation_images(config))
    rows = [
        [
            "schedule",
            "best val. accuracy",
            "best val. loss",
            f"epochs until {100 * NEAR:.0f} % of its final val. accuracy",
        ]
    ]
    for label, of in runs.items():
        near = 1 + np.argmax(of.val_accuracy >= NEAR * of.val_accuracy[:, -1:], axis=1)
        accuracy, loss = (
            over_seeds(of.val_accuracy.max(axis=1), floor),
            over_seeds(np.fmin.reduce(of.val_loss, axis=1)),
        )
        rows.append([label, accuracy, loss, f"{near.mean():.1f}"])
    return rows


def remarks(config, runs, conditions, reference, best, compared):
    """List the sentences that say how the numbers are to be read, and what they rest on."""
    seeds, data = config["seeds"], config["data"]
    images = validation_images(config)
    finals = runs[best].val_accuracy[:, -1]
    done = {label: len(runs[label].seeds) if label in runs else 0 for label in config["schedules"]}
    epochs = {label: len(rates) for label, rates in config["schedules"].items()}
    shared = [f"{name} {shortened(value)}" for name, value in conditions.items()]
    lines = []
    if min(done.values()) < seeds:
        unfinished = [f"{label} has n = {n} of {seeds}" for label, n in done.items() if n < seeds]
        lines.append(
            f"Unfinished: {enumeration(unfinished)}; --resume with this directory makes the missing runs."
        )
    if len(set(epochs.values())) > 1:
        counts = enumeration([f"{label} {count}" for label, count in epochs.items()])
        lines.append(
            f"Numbers of epochs differ ({counts}), so budgets do too; --epochs makes them equal."
        )
    if 1 in done.values():
        lines.append(
            "A single run (n = 1) tells no spread, so no interval can be given; --seeds 5 gives one."
        )
    if max(done.values()) > 1:
        lines.append(
            "± is a 95 % interval over seeds, on this very validation set (Student 1908, Biometrika 6:1-25)."
        )
    if any(n > 1 for n, _, _ in compared.values()):
        lines.append(
            "Behind the best: runs of one seed share head initialisation, batch order and dropout, so they are "
            "subtracted seed by seed. The best is chosen after looking, so these intervals are corrected for every "
            f"pair of schedules ({math.comb(len(runs), 2)}) and hold together with 95 % (Student's t on paired "
            "differences with Bonferroni's correction; Dunn 1961, J. Am. Stat. Assoc. 56:52-64)."
        )
    lines.append(
        f"Another validation set of this size ({images:,} images) would move every accuracy by about "
        f"± {wilson_half_width(finals.mean(), images):.4f}, all of them much alike (95 %, binomial; Wilson 1927, "
        "J. Am. Stat. Assoc. 22:209-212)."
    )
    if reference:
        gap = finals.mean() - reference["val_categorical_accuracy"]
        apart = number(abs(gap), half_width(finals, floor=rounding(images)))
        lines.append(
            "Logistic regression is the reference: on features that do not change the problem is convex and this its "
            "solution, so about the best that any schedule can reach. "
            f"{best} ends {apart} {'above' if gap > 0 else 'below'} it."
        )
    lines.append(
        f"Audited, {sum(done.values())} of {seeds * len(done)} runs: the logged rate equals the schedule in every "
        f"epoch, the results equal the event files, and all runs share {enumeration(shared)}."
    )
    lines.append(
        f"Data: {data['name']}, {sum(data['train'].values()):,} training and {images:,} validation images, "
        f"{counted(len(data['class_names']), 'class', 'classes')}."
    )
    return lines + list(config.get("notes", []))


def sections(config, runs, conditions, reference):
    """List the parts of the summary as `(kind, content)`, from which both renderings are made.

    Kinds: "title" and "text" hold a string, "list" and "left out" strings, "table" rows with the header first, "plot"
    the name of a file.
    """
    data = config["data"]
    best = best_schedule(runs)
    finals = {label: of.finals() for label, of in runs.items()}
    compared = comparisons(finals, best, validation_images(config))
    schedules = counted(
        len(config["schedules"]), "learning-rate schedule", "learning-rate schedules"
    )
    parts = [
        ("title", f"{schedules} on {data['name']}"),
        ("text", headline(runs, best, compared, validation_images(config)) + "."),
        ("table", table_of_ends(config, runs, reference, best, compared)),
        ("list", sentences_of_comparison(best, compared)),
        ("plot", "comparison.svg"),
        ("table", table_of_ways(config, runs)),
        ("list", remarks(config, runs, conditions, reference, best, compared)),
    ]
    if data.get("left_out"):
        parts += [
            (
                "text",
                f"Left out, because damaged: {counted(len(data['left_out']), 'image', 'images')}.",
            )
        ]
        parts += [("left out", data["left_out"])]
    return parts


def markdown(parts, labels):
    """Render the parts of the summary as Markdown, with the plots of the schedules that have one at the end."""

    def escaped(text):
        # Names come from users. An underscore inside a word starts no emphasis and stays readable.
        return re.sub(r"[\\`*{}\[\]<>#|$~&]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", printable(text))

    lines = []
    for kind, content in parts:
        if kind == "title":
            lines += [f"# {escaped(content)}", ""]
        elif kind == "text":
            lines += [escaped(content), ""]
        elif kind == "plot":
            lines += [
                f"![validation accuracy, validation loss and learning rate by epoch]({content})",
                "",
            ]
        elif kind == "table":
            header, *rows = content
            lines += [
                "| " + " | ".join(map(escaped, header)) + " |",
                "|---" + "|--:" * (len(header) - 1) + "|",
            ]
            lines += ["| " + " | ".join(map(escaped, row)) + " |" for row in rows] + [""]
        elif content:
            lines += [f"- {escaped(item)}" for item in content] + [""]
    lines += ["| schedule | accuracy | loss |", "|---|---|---|"]
    for label in labels:
        plots = " | ".join(
            f"![{tag} by epoch]({quote(label)}/{tag}.svg)" for tag in (ACCURACY, LOSS)
        )
        lines.append(f"| {escaped(label)} | {plots} |")
    return "\n".join(lines) + "\n"


def plain(parts):
    """Render the parts of the summary as text for a terminal."""
    blocks = []
    for kind, content in parts:
        if kind in ("title", "text"):
            blocks.append(textwrap.fill(printable(content), 100))
        elif kind == "table":
            rows = [[printable(cell) for cell in row] for row in content]
            widths = [max(map(len, column)) for column in zip(*rows)]
            aligned = [
                [row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:])]
                for row in rows
            ]
            blocks.append("\n".join("  ".join(row).rstrip() for row in aligned))
        elif kind in ("list", "left out") and content:
            items = content if kind == "list" else content[:LISTED]
            if len(items) < len(content):
                items = [*items, f"and {len(content) - len(items)} more, listed in summary.md"]
            blocks.append(
                "\n".join(
                    textwrap.fill(f"- {printable(item)}", 100, subsequent_indent="  ")
                    for item in items
                )
            )
    return "\n\n".join(blocks) + "\n"


# ---------------------------------------------------------------------------------------------------------- plots


def svg(figure):
    """Return a figure as the bytes of an SVG file: transparent, and the same bytes for the same figure."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Names may be in any script; the font draws boxes for letters it lacks, and need not say so for each of them.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(
            file, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    return file.getvalue()


def limits(curves, percentiles):
    """Return the ends of a y-axis: the two percentiles of all values in the curves, with a margin."""
    values = np.concatenate([np.ravel(curve) for curve in curves])
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    bottom, top = np.percentile(values, percentiles)
    margin = 0.06 * (top - bottom) or 0.01
    return bottom - margin, top + margin


def apart(heights, gap):
    """Move heights in [0, 0.97] so that neighbours are at least `gap` apart, less where they would not fit."""
    gap = min(gap, 1 / max(len(heights), 1))
    order = np.argsort(heights, kind="stable")
    moved = np.array(heights, float)
    for below, above in itertools.pairwise(order):
        moved[above] = max(moved[above], moved[below] + gap)
    ceiling = 0.97
    for index in order[::-1]:
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - gap
    return moved


def draw_curves(axes, curves, colour, dashes="-", marker="", shift=0):
    """Draw the mean of curves (runs, epochs) as a line, with a band from the lowest to the highest run around it.

    Markers, every eighth of the line, start at `shift`, so that those of lines on top of each other stay apart.
    """
    epochs = np.arange(curves.shape[1])
    step = max(1, len(epochs) // 8)
    if len(curves) > 1:
        axes.fill_between(
            epochs, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.2, linewidth=0
        )
    if len(epochs) == 1:
        marker = marker or "o"  # a line of one point is not seen
    every = (shift % step, step)
    axes.plot(
        epochs,
        curves.mean(axis=0),
        dashes,
        color=colour,
        marker=marker,
        markevery=every,
        markersize=4.5,
    )


def draw_reference(axes, value):
    """Draw the value of the logistic regression as a dotted line."""
    axes.axhline(value, linestyle=":", color=GREY, linewidth=1.6)


def write_names(axes, names):
    """Write names beside the right edge of a plot, each at the height of its value: `[(name, value, colour, glyph)]`.

    A glyph is a marker, or a dash pattern as in `:`.
    """
    bottom, top = axes.get_ylim()
    heights = np.clip(
        [(np.nan_to_num(value) - bottom) / (top - bottom) for _, value, _, _ in names], 0, 1
    )
    for (name, value, colour, glyph), height in zip(names, apart(heights, 0.06)):
        style = {"color": colour, "transform": axes.transAxes, "clip_on": False}
        axes.plot([1.01, 1.03, 1.05], [height] * 3, glyph, markersize=5, markevery=(1, 3), **style)
        axes.text(
            1.07,
            height,
            f"{shortened(name)}  {number(value)}",
            va="center",
            parse_math=False,
            **style,
        )


def set_epochs(axes, epochs):
    """Set the x-axis to that many epochs, with ticks at whole ones."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(-0.5, max(epochs - 0.5, 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.set_xlabel("epoch (from 0)")


def set_rates(axes, rates):
    """Set the y-axis to learning rates, logarithmic; where one is 0, linear below the decade of the smallest other."""
    rates = np.concatenate(rates)
    rates[rates < np.finfo(np.float32).tiny] = (
        0  # what the optimizer, which holds float32, makes of it or nearly so
    )
    axes.set_ylabel("learning rate")
    if rates.all():
        axes.set_yscale("log")
        return
    if rates.any():
        smallest = rates[rates > 0].min()
        axes.set_yscale("symlog", linthresh=10.0 ** math.floor(math.log10(smallest)), linscale=0.4)
    axes.set_ylim(bottom=0)


def how_averaged(runs):
    """Say what the line and the band of each of these schedules stand for."""
    few, many = min(len(of.seeds) for of in runs), max(len(of.seeds) for of in runs)
    if many == 1:
        return "one run each"
    return f"mean of {few if few == many else f'{few} to {many}'} seeds, band: lowest to highest"


def comparison_plot(config, runs, reference, title):
    """Return comparison.svg: validation accuracy, validation loss and rate of every schedule over its epochs."""
    import matplotlib.style
    from matplotlib.figure import Figure

    looks = [
        (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
        for i in range(len(config["schedules"]))
    ]
    looks = dict(
        zip(config["schedules"], looks)
    )  # of all schedules, or colours would change as runs are added
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(11, 5.2), layout="constrained")
        figure.suptitle(
            textwrap.fill(printable(title), 125), x=0.01, ha="left", weight="bold", parse_math=False
        )
        grid = figure.add_gridspec(2, 2, width_ratios=[5, 4])
        accuracy, loss, rate = (
            figure.add_subplot(grid[cell]) for cell in (np.s_[:, 0], np.s_[0, 1], np.s_[1, 1])
        )
        for shift, (label, of) in enumerate(runs.items()):
            colour, marker = looks[label]
            for axes, validation, training in (
                (accuracy, of.val_accuracy, of.accuracy),
                (loss, of.val_loss, of.loss),
            ):
                draw_curves(axes, validation, colour, marker=marker, shift=2 * shift)
                axes.plot(training.mean(axis=0), "--", color=colour, linewidth=0.8, alpha=0.8)
            draw_curves(rate, of.rates[None], colour, marker=marker, shift=2 * shift)
        names = [
            (label, of.val_accuracy[:, -1].mean(), *looks[label]) for label, of in runs.items()
        ]
        accuracies, losses = (
            [of.val_accuracy for of in runs.values()],
            [of.val_loss for of in runs.values()],
        )
        if reference:
            accuracies.append(reference["val_categorical_accuracy"])
            losses.append(reference["val_loss"])
            draw_reference(accuracy, accuracies[-1])
            draw_reference(loss, losses[-1])
            names.append((REFERENCE, accuracies[-1], GREY, ":"))
        accuracy.set_title(
            f"{how_averaged(runs.values())}; dashed: training"
            + ("; dotted: logistic regression on the same features" if reference else "")
        )
        # The first epochs are left out of sight: they would squeeze the differences at the end into one line.
        accuracy.set_ylim(limits(accuracies, (10, 100)))
        accuracy.set_ylabel("validation accuracy (fraction of images)")
        loss.set_ylim(limits(losses, (0, 90)))
        loss.set_ylabel("validation loss (nats)")
        set_rates(rate, [of.rates for of in runs.values()])
        for axes in (accuracy, loss, rate):
            set_epochs(axes, max(len(of.rates) for of in runs.values()))
        write_names(accuracy, names)
        return svg(figure)


def schedule_plot(of, tag, reference, title):
    """Return the SVG of the accuracy or the loss (a tag) of one schedule, on training and on validation images."""
    import matplotlib.style
    from matplotlib.figure import Figure

    if tag == ACCURACY:
        training, validation, unit, outer = (
            of.accuracy,
            of.val_accuracy,
            "accuracy (fraction of images)",
            (5, 100),
        )
        solved = reference and reference["val_categorical_accuracy"]
    else:
        training, validation, unit, outer = of.loss, of.val_loss, "loss (nats)", (0, 95)
        solved = reference and reference["val_loss"]
    looks = {"validation": (validation, COLOURS[0], "-"), "training": (training, COLOURS[1], "--")}
    names = [
        (name, curves[:, -1].mean(), colour, dashes)
        for name, (curves, colour, dashes) in looks.items()
    ]
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(7, 3.6))
        figure.suptitle(title, x=0.115, ha="left", weight="bold", parse_math=False)
        axes = figure.add_axes(
            (0.115, 0.14, 0.565, 0.72)
        )  # the same in every plot, to be compared side by side
        axes.set_title(how_averaged([of]))
        for curves, colour, dashes in looks.values():
            draw_curves(axes, curves, colour, dashes)
        if reference:
            draw_reference(axes, solved)
            names.append((REFERENCE, solved, GREY, ":"))
        axes.set_ylim(limits([value for _, value, _, _ in names] + [training, validation], outer))
        axes.set_ylabel(unit)
        set_epochs(axes, len(of.rates))
        write_names(axes, names)
        return svg(figure)


# ------------------------------------------------------------------------------------------------------- the whole


def write(directory):
    """Audit an experiment, write summary.md and its plots into its directory, and return the summary as plain text.

    Raises ExperimentError where the audit refuses the experiment; nothing is written then.
    """
    directory = Path(directory)
    try:
        config = audited_config(directory)
        runs, conditions = audited_runs(directory, config)
        reference = None
        if (directory / "reference.json").exists():
            reference = fields(
                directory / "reference.json", "val_categorical_accuracy", "val_loss", "C"
            )
            reference = {name: float(value) for name, value in reference.items()}
        if not validation_images(config) > 0:
            raise ValueError("no validation images")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"its JSON files are not as train.py wrote them ({' '.join(str(error).split())})"
        raise ExperimentError(
            f"{directory}: {reason}; restore them, or start a new experiment"
        ) from error
    parts = sections(config, runs, conditions, reference)
    files = {
        "summary.md": markdown(parts, runs),
        "comparison.svg": comparison_plot(
            config, runs, reference, title=f"{parts[0][1]}: {parts[1][1]}"
        ),
    }
    for label, of in runs.items():
        title = f"{shortened(label)} on {shortened(config['data']['name'])}"
        for tag in (ACCURACY, LOSS):
            files[f"{label}/{tag}.svg"] = schedule_plot(of, tag, reference, title)
    for name, content in files.items():
        write_whole(directory / name, content)
    return plain(parts) + "\nWritten:\n" + "".join(f"  {directory / name}\n" for name in files)


def main(arguments=None):
    """Report on the experiment named on the command line and return the exit status: 0, or 2 after an error."""
    parser = commands.Parser(prog="report.py", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "experiment", type=Path, help="directory train.py made, such as tensorboard/intel"
    )
    directory = parser.parse_args(arguments).experiment
    try:
        print(write(directory), end="")
    except (ExperimentError, OSError) as error:
        print(f"report.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    commands.end_quietly()
    if sys.stdout:
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may know no ±
    sys.exit(main())
