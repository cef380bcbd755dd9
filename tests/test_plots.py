"""The plots: of odd experiments too, without a warning, and readable on light and on dark."""

import math
import re
import warnings
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from experiment_files import write_experiment, write_reference, write_report, write_run

from storage.audit import read_experiment
from verdict import plots


@pytest.mark.parametrize(
    ("right", "rates"),
    [
        ({"exp": [50]}, {"exp": [4e-5]}),
        ({"exp": [50, 51], "linear": [50, 51]}, {"exp": [0.0] * 2, "linear": [0.0] * 2}),
        (
            {f"s{i}": [40 + i] * 2 for i in range(12)},
            {f"s{i}": [10.0**-i] * (i + 1) for i in range(12)},
        ),
    ],
    ids=["one of everything", "no rate", "twelve schedules"],
)
def test_odd_experiments_are_drawn_without_a_warning(tmp_path, right, rates):
    name = "$\\frac{1$ \x1b <b> & -- 花"
    experiment = write_experiment(tmp_path / "x", right, rates=rates, name=name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(experiment)
    drawn = [path for path in experiment.rglob("*.svg") if ElementTree.parse(path)]
    seeds = max(map(len, right.values()))
    assert len(drawn) == 2 + (len(right) > 1 and seeds > 1)


def test_a_schedule_that_diverged_and_one_that_is_missing_are_left_out(tmp_path):
    right = {"exp": [50, 51], "linear": [50, 51], "warm": []}
    experiment = write_experiment(tmp_path / "x", right)
    write_reference(experiment)
    for seed in range(2):
        write_run(experiment, "linear", seed, 50, loss=math.nan)
    write_report(experiment)
    drawn = {path.relative_to(experiment).as_posix() for path in experiment.rglob("*.svg")}
    assert drawn == {"comparison.svg", "confusion.svg"}
    # Texts are drawn as paths, with the text as a comment beside them.
    comparison = (experiment / "comparison.svg").read_text(encoding="utf-8")
    assert f"<!-- {50.5 / 60:.4f}  exp -->" in comparison and "linear" not in comparison
    assert f"<!-- {57 / 60:.4f}  logistic regression -->" in comparison
    for seed in range(2):
        write_run(experiment, "exp", seed, 50, loss=math.nan)
    (experiment / "reference.json").unlink()
    assert "Every schedule has a run that diverged" in write_report(experiment)


def test_the_plot_of_peaks_marks_minima_and_defaults_that_are_not_off_the_top(tmp_path):
    grids = [
        {"exp": [0.9, 0.4, 0.2, 0.3], "constant": [0.26, 0.24, 0.8, None]},
        {"exp": [0.9, 0.4, 0.3, 0.3], "constant": [0.26, 0.24, 0.8, 0.2]},
    ]
    for default in (1e-3, 1e-4):
        right = {"exp": [50, 50], "constant": [50, 50]}
        rates = {"exp": [default], "constant": [1e-4]}
        experiment = write_experiment(tmp_path / f"{default}", right, rates=rates, grids=grids)
        svg = plots.tuning_plot(read_experiment(experiment)).decode()
        assert "<!-- 0.2500 at 1e-02  exp -->" in svg
        assert "<!-- 0.2400 at 1e-03  constant -->" in svg
        marks = re.findall(r'<use [^>]*y="([\d.]+)" style="fill: (#\w+)', svg)
        least, mark = (float(y) for y, colour in marks if colour == plots.COLOURS[0])
        control = next(float(y) for y, colour in marks if colour == plots.COLOURS[1])
        # The loss of exp at 1e-3 is 0.4, at 1e-4 it is 0.9, which is cut off at the top.
        on_line = least + (0.4 - 0.25) / (0.25 - 0.24) * (least - control)
        assert (mark == pytest.approx(on_line)) == (default == 1e-3)
        assert mark > on_line if default == 1e-4 else True


def test_colours_are_readable_on_light_and_dark():
    def luminance(colour):
        """Relative luminance of #rrggbb by WCAG 2.1."""
        parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    for colour in (plots.GREY, *plots.COLOURS):
        for background in ("#ffffff", "#0d1117"):
            dark, light = sorted([luminance(colour), luminance(background)])
            assert (light + 0.05) / (dark + 0.05) >= 3, (colour, background)
