"""What the best schedule's runs confuse, and validation images whose labels may be wrong.

suspects.txt has a line for each suspect, with tabs between image, label, prediction and mean loss;
suspects.png shows the same images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

import data
from runtime import files
from sources.decoding import DamagedImage, decode
from storage import results
from storage.results import Experiment, Run
from verdict import plots
from verdict.ranking import Ranking

PAIRS = 3  # confused pairs that are named
DRAWN_CLASSES = 30  # a drawing of more would not be readable
LEAST_RUNS, AGREEING = 3, 0.9  # runs without which no label is doubted; part of them that agrees
LISTED, COLUMNS = 24, 6  # suspects, and how many of them stand in a row
THUMBNAIL, LETTERS = 160, 22  # pixels of a suspect's longer side; letters of a name that are drawn
SUSPECTED = """
- {} validation images are put into one same other class by at least nine in ten of its runs: wrong
  labels, or images that could be either. suspects.txt lists those of highest loss."""


@dataclass(frozen=True)
class Suspect:
    """An image that nearly all runs put into one same other class."""

    image: int  # its number among the validation images
    label: int
    predicted: int
    loss: float  # nats, mean over runs


def count_confusions(runs: Sequence[Run], classes: int) -> np.ndarray:
    """Return how many images of each class (row) end up in each class (column): mean over runs."""
    cells = [classes * run.outputs.label + run.outputs.predicted for run in runs]
    counts = np.bincount(np.ravel(cells), minlength=classes**2)
    return counts.reshape(classes, classes) / len(runs)


def find_suspects(runs: Sequence[Run]) -> list[Suspect]:
    """Return all suspects, the highest mean loss first; none of fewer than LEAST_RUNS runs."""
    if len(runs) < LEAST_RUNS:
        return []
    label, loss = runs[0].outputs.label, np.mean([run.outputs.loss for run in runs], axis=0)
    predicted = np.array([run.outputs.predicted for run in runs])  # (runs, images)
    usual = np.median(predicted, axis=0).astype(int)  # where more than half of the runs agree
    agreed = np.mean(predicted == usual, axis=0) >= AGREEING
    images = np.flatnonzero(agreed & (usual != label))
    return [Suspect(i, label[i], usual[i], loss[i]) for i in images[np.argsort(-loss[images])]]


def describe(runs: Sequence[Run], name: str, class_names: Sequence[str]) -> str:
    """Return the part of summary.md on mistakes of `name`; all names are Markdown already."""
    table = count_confusions(runs, len(class_names))
    wrong = table * (1 - np.eye(len(table)))
    cells = sorted(np.argwhere(wrong).tolist(), key=lambda cell: -wrong[tuple(cell)])[:PAIRS]
    pairs = [
        f"{class_names[i]} for {class_names[j]} ({wrong[i, j]:.4g} of {table[i].sum():.0f})"
        for i, j in cells
    ]
    mean = f", mean of {len(runs)} seeds" if len(runs) > 1 else ""
    text = f"- Most often {name} takes {', '.join(pairs) or 'no class for another'}{mean}."
    if suspects := find_suspects(runs):
        text += SUSPECTED.format(len(suspects))
    if len(class_names) <= DRAWN_CLASSES:
        text += "\n\n![Where the images of each class end up](confusion.svg)"
    return text


def report_files(experiment: Experiment, ranking: Ranking) -> dict[str, bytes | str]:
    """Return confusion.svg and suspects.txt by name, those that there are."""
    (best, runs), names = ranking.best, experiment.config.data.class_names
    written = {}
    if len(names) <= DRAWN_CLASSES:
        written["confusion.svg"] = confusion_plot(best, runs, names)
    if suspects := find_suspects(runs)[:LISTED]:
        images = results.read_image_names(experiment.directory)
        written["suspects.txt"] = "".join(
            f"{images[s.image]}\t{names[s.label]}\t{names[s.predicted]}\t{s.loss:.2f}\n"
            for s in suspects
        )
    return written


@plots.styled
def confusion_plot(schedule: str, runs: Sequence[Run], class_names: Sequence[str]) -> bytes:
    """Return confusion.svg: the percentages of each label's images that are put into each class."""
    table = count_confusions(runs, len(class_names))
    percent = 100 * table / table.sum(axis=1, keepdims=True).clip(min=1)
    side = 1.8 + 0.36 * len(table)
    figure = plots.new_figure((max(side, 5), max(side, 3.6)), f"What {schedule} confuses")
    axes = figure.add_subplot(aspect="equal", xlabel="prediction", ylabel="label")
    # The square root shows mistakes, which are few, beside what is right.
    axes.pcolormesh(np.sqrt(np.ma.masked_less(percent, 0.5)), cmap="Blues", vmin=0, vmax=10)
    for row, column in np.argwhere(percent >= 0.5):
        value = percent[row, column]
        look = {"color": "white" if value > 30 else "black", "fontsize": 8}
        axes.text(column + 0.5, row + 0.5, f"{value:.0f}", ha="center", va="center", **look)
    middles, names = np.arange(len(table)) + 0.5, list(map(_shorten, class_names))
    axes.set_xticks(middles, names, rotation=90, parse_math=False)
    axes.set_yticks(middles, names, parse_math=False)
    axes.invert_yaxis()
    mean = f"mean of {len(runs)} seeds" if len(runs) > 1 else "one run"
    axes.set_title(f"% of each label's images, {mean}")
    return plots.render(figure)


@plots.styled
def write_contact_sheet(experiment: Experiment, ranking: Ranking, dataset: data.Dataset) -> None:
    """Write suspects.png: the images that suspects.txt lists, in its order, if there are any."""
    best, runs = ranking.best
    suspects = find_suspects(runs)[:LISTED]
    if not suspects:
        return
    names = list(map(_shorten, dataset.class_names))
    rows = math.ceil(len(suspects) / COLUMNS)
    title = f"{dataset.name}: label, and what {best} predicts instead"
    figure = plots.new_figure((1.6 * COLUMNS, 2 * rows + 0.5), title)
    images = dataset.rows[dataset.validation][[suspect.image for suspect in suspects]]
    read = dataset.source.read(images.tolist())
    for number, (suspect, encoded) in enumerate(zip(suspects, read, strict=True), start=1):
        axes = figure.add_subplot(rows, COLUMNS, number)
        # An image may vanish after the training, which must not be lost to that.
        try:
            image = Image.fromarray(decode(encoded))
        except DamagedImage:
            image = Image.new("RGB", (THUMBNAIL, THUMBNAIL), "lightgrey")
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        axes.imshow(image)
        text = f"{number}. {names[suspect.label]}\n→ {names[suspect.predicted]}"
        axes.set_title(text, fontsize=8, parse_math=False)
        axes.axis("off")
    files.write_atomically(experiment.directory / "suspects.png", plots.render(figure, "png"))


def _shorten(name: str) -> str:
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"
