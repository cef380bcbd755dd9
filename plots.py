"""Plots as SVG: transparent, for light and dark pages; the same numbers give the same bytes."""

import io
import os
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

# The user's choice may need a display or an unknown package, and nothing is shown on a screen here.
os.environ["MPLBACKEND"] = "svg"
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from intervals import Interval
from results import Reference, Run

GREY = "#7a828b"  # contrast at least 3.8 : 1 on white and on GitHub's dark #0d1117
# Okabe and Ito's colour-blind-safe palette, changed to 3 : 1 on both backgrounds.
COLOURS = ("#1b7fc0", "#d55e00", "#009e73", "#c2669a", "#a67c00", "#3f8fc4")
MARKERS = "os^Dv*P"  # seven, so that with six colours the first 42 schedules look different
STYLE = {
    **dict.fromkeys([f"axes.{part}color" for part in ("edge", "label", "title")], GREY),
    **dict.fromkeys([f"{part}.color" for part in ("grid", "text", "xtick", "ytick")], GREY),
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "figure.constrained_layout.use": True,
    "figure.titlesize": 11,
    "grid.alpha": 0.25,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.labelcolor": GREY,
    "lines.markersize": 4.5,
    # Without a salt, the ids in a file differ each time.
    "svg.hashsalt": "report",
}
# The user's own matplotlibrc must not change a plot.
styled = matplotlib.style.context(["default", STYLE])


@styled
def comparison_plot(
    rates: Mapping[str, Sequence[float]],
    runs: Mapping[str, Sequence[Run]],
    reference: Reference | None,
    title: str,
) -> bytes:
    """Return comparison.svg: validation accuracy, validation loss and rate of every schedule.

    `rates` of all schedules set their colours, `runs` that did not diverge the order of the legend.
    """
    looks = {
        label: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        for i, label in enumerate(rates)
    }
    figure = _figure((11, 5.8), title)
    grid = figure.add_gridspec(2, 2, width_ratios=[5, 4])
    places = np.s_[:, 0], np.s_[0, 1], np.s_[1, 1]
    accuracy, loss, rate = (figure.add_subplot(grid[place]) for place in places)
    legend = {}
    for label, of in runs.items():
        for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
            training = _curves(of, name).mean(axis=0)
            axes.plot(training, "--", color=looks[label]["color"], linewidth=0.8)
            line = _draw(axes, _curves(of, f"val_{name}"), **looks[label])
        legend[f"{line.get_ydata()[-1]:.4f}  {label}"] = line
        # A logarithmic axis lacks 0, and float32 what is far smaller than anybody uses.
        visible = np.where(np.array(rates[label]) < 1e-37, np.nan, rates[label])
        _draw(rate, visible[None], **looks[label])
    legend["training"] = Line2D([], [], linestyle="--", color=GREY, linewidth=0.8)
    _draw_reference({"accuracy": accuracy, "loss": loss}, reference, legend)
    # The first epochs are cut off: they would squeeze the differences at the end into a line.
    _limit(accuracy, [_curves(of, "val_accuracy") for of in runs.values()], 10, 100)
    _limit(loss, [_curves(of, "val_loss") for of in runs.values()], 0, 90)
    accuracy.set_title(_averaging(runs.values()))
    accuracy.set_ylabel("validation accuracy (fraction of images)")
    loss.set_ylabel("validation loss (nats)")
    rate.set(ylabel="learning rate", yscale="log")
    rate.yaxis.set_major_formatter("{x:.0e}")
    for axes in (accuracy, loss, rate):
        _name_epochs(axes, max(map(len, rates.values())))
    figure.legend(legend.values(), legend, loc="outside lower left", ncols=3)
    return _svg(figure)


@styled
def schedule_plot(runs: Sequence[Run], name: str, reference: Reference | None, title: str) -> bytes:
    """Return the plot of "accuracy" or "loss" of one schedule, in training and in validation."""
    validation, training = _curves(runs, f"val_{name}"), _curves(runs, name)
    figure = _figure((6, 3.6), title)
    axes, legend = figure.add_subplot(), {}
    for side, curves, style, colour in (
        ("validation", validation, "-", COLOURS[0]),
        ("training", training, "--", COLOURS[1]),
    ):
        line = _draw(axes, curves, linestyle=style, color=colour)
        legend[f"{line.get_ydata()[-1]:.4f}  {side}"] = line
    _draw_reference({name: axes}, reference, legend)
    _limit(axes, [validation, training], *((5, 100) if name == "accuracy" else (0, 95)))
    axes.set_title(_averaging([runs]))
    axes.set_ylabel("accuracy (fraction of images)" if name == "accuracy" else "loss (nats)")
    _name_epochs(axes, training.shape[1])
    axes.legend(legend.values(), legend, loc="best")
    return _svg(figure)


@styled
def spread_plot(best: str, ahead: Mapping[str, Interval]) -> bytes:
    """Return spread.svg: how far the best schedule is ahead of the others, and how sure that is.

    `ahead` in final validation accuracy, label of the other -> interval. Two intervals are drawn of
    each: for new seeds and the same images, and for new seeds and new images.
    """
    rows = np.arange(len(ahead))[::-1]
    means = [of.mean for of in ahead.values()]
    kinds = (
        ("repeated with new seeds", "over_seeds", COLOURS[1], 0.14),
        ("repeated with new seeds and new images", "half_width", COLOURS[0], -0.14),
    )
    look = {"capsize": 4, "linewidth": 3, "fmt": "o", "markersize": 7}
    figure = _figure((8, 2 + 0.55 * len(ahead)), f"How sure is {best} ahead?")
    axes, legend = figure.add_subplot(), {}
    for kind, width, colour, shift in kinds:
        widths = [getattr(of, width) for of in ahead.values()]
        if np.isfinite(widths).all():
            legend[kind] = axes.errorbar(means, rows + shift, xerr=widths, color=colour, **look)
    axes.axvline(0, color=GREY)
    axes.set_yticks(rows, ahead)
    axes.set_ylim(-0.5, len(ahead) - 0.5)
    axes.grid(axis="y", visible=False)
    axes.set_title("95 % intervals; one that crosses 0 shows no difference")
    axes.set_xlabel(f"final validation accuracy of {best} minus that of the other")
    figure.legend(legend.values(), legend, loc="outside lower left", ncols=2)
    return _svg(figure)


def _figure(size: tuple[float, float], title: str) -> Figure:
    figure = Figure(figsize=size)
    # A file of XML cannot hold control characters.
    title = "".join(letter if letter.isprintable() else " " for letter in title)
    figure.suptitle(title, x=0.01, ha="left", weight="bold", parse_math=False)
    return figure


def _svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Names may be in any script; the font draws boxes for letters it lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        nothing = {"Date": None, "Creator": None}
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return file.getvalue()


def _curves(runs: Sequence[Run], name: str) -> np.ndarray:
    """Return a curve of several runs: (runs, epochs)."""
    return np.stack([getattr(run, name) for run in runs])


def _draw(axes: Axes, curves: np.ndarray, *, color: str, marker: str = "", **look: str) -> Line2D:
    """Draw the mean of curves (runs, epochs), and a band from the lowest to the highest run."""
    epochs = np.arange(curves.shape[1])
    if len(curves) > 1:
        low, high = curves.min(axis=0), curves.max(axis=0)
        axes.fill_between(epochs, low, high, color=color, alpha=0.2, linewidth=0)
    # A line of one point is seen by its marker only.
    marker = marker or ("o" if len(epochs) == 1 else "")
    every = max(1, len(epochs) // 8)
    mean = curves.mean(axis=0)
    (line,) = axes.plot(epochs, mean, color=color, marker=marker, markevery=every, **look)
    return line


def _draw_reference(axes: Mapping[str, Axes], reference: Reference | None, legend: dict) -> None:
    if reference:
        finals = {"accuracy": reference.val_categorical_accuracy, "loss": reference.val_loss}
        for name, of in axes.items():
            line = of.axhline(finals[name], linestyle=":", color=GREY, linewidth=1.6)
        legend[f"{finals[next(iter(axes))]:.4f}  logistic regression"] = line


def _limit(axes: Axes, curves: Sequence[np.ndarray], low: float, high: float) -> None:
    """Let the y-axis reach from one percentile of all finite values to another, with a margin."""
    lines = [line.get_ydata() for line in axes.lines if line.get_linestyle() == ":"]
    values = np.concatenate([np.ravel(curve) for curve in [[], *curves, *lines]])
    values = values[np.isfinite(values)]
    if len(values):
        bottom, top = np.percentile(values, (low, high))
        margin = 0.06 * (top - bottom) or 0.01
        axes.set_ylim(bottom - margin, top + margin)


def _name_epochs(axes: Axes, epochs: int) -> None:
    axes.set_xlim(-0.5, max(epochs - 0.5, 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.set_xlabel("epoch (from 0)")


def _averaging(runs: Sequence[Sequence[Run]]) -> str:
    """Say what lines and bands stand for."""
    low, high = min(map(len, runs), default=1), max(map(len, runs), default=1)
    if high == 1:
        return "one run each"
    return f"mean of {low if low == high else f'{low} to {high}'} seeds, band: lowest to highest"
