"""The benchmark, run for real on as little as it takes, and its table; how fast anything is, is not tested."""

import concurrent.futures
import math
import multiprocessing
import re

import pytest

import bench
import data

TINY = bench.Sizes(images=48, keras=24, rows=300, rounds=3, epochs=2, image_size=96)
ROWS = {  # what, and what it is compared with
    ("extraction, files to features on disk", "bare LiteRT pass"),
    ("extraction, files to features on disk", "Keras, backbone in every step"),
    ("bare LiteRT pass, the limit", "Keras, backbone in every step"),
    ("once: import of TensorFlow", "bare LiteRT pass of 48 images"),
    ("once: first look at all images", "bare LiteRT pass of 48 images"),
    ("once: conversion to LiteRT", "bare LiteRT pass of 48 images"),
    ("epoch on 300 features", "Keras `fit` on arrays"),
    ("four runs, cold cache", "bare LiteRT pass of 48 images"),
    ("four runs, cold cache", "Keras, extrapolated to 8 epochs of 48 images"),
    ("four runs, warm cache", "four runs, cold cache"),
    *(
        (f"four runs, cold, {times}x images: {what}", "1x images")
        for times in (2, 4)
        for what in ("time", "peak memory of the largest process", "the same without mapped files")
    ),
    ("`train.py --help`", '`python -c "pass"`'),
    ("`train.py --schedule exq`, a typing error", '`python -c "pass"`'),
}
LINE = re.compile(r"\| (.+) \| ([\d.,]+) (\S+) \| (.+): ([\d.,]+) (\S+) \| (1/)?([\d.,]+) \|")


def number(text):
    """A number as the table shows it."""
    return float(text.replace(",", ""))


@pytest.fixture(scope="module")
def result():
    """`(rows, Markdown)` of a tiny benchmark: one process for all that has its own otherwise, and one cold command."""
    real, known = bench.four_runs, []

    def four_runs(images, parts, sizes, cold=True):
        if not cold:
            return real(images, parts, sizes, cold=False)
        known[:] = known or [real(images, bench.PARTS, sizes)]
        return known[0]

    context = multiprocessing.get_context("spawn")
    with (
        concurrent.futures.ProcessPoolExecutor(1, context) as executor,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(
            bench,
            "fresh",
            lambda function, *arguments: executor.submit(function, *arguments).result(),
        )
        patch.setattr(bench, "four_runs", four_runs)
        patch.setattr(bench, "STARTS", 1)
        return bench.bench(None, TINY, 1)


def test_every_row_is_there_with_numbers(result):
    rows, _ = result
    assert {(row.what, row.compared) for row in rows} == ROWS and len(rows) == len(ROWS)
    for row in rows:
        assert len(row.ours) == len(row.theirs) == 1
        assert all(math.isfinite(value) and value > 0 for value in row.ours + row.theirs), row


def test_the_ratio_is_the_quotient_of_what_is_shown(result):
    rows, text = result
    lines = [line for line in map(LINE.fullmatch, text.splitlines()) if line]
    assert len(lines) == len(rows)
    for line in lines:
        what, ours, unit, compared, theirs, their_unit, inverse, ratio = line.groups()
        assert (what, compared) in ROWS and unit == their_unit
        shown = 1 / number(ratio) if inverse else number(ratio)
        assert shown == pytest.approx(number(ours) / number(theirs), rel=0.02), line[0]


def test_head_names_the_machine_and_no_place(result):
    head = result[1].splitlines()[0]
    assert re.search(r"\d cores; TensorFlow \d\S+, Keras \d\S+, LiteRT \d", head)
    assert "/" not in head and not any(marker in result[1] for marker in bench.MARKERS)


def test_ratio_of_medians_with_its_range_over_repeats():
    row = bench.Row("a", [30.0, 10.0, 20.0], "b", [10.0, 5.0, 10.0], "s")
    assert bench.table_line(row) == "| a | 20.0 s | b: 10.0 s | 2.00 (2.00 to 3.00) |"
    row = bench.Row("a", [3.0], "b", [1200.0], "s")
    assert bench.table_line(row) == "| a | 3.00 s | b: 1,200 s | 1/400 |"


def test_quarters_hold_all_classes_and_no_image_twice(tmp_path):
    count, classes = bench.written_records(bench.generated(96), tmp_path)
    assert (count, classes) == (96, bench.CLASSES)
    images = bench.Images("generated", tmp_path, count, classes, 96)
    parts = {parts: data.load(None, *images.globs(parts)) for parts in (1, 2, 4)}
    assert {parts: len(dataset.rows) for parts, dataset in parts.items()} == {1: 24, 2: 48, 4: 96}
    assert all(min(sides) >= 1 for sides in parts[1].counts().values())
    assert set(parts[1].digests) < set(parts[2].digests) < set(parts[4].digests)
    assert len(set(parts[4].digests)) == 96
    sizes = [len(encoded) for _, encoded in parts[4].encoded([True] * 96)]
    assert 12_000 < sum(sizes) / 96 < 14_000


def test_a_sample_keeps_every_class_on_both_sides(tmp_path):
    bench.written_records(bench.generated(240), tmp_path)
    dataset = bench.Images("generated", tmp_path, 240, bench.CLASSES, 96).dataset()
    rows = bench.spread(dataset, 60)
    kept = dataset.without(set(range(240)) - set(rows.tolist()))
    assert 60 <= len(rows) < 80
    assert all(min(sides) >= bench.PARTS for sides in kept.counts().values())


def test_memory_of_a_process_and_its_descendants():
    table = {1: (0, 5, 5), 2: (1, 5, 5), 3: (2, 5, 5), 4: (1, 5, 5)}
    assert [process for process in table if bench.descends(process, 2, table)] == [2, 3]
    usage = bench.used(["-c", "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = bytearray(3 << 26); "
                              "import time; time.sleep(1)'])"])  # fmt: skip
    assert 192 < usage.anonymous <= usage.peak < 400 and usage.seconds > 1


def test_a_failing_command_tells_its_error():
    with pytest.raises(RuntimeError, match="no such thing"):
        bench.used(["-c", "import sys; sys.exit('no such thing')"])


def test_table_goes_between_markers(tmp_path):
    readme = tmp_path / "README.md"
    bench.put("new", readme)
    assert readme.read_text() == "<!-- bench -->\nnew\n<!-- /bench -->\n"
    readme.write_text("# before\n<!-- bench -->\nold\n<!-- /bench -->\n\nafter\n")
    bench.put("new", readme)
    assert readme.read_text() == "# before\n<!-- bench -->\nnew\n<!-- /bench -->\n\nafter\n"
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="add them"):
        bench.put("new", readme)
    assert readme.read_text() == "no markers"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--train", "nothing*"], "--test GLOB is missing"), (["--repeats", "0"], "must be >= 1")],
)
def test_mistakes_are_told_in_one_line(arguments, message, capfd):
    with pytest.raises(SystemExit) as exit_:
        bench.main(arguments)
    errors = capfd.readouterr().err.splitlines()
    assert (
        exit_.value.code == 2
        and message in errors[-1]
        and errors[-1].startswith("bench.py: error: ")
    )
