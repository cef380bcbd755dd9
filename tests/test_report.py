"""The report: its statistics by simulation, its audit by tampering, its text and plots by their bytes.

TensorFlow is never imported: event files are written with TensorBoard's own record writer.
"""

import json
import math
import os
import signal
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

import report
from logs import ACCURACY, LOSS, RATE, ExperimentError

ROOT = Path(__file__).parents[1]
CONDITIONS = {
    "data": "fingerprint-a",
    "split": "own",
    "image_size": 96,
    "preprocessing": "scale",
    "weights": "sha-a",
    "engine": "keras",
    "batch_size": 64,
    "dropout": 0.2,
}
IMAGES = 3000  # for validation
# Final validation accuracies of three schedules and five seeds, on a grid of 1 / 3000.
FINALS = {
    "exp": [2730, 2736, 2724, 2741, 2733],
    "linear": [2745, 2742, 2747, 2758, 2748],
    "exp_warmup": [2757, 2760, 2749, 2762, 2751],
}
RATES = {"exp": [4e-5, 3e-5, 2e-5], "linear": [4e-5, 4e-5, 4e-6], "exp_warmup": [0.0, 4e-5, 4e-4]}


def write_events(directory, series):
    """Write one event file with `{tag: [value of epoch 0, ...]}` and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "events.out.tfevents.1.host"
    with path.open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(file_version="brain.Event:2").SerializeToString())
        for tag, values in series.items():
            for epoch, value in enumerate(values):
                event = Event(step=epoch)
                event.summary.value.add(tag=tag, simple_value=value)
                writer.write(event.SerializeToString())
    return path


def write_run(experiment, label, seed, rates, accuracy, **conditions):
    """Write a finished run that ends with this validation accuracy; keywords replace conditions."""
    run = experiment / label / f"seed-{seed}"
    rise = np.linspace(0.5, 1, len(rates)) if len(rates) > 1 else np.ones(1)
    curves = np.float32([accuracy * rise * 0.99, 1.2 - rise, accuracy * rise, 1.3 - rise + seed / 100]).tolist()
    write_events(run / "train", {ACCURACY: curves[0], LOSS: curves[1], RATE: rates})
    write_events(run / "validation", {ACCURACY: curves[2], LOSS: curves[3]})
    names = ("categorical_accuracy", "loss", "val_categorical_accuracy", "val_loss")
    result = {
        "schedule": label,
        "seed": seed,
        "epochs": len(rates),
        "conditions": CONDITIONS | conditions,
        "final": {name: curve[-1] for name, curve in zip(names, curves)},
        "best": {"val_categorical_accuracy": max(curves[2]), "val_loss": min(curves[3])},
    }
    (run / "result.json").write_text(json.dumps(result))


def write_experiment(directory, finals=FINALS, rates=RATES, seeds=None, reference=True, **config):
    """Write a whole experiment: `finals` are correct validation images by schedule and seed. Returns the directory."""
    directory.mkdir(parents=True)
    config = {
        "arguments": {"batch_size": 64, "dropout": 0.2},
        "schedules": {label: rates[label] for label in finals},
        "seeds": seeds or max(map(len, finals.values())),
        "data": {
            "name": "scenes",
            "fingerprint": "fingerprint-a",
            "class_names": ["a", "b"],
            "train": {"a": 60, "b": 40},
            "validation": {"a": IMAGES - 1000, "b": 1000},
            "left_out": [],
        }
        | config.pop("data", {}),
        "weights_sha256": "sha-a",
        "git_commit": None,
        "versions": {},
        "notes": [],
    } | config
    (directory / "config.json").write_text(json.dumps(config))
    if reference:
        values = {"val_categorical_accuracy": 0.9213, "val_loss": 0.2074, "C": 0.01, "seconds": 11.0}
        (directory / "reference.json").write_text(json.dumps(values))
    for label, counts in finals.items():
        for seed, count in enumerate(counts):
            if count is not None:
                write_run(directory, label, seed, rates[label], count / IMAGES)
    return directory


def edit_json(path, edit):
    """Change the object in a JSON file in place."""
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def command(*arguments, **options):
    """Run report.py as a user does."""
    line = [sys.executable, ROOT / "report.py", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, **options)


# ----------------------------------------------------------------------------------------------------- statistics


def better_than(scores):
    """Count the verdicts "better than" on scores (schedules, seeds), the best chosen after looking, as in a report."""
    finals = {label: dict(enumerate(of)) for label, of in enumerate(scores)}
    best = int(np.argmax(scores.mean(axis=1)))
    compared = report.comparisons(finals, best, images=10**6)
    return sum(report.verdict(*comparison) == "better than" for comparison in compared.values())


def test_equal_schedules_are_called_better_in_at_most_5_percent_of_comparisons():
    random, repeats = np.random.default_rng(0), 2000
    seeds = random.normal(0.9, 0.01, (repeats, 1, 5))  # what the runs of one seed share
    scores = seeds + random.normal(0, 0.002, (repeats, 4, 5))
    rate = np.mean([better_than(of) > 0 for of in scores])
    assert rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / repeats)
    assert rate > 0.01  # the test is alive: a verdict that is never given would pass the line above


def test_a_difference_of_two_standard_deviations_is_found_at_n_10():
    random, repeats = np.random.default_rng(1), 500
    scores = random.normal(0.9, 0.01, (repeats, 1, 10)) + random.normal(0, 0.002, (repeats, 4, 10))
    scores[:, 2] += 2 * 0.002 * math.sqrt(2)  # of a difference of two runs
    assert np.mean([better_than(of) == 3 for of in scores]) > 0.8


def test_intervals_equal_those_of_scipy():
    finals = {label: {seed: count / IMAGES for seed, count in enumerate(of)} for label, of in FINALS.items()}
    compared = report.comparisons(finals, "exp_warmup", IMAGES)
    assert list(compared) == ["exp", "linear"]
    for label, (n, mean, half) in compared.items():
        test = stats.ttest_rel(FINALS["exp_warmup"], FINALS[label])
        low, high = np.array(test.confidence_interval(1 - 0.05 / 3)) / IMAGES  # three pairs of three schedules
        assert (n, mean - half, mean + half) == (5, pytest.approx(low), pytest.approx(high))
    values = np.array(FINALS["exp"]) / IMAGES
    low, high = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert report.half_width(values) == pytest.approx((high - low) / 2)


def test_interval_of_the_validation_set_equals_that_of_scipy():
    for correct in (2757, IMAGES):
        interval = stats.binomtest(correct, IMAGES).proportion_ci(0.95, "wilson")
        assert report.wilson_half_width(correct / IMAGES, IMAGES) == pytest.approx((interval.high - interval.low) / 2)


def test_equal_differences():
    def compared(best, other):
        finals = {"a": dict(enumerate(best)), "b": dict(enumerate(other))}
        return report.comparisons(finals, "a", images=1000)["b"]

    assert compared([0.91, 0.92], [0.91, 0.92]) == (2, 0, 0)
    assert report.verdict(2, 0, 0) == "not distinguishable from"
    # One image more in both of two runs proves nothing; ten images more in each of five runs do.
    assert report.verdict(*compared([0.901] * 2, [0.9] * 2)) == "not distinguishable from"
    assert report.verdict(*compared([0.91] * 5, [0.9] * 5)) == "better than"


def test_only_seeds_both_have_are_compared():
    finals = {"a": {0: 0.95, 1: 0.8, 2: 0.9}, "b": {1: 0.7, 2: 0.7}, "c": {5: 0.1}, "d": {0: 0.9}}
    compared = report.comparisons(finals, "a", IMAGES)
    assert compared["b"][:2] == (2, pytest.approx(0.15))
    assert compared["c"] == (0, None, None)
    assert compared["d"] == (1, pytest.approx(0.05), None)
    assert [report.verdict(*compared[label]) for label in "cd"] == ["", ""]


def test_the_best_has_the_highest_mean_and_of_equal_ones_the_lower_loss(tmp_path):
    def best(finals, **losses):
        runs = {
            label: report.Runs([0, 1], *[None] * 3, np.array(of)[:, None], np.array([losses.get(label, [1, 1])]).T)
            for label, of in finals.items()
        }
        return report.best_schedule(runs)

    assert best({"a": [0.9, 0.9], "b": [0.95, 0.89], "c": [0.91, 0.91]}) == "b"
    assert best({"a": [0.5, 0.75], "b": [0.75, 0.5]}, a=[2, 2], b=[1, 2]) == "b"


# ---------------------------------------------------------------------------------------------------------- audit


def change_rate(experiment):
    write_events(
        experiment / "linear/seed-3/train", {ACCURACY: [0.1] * 3, LOSS: [1.0] * 3, RATE: [4e-5, 4.00001e-5, 4e-6]}
    )


def change_data(experiment):
    edit_json(experiment / "linear/seed-3/result.json", lambda result: result["conditions"].update(data="other"))


def change_dropout(experiment):
    edit_json(experiment / "linear/seed-3/result.json", lambda result: result["conditions"].update(dropout=0.5))


def change_weights_of_all(experiment):
    edit_json(experiment / "config.json", lambda config: config.update(weights_sha256="sha-b"))


def change_final(experiment):
    edit_json(experiment / "linear/seed-3/result.json", lambda result: result["final"].update(val_loss=0.3))


def change_best(experiment):
    edit_json(
        experiment / "linear/seed-3/result.json", lambda result: result["best"].update(val_categorical_accuracy=0.99)
    )


def remove_result_field(experiment):
    edit_json(experiment / "linear/seed-3/result.json", lambda result: result.pop("best"))


def truncate(experiment):
    (file,) = (experiment / "linear/seed-3/validation").iterdir()
    os.truncate(file, file.stat().st_size - 7)


def lose_last_epoch(experiment):
    write_events(experiment / "linear/seed-3/validation", {ACCURACY: [0.1, 0.2], LOSS: [1.0, 0.5]})


def swap_runs(experiment):
    (experiment / "linear/seed-3").rename(experiment / "kept")
    (experiment / "exp/seed-3").rename(experiment / "linear/seed-3")


def add_seed(experiment):
    write_run(experiment, "linear", 5, RATES["linear"], 0.9)


def add_schedule(experiment):
    write_run(experiment, "other", 0, RATES["linear"], 0.9)


def empty_final(experiment):
    edit_json(experiment / "linear/seed-3/result.json", lambda result: result.update(final=[]))


def word_for_seeds(experiment):
    edit_json(experiment / "config.json", lambda config: config.update(seeds="3"))


def word_in_reference(experiment):
    reference = {"val_categorical_accuracy": 0.9, "val_loss": 0.3, "C": "x"}
    (experiment / "reference.json").write_text(json.dumps(reference))


def nest_deeply(experiment):
    (experiment / "config.json").write_text("[" * 100_000)


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (change_rate, r"linear/seed-3: epoch 1 was logged with rate"),
        (change_data, r"linear/seed-3 cannot be compared: its data is 'other', that of config.json is 'fingerprint-a'"),
        (change_dropout, r"linear/seed-3 cannot be compared: its dropout is 0.5, that of .*exp/seed-0 is 0.2"),
        (
            change_weights_of_all,
            r"exp/seed-0 cannot be compared: its weights is 'sha-a', that of config.json is 'sha-b'",
        ),
        (change_final, r"linear/seed-3: result.json says final val_loss 0.3, the event files say 0.33"),
        (change_best, r"linear/seed-3: result.json says best val_categorical_accuracy 0.99, the event files say 0.919"),
        (remove_result_field, r"linear/seed-3/result.json lacks 'best'"),
        (truncate, r"linear/seed-3/validation/.* is damaged: .* truncated record"),
        (lose_last_epoch, r"linear/seed-3: val_categorical_accuracy is logged for 2 epochs, the schedule has 3"),
        (swap_runs, r"linear/seed-3: result.json is of schedule 'exp', 'linear' belongs here"),
        (add_seed, r"linear/seed-5 is no run of this experiment"),
        (add_schedule, r"other/seed-0 is no run of this experiment"),
        (empty_final, r"experiment: its JSON files are not as train.py wrote them"),
        (word_for_seeds, r"experiment: its JSON files are not as train.py wrote them"),
        (word_in_reference, r"experiment: its JSON files are not as train.py wrote them"),
        (nest_deeply, r"experiment/config.json cannot be read"),
    ],
)
def test_refuses(tmp_path, tamper, message):
    experiment = write_experiment(tmp_path / "experiment")
    tamper(experiment)
    with pytest.raises(ExperimentError, match=message):
        report.write(experiment)
    assert not list(experiment.rglob("*.svg")) and not (experiment / "summary.md").exists()


def test_refuses_an_experiment_without_finished_runs(tmp_path):
    experiment = write_experiment(tmp_path / "experiment", {"exp": [None, None]})
    with pytest.raises(
        ExperimentError, match=r"experiment holds no finished run; train.py --resume .*experiment makes"
    ):
        report.write(experiment)


def test_a_run_that_diverged_is_reported(tmp_path):
    experiment = write_experiment(tmp_path / "experiment", {"exp": [2700, 2710], "linear": [2720, 2730]})
    run = experiment / "exp/seed-1"
    accuracy, loss = [0.5, 0.25, 0.25], [1.0, math.nan, math.nan]
    write_events(run / "train", {ACCURACY: accuracy, LOSS: loss, RATE: RATES["exp"]})
    write_events(run / "validation", {ACCURACY: accuracy, LOSS: loss})
    final = {
        f"{prefix}{name}": of[-1]
        for prefix in ("", "val_")
        for name, of in (("categorical_accuracy", accuracy), ("loss", loss))
    }
    best = {"val_categorical_accuracy": 0.5, "val_loss": 1.0}
    edit_json(run / "result.json", lambda result: result.update(final=final, best=best))
    assert cells(report.write(experiment), "exp")[4].startswith("nan")


# ----------------------------------------------------------------------------------------------------------- text


@pytest.fixture
def no_plots(monkeypatch):
    """Leave the plots empty, which take most of the time and say nothing about the text."""
    for plot in ("comparison_plot", "schedule_plot"):
        monkeypatch.setattr(report, plot, lambda *_, **__: "")


def cells(text, label):
    """Return the cells of the first row of a table, in console text, that starts with this label."""
    row = next(line for line in text.splitlines() if line.startswith(f"{label}  "))
    return [cell.strip() for cell in row.replace("  ", "\t").split("\t") if cell.strip()][1:]


def unwrapped(text):
    """Return text in one line, to find sentences in."""
    return " ".join(text.split())


def test_table_and_verdicts(tmp_path, no_plots):
    text = report.write(write_experiment(tmp_path / "experiment"))
    finals = np.array(FINALS["exp"]) / IMAGES
    half = stats.t.ppf(0.975, 4) * stats.sem(finals)
    differences = (np.array(FINALS["exp_warmup"]) - FINALS["exp"]) / IMAGES
    behind = f"{differences.mean():.4f} ± {stats.t.ppf(1 - 0.05 / 6, 4) * stats.sem(differences):.4f}"
    losses = [0.3 + seed / 100 for seed in range(5)]
    loss = f"{np.mean(losses):.4f} ± {stats.t.ppf(0.975, 4) * stats.sem(losses):.4f}"
    assert cells(text, "exp") == ["5", "3", "3.00e-05", f"{finals.mean():.4f} ± {half:.4f}", loss, behind]
    assert cells(text, "exp_warmup")[-1] == "best"
    assert cells(text, "logistic regression, C = 0.01") == ["0.9213", "0.2074"]
    assert "exp_warmup is better than exp, not distinguishable from linear.\n" in text
    assert f"- exp_warmup is better than exp: {behind}\n" in text
    assert "- exp_warmup is not distinguishable from linear at n = 5: 0.0026 ± 0.0041\n" in text
    assert "Dunn 1961" in text and "every pair of schedules (3)" in unwrapped(text)
    best = np.mean(FINALS["exp_warmup"]) / IMAGES
    assert (
        f"(3,000 images) would move every accuracy by about ± {report.wilson_half_width(best, IMAGES):.4f}"
        in unwrapped(text)
    )
    assert "exp_warmup ends 0.0027 ± 0.0023 below it" in unwrapped(text)


def test_epochs_until_near_the_end_and_best_values(tmp_path, no_plots):
    experiment = write_experiment(tmp_path / "experiment", {"exp": [2700]}, {"exp": [1e-5] * 5})
    accuracy, loss = np.float32([0.85, 0.895, 0.95, 0.85, 0.9]).tolist(), np.float32([1, 0.3, 0.2, 0.3, 0.4]).tolist()
    write_events(experiment / "exp/seed-0/validation", {ACCURACY: accuracy, LOSS: loss})

    def edit(result):
        result["final"] |= {"val_categorical_accuracy": accuracy[-1], "val_loss": loss[-1]}
        result["best"] = {"val_categorical_accuracy": accuracy[2], "val_loss": loss[2]}

    edit_json(experiment / "exp/seed-0/result.json", edit)
    text = report.write(experiment)
    assert cells(text[text.index("best val. accuracy") :], "exp") == ["0.9500", "0.2000", "2.0"]


def test_a_single_run_gives_no_interval(tmp_path, no_plots):
    text = report.write(write_experiment(tmp_path / "experiment", {"exp": [2700], "linear": [2790]}))
    assert cells(text, "exp")[3:] == ["0.9000", "0.3000", "0.0300"]
    assert "linear ends highest, but single runs do not tell whether it is better." in text
    assert "linear ends 0.0300 above exp, but at n = 1 no interval can be given" in text
    assert "A single run (n = 1) tells no spread, so no interval can be given; --seeds 5 gives one." in text
    assert "linear ends 0.0087 above it" in unwrapped(text)
    assert "better than" not in text and "95 % interval" not in text


def test_unequal_numbers_of_epochs_are_compared_and_said(tmp_path, no_plots):
    rates = RATES | {"linear": [4e-5] * 5}
    text = report.write(write_experiment(tmp_path / "unequal", rates=rates))
    assert "Numbers of epochs differ (exp 3, linear 5 and exp_warmup 3)" in unwrapped(text)
    assert cells(text, "linear")[1] == "5"
    assert "Numbers of epochs" not in report.write(write_experiment(tmp_path / "equal"))


def test_an_unfinished_experiment_is_reported(tmp_path, no_plots):
    finals = FINALS | {"exp": [None, 2736, None, 2741], "linear": []}
    text = report.write(write_experiment(tmp_path / "experiment", finals))
    assert [cells(text, label)[0] for label in ("exp", "linear", "exp_warmup")] == ["2 of 5", "0 of 5", "5"]
    assert cells(text, "linear") == ["0 of 5", "3", "2.80e-05"]
    assert "Unfinished: exp has n = 2 of 5 and linear has n = 0 of 5; --resume" in unwrapped(text)
    assert cells(text, "exp")[-1].startswith(f"{(2760 + 2762 - 2736 - 2741) / 2 / IMAGES:.4f} ± ")


def test_markdown_and_console_hold_the_same_cells(tmp_path, no_plots):
    experiment = write_experiment(tmp_path / "experiment")
    text = report.write(experiment)
    summary = (experiment / "summary.md").read_text()
    for label in FINALS:
        row = next(line for line in summary.splitlines() if line.startswith(f"| {label} |"))
        assert [cell.strip() for cell in row.strip("|").split("|")][1:] == cells(text, label)
    for file in experiment.rglob("*.svg"):
        assert f"({file.relative_to(experiment).as_posix()})" in summary
        assert f"  {file}\n" in text


def test_names_of_users_cannot_break_text_or_plots(tmp_path):
    name = "a|b $\\frac{1$ <b>*[x](y) \x1b[31m\n# 花"
    experiment = write_experiment(
        tmp_path / "experiment",
        {"$_x^$": [2700, 2710], "b": [2720, 2725]},
        {"$_x^$": [1e-5] * 3, "b": [0.0] * 3},
        data={"name": name, "left_out": [f"{i}|.png" for i in range(12)]},
        notes=["see | this"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = report.write(experiment)
    assert "\x1b" not in text and "and 2 more, listed in summary.md" in text and "- see | this\n" in text
    summary = (experiment / "summary.md").read_text()
    assert summary.startswith(
        "# 2 learning-rate schedules on a\\|b \\$\\\\frac\\{1\\$ \\<b\\>\\*\\[x\\](y) \\[31m \\# 花\n"
    )
    assert "- 11\\|.png\n" in summary and "Left out, because damaged: 12 images." in summary
    tables = [line for line in summary.splitlines() if line.startswith("| \\$\\_x^\\$ |")]
    assert [line.replace("\\|", "").count("|") for line in tables] == [8, 5, 4]


# ---------------------------------------------------------------------------------------------------------- plots


@pytest.mark.parametrize(
    ("finals", "rates"),
    [
        ({"exp": [2700]}, {"exp": [4e-5]}),
        ({"exp": [2700, 2700]}, {"exp": [0.0] * 2}),
        ({f"s{i}": [2700 + i] for i in range(12)}, {f"s{i}": [10.0**-i] * (i + 1) for i in range(12)}),
    ],
    ids=["one of everything", "no rate at all", "twelve schedules"],
)
def test_plots_of_odd_experiments(tmp_path, finals, rates):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report.write(write_experiment(tmp_path / "experiment", finals, rates, reference=False))
    svg = ElementTree.parse(tmp_path / "experiment/comparison.svg")
    assert len(list(svg.iter("{http://www.w3.org/2000/svg}path"))) > 20
    # Texts are drawn as paths, and repeated in comments: neither epochs nor rates are negative.
    assert "<!-- −" not in (tmp_path / "experiment/comparison.svg").read_text(encoding="utf-8")


def test_names_beside_a_plot_do_not_overlap():
    for heights in ([0.5, 0.5, 0.5], [0.97, 0.96, 0.1], [1, 1, 0.99, 0], list(np.linspace(0, 1, 40))):
        moved = report.apart(heights, 0.06)
        gaps = np.diff(np.sort(moved))
        assert gaps.min() >= min(0.06, 1 / len(heights)) - 1e-9
        assert moved.max() <= 0.97 + 1e-9
    assert report.apart([0.2, 0.6], 0.06).tolist() == [0.2, 0.6]


def test_colours_are_readable_on_light_and_dark():
    def luminance(colour):  # WCAG 2.1
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return np.dot(linear, [0.2126, 0.7152, 0.0722])

    for colour in (report.GREY, *report.COLOURS):
        for background in ("#ffffff", "#0d1117"):
            dark, light = sorted([luminance(colour), luminance(background)])
            assert (light + 0.05) / (dark + 0.05) >= 3, (colour, background)


# -------------------------------------------------------------------------------------------------------- command


def test_command_gives_the_same_bytes_each_time_and_without_tensorflow(tmp_path):
    experiment = write_experiment(tmp_path / "experiment")
    code = (
        "import sys, report; report.main(sys.argv[1:]);"
        "print(sorted({'tensorflow', 'keras', 'sklearn', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, experiment], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    files = {path: path.read_bytes() for path in experiment.rglob("*") if path.suffix in (".svg", ".md")}
    assert done.stdout == report.write(experiment) + "[]\n"
    # Another process, the same bytes: nothing depends on a hash seed or on the time.
    assert files == {path: path.read_bytes() for path in files}
    assert len(files) == 2 + 2 * len(FINALS)


def test_a_terminal_that_knows_no_plus_minus_is_told_all_the_same(tmp_path):
    experiment = write_experiment(tmp_path / "experiment")
    done = command(experiment, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == report.write(experiment).encode("ascii", "backslashreplace").decode()


def test_it_needs_no_standard_output(tmp_path):
    experiment = write_experiment(tmp_path / "experiment")
    done = subprocess.run(
        f'"{sys.executable}" "{ROOT / "report.py"}" "{experiment}" >&-', shell=True, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (experiment / "summary.md").exists()


def test_a_pipe_that_nobody_reads_any_more_ends_it_without_a_word(tmp_path):
    experiment = write_experiment(tmp_path / "experiment")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, ROOT / "report.py", experiment], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")
    assert (experiment / "summary.md").exists()


def test_no_argument_costs_one_line_too():
    done = command()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "report.py: error: the following arguments are required: experiment\n"


def test_a_mistake_costs_one_line(tmp_path):
    done = command(str(tmp_path / "nowhere"))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        f"report.py: error: {tmp_path}/nowhere is no experiment, it holds no config.json; "
        "give a directory train.py made\n"
    )


def test_equal_runs_do_not_prove_a_spread_of_zero_anywhere_in_the_text(tmp_path, no_plots):
    experiment = write_experiment(tmp_path / "experiment", {"exp": [2700, 2700]})  # of 3,000 images
    said = " ".join(report.write(experiment).split())
    assert said.count("0.9000 ± 0.0009") == 3  # headline, final and best
    assert "exp ends 0.0213 ± 0.0009 below it" in said


@pytest.mark.parametrize("rates", [[5e-324, 1e-3, 0.0], [4e-5, 1e-300, 0.0], [0.0, 0.0], [1e-3, 1e-4], [5e-324]])
def test_any_rates_can_be_drawn(rates):
    figure = Figure()
    axes = figure.add_subplot()
    report.set_rates(axes, [np.array(rates)])
    axes.plot(rates)
    figure.draw_without_rendering()
