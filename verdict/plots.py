"""Plots as SVG: transparent, for light and dark pages; the same numbers give the same bytes."""

import functools
import io
import os
import warnings
from collections.abc import Sequence

import numpy as np

# The user's choice may need a display or an unknown package, and nothing is shown on a screen here.
os.environ["MPLBACKEND"] = "svg"
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from schedulers import CONTROL
from storage.results import Experiment, Run
from verdict.ranking import Ranking, tuning_losses

GREY = "#7a828b"  # contrast at least 3.8 : 1 on white and on GitHub's dark #0d1117
# Okabe and Ito's colour-blind-safe palette, changed to 3 : 1 on both backgrounds.
COLOURS = ("#1b7fc0", "#d55e00", "#009e73", "#c2669a", "#a67c00", "#3f8fc4")
LEAST, DEFAULT, OFF_LINE = "o", "x", r"$\uparrow$"  # marks in tuning.svg
STYLE = {
    **dict.fromkeys([f"axes.{part}color" for part in ("edge", "label", "title")], GREY),
    **dict.fromkeys([f"{part}.color" for part in ("grid", "text", "xtick", "ytick")], GREY),
    "axes.grid": True,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "figure.constrained_layout.use": True,
    "figure.titlesize": 11,
    "grid.alpha": 0.25,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.markersize": 4.5,
    # Without a salt, the ids in a file differ each time.
    "svg.hashsalt": "report",
}
# The user's own matplotlibrc must not change a plot.
styled = matplotlib.style.context(["default", STYLE])


@styled
def comparison_plot(experiment: Experiment, ranking: Ranking) -> bytes:
    """Return comparison.svg: validation accuracy, validation loss and rate of every schedule."""
    schedules, runs = experiment.config.schedules, ranking.runs
    epochs = max(map(len, schedules.values()))
    colours = {label: f"C{i}" for i, label in enumerate(schedules)}  # they stay as runs are added
    figure = new_figure((11, 5.8), experiment.config.data.name)
    names = [["accuracy", "loss"], ["accuracy", "rate"]]
    panels, legend = figure.subplot_mosaic(names, width_ratios=[5, 4]), {}
    for label, finished in runs.items():
        for name in ("loss", "accuracy"):
            training = _curves(finished, name).mean(axis=0)
            panels[name].plot(training, "--", color=colours[label], linewidth=0.8)
            line = _draw(panels[name], _curves(finished, f"val_{name}"), colours[label])
        legend[f"{line.get_ydata()[-1]:.4f}  {label}"] = line
        rates = _curves(finished, "rate")
        # A logarithmic axis cannot show 0.
        if rates.any():
            _draw(panels["rate"], np.where(rates > 0, rates, np.nan), colours[label])
    legend["training"] = Line2D([], [], linestyle="--", color=GREY, linewidth=0.8)
    _draw_reference(panels["loss"], "loss", experiment, {})
    _draw_reference(panels["accuracy"], "accuracy", experiment, legend)
    # The first epochs are cut off: they would squeeze the differences at the end into a line.
    for name, part in (("accuracy", (10, 100)), ("loss", (0, 90))):
        curves = [_curves(finished, f"val_{name}") for finished in runs.values()]
        _limit(panels[name], curves, *part)
    panels["accuracy"].set_title(_averaging(runs.values()))
    panels["accuracy"].set_ylabel("validation accuracy (fraction of images)")
    panels["loss"].set_ylabel("validation loss (nats)")
    panels["rate"].set(ylabel="learning rate", yscale="log")
    panels["rate"].yaxis.set_major_formatter("{x:.0e}")
    for axes in panels.values():
        axes.set(xlabel="epoch (from 0)", xlim=(-0.5, max(epochs - 0.5, 0.5)))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    figure.legend(legend.values(), legend, loc="outside lower left", ncols=3)
    return render(figure)


@styled
def tuning_plot(experiment: Experiment) -> bytes:
    """Return tuning.svg: each schedule's loss on held-out training images, by peak rate.

    A default peak is that of the rates as configured; the loss there is interpolated on the
    logarithm of the rate. What lies far above the minima is cut off, not squeezed in.
    """
    (peaks, losses), schedules = tuning_losses(experiment), experiment.config.schedules
    means = {label: of.mean(axis=0) for label, of in losses.items()}
    colours = {label: f"C{i}" for i, label in enumerate(schedules)}
    top = 1.6 * max(map(np.nanmin, means.values()), default=0) or 1
    low = min(map(np.nanmin, losses.values()), default=0) - 0.03 * top
    figure = new_figure((6.6, 4.8), f"{experiment.config.data.name}: how high should the rate be?")
    axes, legend, cut_off = figure.add_subplot(xscale="log", ylim=(low, top)), {}, 0
    mark = functools.partial(axes.plot, linestyle="", markersize=9, markeredgewidth=2.5)
    for label, mean in means.items():
        best, default = np.nanargmin(mean), max(schedules[label])
        style, colour = "--" if label == CONTROL else "-", colours[label]
        line = _draw(axes, losses[label], colour, peaks, linestyle=style)
        legend[f"{mean[best]:.4f} at {peaks[best]:.0e}  {label}"] = line
        mark(peaks[best], mean[best], marker=LEAST, color=colour)
        # Nothing beyond the grid, and NaN, which is off the line too, beside a head that diverged.
        loss = np.interp(np.log(default), np.log(peaks), mean, -np.inf, -np.inf)
        if loss <= top:
            mark(default, loss, marker=DEFAULT, color=colour)
        else:
            # One below the other, because defaults are often equal.
            cut_off += 1
            mark(default, top - 0.07 * cut_off * (top - low), marker=OFF_LINE, color=colour)
    marks = {LEAST: "least loss", DEFAULT: "default peak", OFF_LINE: "default peak, off the line"}
    for marker, meaning in marks.items():
        legend[meaning] = mark([], [], marker=marker, color=GREY)[0]
    axes.set(xlabel="peak learning rate", ylabel="loss (nats)")
    kind = "Loss on held-out training images, each schedule's peak on a grid"
    axes.set_title(f"{kind}\n{_averaging([experiment.tuning])}")
    figure.legend(legend.values(), legend, loc="outside lower left", ncols=2)
    return render(figure)


@styled
def spread_plot(ranking: Ranking) -> bytes:
    """Return spread.svg: how far the best schedule is ahead of the others, and how sure that is."""
    (best, _), ahead = ranking.best, ranking.ahead
    rows, means = np.arange(len(ahead))[::-1], [interval.mean for interval in ahead.values()]
    look = {"capsize": 4, "linewidth": 3, "fmt": "o", "markersize": 7}
    figure = new_figure((8, 2 + 0.55 * len(ahead)), f"How sure is {best} ahead?")
    axes = figure.add_subplot()
    for images, width, shift in (("", "over_seeds", 0.14), (" and images", "half_width", -0.14)):
        widths = [getattr(interval, width) for interval in ahead.values()]
        label = f"repeated with new seeds{images}"
        axes.errorbar(means, rows + shift, xerr=widths, label=label, **look)
    axes.axvline(0, color=GREY)
    axes.set_yticks(rows, ahead)
    axes.set_ylim(-0.5, len(ahead) - 0.5)
    axes.grid(axis="y", visible=False)
    axes.set_title("95 % intervals; one that crosses 0 shows no difference")
    axes.set_xlabel(f"final validation accuracy of {best} minus that of the other")
    figure.legend(loc="outside lower left", ncols=2)
    return render(figure)


def new_figure(size: tuple[float, float], title: str) -> Figure:
    """Return a figure of so many inches with a title, which may hold any characters."""
    figure = Figure(figsize=size)
    # A file of XML cannot hold control characters.
    title = "".join(letter if letter.isprintable() else " " for letter in title)
    figure.suptitle(title, x=0.01, ha="left", weight="bold", parse_math=False)
    return figure


def render(figure: Figure, form: str = "svg") -> bytes:
    """Return a figure as a file, "svg" or "png"; the same figure gives the same bytes."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Names may be in any script; the font draws boxes for letters it lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        nothing = dict.fromkeys(["Date", "Creator"] if form == "svg" else ["Software"])
        figure.savefig(file, format=form, transparent=True, metadata=nothing)
    return file.getvalue()


def _curves(runs: Sequence[Run], name: str) -> np.ndarray:
    """Return a curve of several runs: (runs, epochs)."""
    return np.stack([run.result.curve(name) for run in runs])


def _draw(
    axes: Axes, curves: np.ndarray, colour: str, x: Sequence[float] = (), **style: str
) -> Line2D:
    """Draw the mean of curves (runs, points), and a band from the lowest to the highest run.

    Points lie at `x`, by default at 0, 1, 2, ...
    """
    x = x if len(x) else np.arange(curves.shape[1])
    if len(curves) > 1:
        low, high = curves.min(axis=0), curves.max(axis=0)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    # A line of one point is seen by its marker only.
    marker = "o" if len(x) == 1 else ""
    return axes.plot(x, curves.mean(axis=0), color=colour, marker=marker, **style)[0]


def _draw_reference(axes: Axes, name: str, experiment: Experiment, legend: dict) -> None:
    if solved := experiment.reference:
        value = solved.val_categorical_accuracy if name == "accuracy" else solved.val_loss
        line = axes.axhline(value, linestyle=":", color=GREY, linewidth=1.6)
        legend[f"{value:.4f}  logistic regression"] = line


def _limit(axes: Axes, curves: Sequence[np.ndarray], low: float, high: float) -> None:
    """Let the y-axis reach from one percentile of all finite values to another, with a margin."""
    lines = [line.get_ydata() for line in axes.lines if line.get_linestyle() == ":"]
    values = np.concatenate([np.ravel(curve) for curve in [[], *curves, *lines]])
    values = values[np.isfinite(values)]
    if len(values):
        bottom, top = np.percentile(values, (low, high))
        margin = 0.06 * (top - bottom) or 0.01
        axes.set_ylim(bottom - margin, top + margin)


def _averaging(runs: Sequence[Sequence[Run]]) -> str:
    """Say what lines and bands stand for."""
    low, high = min(map(len, runs), default=1), max(map(len, runs), default=1)
    if high == 1:
        return "one run each"
    return f"mean of {low if low == high else f'{low} to {high}'} seeds, band: lowest to highest"
