"""The report: what it says of experiments of every kind, and the command."""

import math
import os

import pytest
from conftest import run_command, run_python
from experiment_files import CONDITIONS, write_experiment, write_reference, write_report, write_run

from storage.audit import read_experiment
from verdict.ranking import rank
from verdict.summary import format_summary

# Correct images of 60: linear is far better than exp, and warm like linear.
RIGHT = {"exp": [30, 31, 32], "linear": [56, 57, 58], "warm": [56, 56, 58]}


def summarise(experiment):
    """Return the summary of an experiment without drawing plots, which takes most of the time."""
    found = read_experiment(experiment)
    return format_summary(found, rank(found))


def headline(summary):
    """Return the first paragraph below the title."""
    return summary.split("\n\n")[1]


def row(summary, label):
    """Return the cells of the row of the table that starts with this label."""
    line = next(line for line in summary.splitlines() if line.startswith(f"| {label} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


# --- Sentences --------------------------------------------------------------------------------


def test_table_and_pairs(tmp_path):
    experiment = write_experiment(tmp_path / "x", RIGHT)
    write_reference(experiment)
    summary, ranking = summarise(experiment), rank(read_experiment(experiment))
    accuracy, loss = vars(ranking.scores["exp"]).values()
    compared = ranking.compared["linear", "exp"]
    cells = row(summary, "exp")
    assert cells[:4] == ["exp", "3 of 3", "3", "4.0e-05"]
    assert cells[4] == f"{31 / 60:.4f} ± {accuracy.half_width:.4f}"
    assert cells[5] == f"± {accuracy.over_seeds:.4f}"
    assert cells[6] == f"0.3000 ± {loss.half_width:.4f}"
    assert cells[7] == f"+{26 / 60:.4f} ± {compared.accuracy.half_width:.4f}"
    assert cells[8] == f"{compared.loss.mean:+.4f} ± {compared.loss.half_width:.4f}"
    assert row(summary, "linear")[7:9] == ["", ""]
    reference = row(summary, "logistic regression, C = 0.3")
    assert reference[4:6] == [f"{57 / 60:.4f}", ""]
    assert reference[7] == f"+0.0000 ± {ranking.reference.accuracy.half_width:.4f}"
    assert f"- linear has a higher accuracy than exp: accuracy {cells[7]}, loss" in summary
    assert f"- warm has a higher accuracy than exp: accuracy +{25.67 / 60:.4f}"[:-2] in summary
    assert "- No other pair of schedules can be told apart, in accuracy or in loss.\n" in summary


HEADLINES = {
    "better in both": (
        {"exp": [30, 31], "linear": [57, 58]},
        {"exp": 0.9},
        "linear ends with the highest accuracy and is better than exp in accuracy and loss.",
    ),
    "better in accuracy": (
        RIGHT,
        {},
        "linear ends with the highest accuracy, is not distinguishable from warm and has a "
        "higher accuracy than exp.",
    ),
    "better in loss": (
        {"exp": [55, 56], "linear": [56, 57]},
        {"exp": 0.5},
        "linear ends with the highest accuracy and has a lower loss than exp.",
    ),
    "better in accuracy, worse in loss": (
        {"exp": [30, 31], "linear": [57, 58]},
        {"exp": 0.1},
        "linear ends with the highest accuracy and has a higher accuracy but also a higher loss "
        "than exp.",
    ),
    "tie": (
        {"exp": [56, 57, 56, 57], "linear": [57, 56, 57, 56], "warm": [20, 21, 20, 21]},
        {"exp": 0.31},
        "linear ties with exp for the highest accuracy, is not distinguishable from exp and has a "
        "higher accuracy than warm.",
    ),
    "one seed": (
        {"exp": [30], "linear": [57]},
        {},
        "With one run each this compares trained models, not schedules; the model of linear ends "
        "with the highest accuracy and has a higher accuracy than the model of exp.",
    ),
    "unfinished": (
        {"exp": [30, 31], "linear": [57]},
        {},
        "linear ends with the highest accuracy and shares too few seeds with exp to be compared.",
    ),
    "alone": ({"exp": [30, 31, 32]}, {}, "exp ends at a validation accuracy of 0.5167 ± 0.0792"),
    "diverged": (
        {"exp": [30, 31]},
        {"exp": math.nan},
        "Every schedule has a run that diverged, so none is best.",
    ),
}


@pytest.mark.parametrize(("right", "losses", "said"), HEADLINES.values(), ids=HEADLINES)
def test_headline(tmp_path, right, losses, said):
    # Equal peaks, so that nothing is said of rates.
    rates = {label: [4e-5, 1e-5 * (i + 1)] for i, label in enumerate(right)}
    summary = summarise(write_experiment(tmp_path / "x", right, losses=losses, rates=rates))
    assert headline(summary).startswith(said)
    assert ("better" in headline(summary)) == ("better" in said)


def test_headline_says_that_rates_are_compared_too(tmp_path):
    def said_of(linear):
        """Return the headline where exp peaks at 4e-5 and linear at this rate."""
        right, rates = {"exp": [50], "linear": [51]}, {"exp": [4e-5], "linear": [linear]}
        return headline(summarise(write_experiment(tmp_path / f"{linear}", right, rates=rates)))

    assert said_of(6.1e-5).startswith("As configured: With one run each")
    assert said_of(6.2e-5).endswith(
        "; the schedules peak at 4.0e-05 to 6.2e-05, so this compares rates too; --tune compares "
        "each at its best."
    )
    assert "configured" not in said_of(5.9e-5)


# The least loss of exp lies at 1e-3 and at 1e-2, that of the control always at 1e-3.
GRIDS = [
    {"exp": [0.9, 0.20, 0.30, None], "constant": [0.5, 0.30, 0.311, 0.9]},
    {"exp": [0.9, 0.34, 0.25, 0.8], "constant": [0.7, 0.30, 0.309, 0.9]},
]


def write_tuned(experiment, grids=GRIDS, exp=(50, 51), constant=(49, 50)):
    """Write an experiment with --tune of exp, whose default peak is 1e-2, and of the control."""
    rates, right = {"exp": [1e-2, 5e-3], "constant": [1e-3] * 2}, {"exp": exp, "constant": constant}
    return write_experiment(experiment, right, rates=rates, grids=grids)


def test_tuned_schedules_are_compared_each_at_its_own_best_peak(tmp_path):
    experiment = write_tuned(tmp_path / "x")
    write_reference(experiment)
    summary = summarise(experiment)
    assert headline(summary) == (
        "At its own best peak each: exp ends with the highest accuracy and is not distinguishable "
        "from constant. Can be told apart from the control, a constant rate, in accuracy or in "
        "loss: none."
    )
    assert row(summary, "exp")[:5] == ["exp", "2 of 2", "2", "1e-03 to 1e-02", "1e-03 to ≥ 1e-02"]
    # At 1e-2 the mean, 0.310, is 3.3 % above the least.
    control = ["constant (control)", "2 of 2", "2", "1e-03", "1e-03 to 1e-02"]
    assert row(summary, "constant")[:5] == control
    assert row(summary, "logistic regression, C = 0.3")[5] == f"{57 / 60:.4f}"
    assert "Equal budgets: 2 epochs." in summary
    assert summary.index("](tuning.svg)") < summary.index("| schedule") < summary.index("](comp")


def test_what_differs_from_the_control_is_said(tmp_path):
    for label, other in ("exp", "constant"), ("constant", "exp"):
        summary = summarise(write_tuned(tmp_path / label, **{other: (30, 31)}))
        assert f"each: {label} ends with the highest accuracy" in headline(summary)
        assert "from the control, a constant rate, in accuracy or in loss: exp" in headline(summary)


def test_peaks_on_the_edge_and_schedules_without_a_peak_are_said(tmp_path):
    grids = [
        {"exp": [None] * 4, "constant": [0.2, 0.3, 0.4, 0.9]},
        {"exp": [0.9, 0.5, 0.4, 0.3], "constant": [0.2, 0.3, 0.4, 0.9]},
    ]
    summary = summarise(write_tuned(tmp_path / "x", grids, exp=(None, 51)))
    assert headline(summary).endswith(
        ". Chosen peaks of constant (1e-04) and exp (1e-01) lie on the edge of the grid, so better "
        "ones may lie beyond. Every peak of exp seed 0 diverged, so there is no run."
    )
    assert row(summary, "exp")[1:5] == ["1 of 2", "2", "1e-01", ""]
    assert row(summary, "constant")[3:5] == ["1e-04", "≤ 1e-04"]
    grids.append({"exp": [None] * 4, "constant": [None] * 4})
    summary = summarise(write_tuned(tmp_path / "y", grids, (None, 51, None), (49, 50, None)))
    lost = "exp seed 0, exp seed 2 and constant seed 2"
    assert headline(summary).endswith(f" Every peak of {lost} diverged, so there is no run.")


def test_diverged_runs_are_named_and_not_counted(tmp_path):
    experiment = write_experiment(tmp_path / "x", RIGHT)
    write_run(experiment, "warm", 1, 60, loss=math.nan)
    for seed in range(3):
        write_run(experiment, "linear", seed, 60, loss=math.nan)
    summary = summarise(experiment)
    assert headline(summary).startswith("As configured: exp ends with the highest accuracy")
    assert "runs of linear and warm diverged" in headline(summary)
    assert row(summary, "warm")[1] == "2 of 3, 1 diverged"
    assert row(summary, "linear")[1:] == ["0 of 3, 3 diverged", "3", "4.0e-05", *[""] * 5]


@pytest.mark.parametrize(
    ("right", "loss", "said"),
    [
        (20, 1.2, "it has learnt little and needs more epochs, a higher rate, or --tune."),
        (55, 1.2, "though most images are right: it is too sure, as after too high a rate: try"),
        (20, 1.0, None),
    ],
)
def test_a_loss_above_that_of_guessing_is_told_with_what_to_do(tmp_path, right, loss, said):
    experiment = write_experiment(tmp_path / "x", {"exp": [right, right]}, losses={"exp": loss})
    told = headline(summarise(experiment))
    assert ("above 1.0986, that of guessing" in told) == bool(said) and (said or "") in told


def test_names_of_users_mean_themselves(tmp_path):
    name = "a|b $\\frac{1$ <b>*[x](y) \x1b[31m\n# 花"
    left_out = [f"{number}|.png" for number in range(12)]
    rates = {"_x_.f": [1e-5]}
    experiment = write_experiment(
        tmp_path / "x", {"_x_.f": [50]}, rates=rates, name=name, left_out=left_out, notes=["a | b"]
    )
    summary = summarise(experiment)
    escaped = "a\\|b \\$\\\\frac\\{1\\$ \\<b\\>\\*\\[x\\](y) \\[31m \\# 花"
    assert summary.startswith(f"# Learning-rate schedules on {escaped}\n")
    assert "\n| \\_x\\_.f " in summary and "\n- a \\| b\n" in summary
    assert "12 images (0\\|.png, 1" in summary and "10\\|" not in summary


def test_what_cannot_be_checked_is_said(tmp_path):
    summary = summarise(write_experiment(tmp_path / "x", RIGHT))
    shown = {name: value for name, value in vars(CONDITIONS).items() if value is not None}
    conditions = {name: value for name, value in shown.items() if len(str(value)) < 64}
    for name, value in conditions.items():
        assert f"{name.replace('_', ' ')} {value}" in summary
    assert "9 of 9 runs are finished" in summary
    assert "- Not checked, because kept only once: losses of a grid" in summary


# --- Command ----------------------------------------------------------------------------------


def test_command_prints_the_summary_and_writes_the_same_bytes_each_time(tmp_path):
    experiment = write_experiment(tmp_path / "x", RIGHT)
    # The user's settings of matplotlib change nothing, and a terminal may lack ±.
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9\n")
    unusual = {**os.environ, "MPLBACKEND": "unknown", "PYTHONIOENCODING": "ascii"}
    done = run_command("report.py", experiment, cwd=tmp_path, env=unusual)
    assert (done.returncode, done.stderr) == (0, "")
    paths = [path for path in experiment.rglob("*") if path.suffix in (".md", ".svg")]
    written = {path: path.read_bytes() for path in paths}
    assert len(written) == 4
    summary = write_report(experiment)
    assert done.stdout == summary.encode("ascii", "backslashreplace").decode()
    assert summary == (experiment / "summary.md").read_text(encoding="utf-8")
    assert written == {path: path.read_bytes() for path in written}


def test_a_report_needs_neither_tensorflow_nor_scikit_learn(tmp_path):
    experiment = write_experiment(tmp_path / "x", {"exp": [30, 31]})
    code = (
        "import sys, report; report.main(sys.argv[1:]);"
        "print({'tensorflow', 'keras', 'sklearn', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    done = run_python("-c", code, experiment)
    assert done.stdout.endswith("set()\n"), done.stderr
