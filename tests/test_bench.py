"""The benchmark for real on a few images, and its parts; how fast anything is, is not tested."""

import sys
from argparse import Namespace

import numpy as np
import pytest
from conftest import run_command

import bench
import data


@pytest.mark.faults  # Not a fault, but it takes a minute.
def test_a_run_puts_every_row_between_the_markers_of_a_file(tmp_path):
    (tmp_path / "page.md").write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    options = ("--images", "48", "--repeats", "1", "--output", "page.md")
    finished, page = run_command("bench.py", *options, cwd=tmp_path), tmp_path / "page.md"
    assert page.read_text() == f"before\n<!-- bench -->\n{finished.stdout}<!-- /bench -->\nafter\n"
    for row, line in zip(bench.TABLE, finished.stdout.splitlines()[5:], strict=True):
        _, what, ours, compared, theirs, *_ = (cell.strip() for cell in line.split("|"))
        assert (what, compared) == row[0:3:2] and ours[0].isdigit() and theirs[0].isdigit()


def test_a_row_holds_medians_their_ratio_and_its_range():
    others = dict.fromkeys((name for row in bench.TABLE for name in row[1:4:2]), 1.0)
    pairs = ((10, 40), (5, 50), (20, 2000))
    table = bench.make_table([others | {"warm s": warm, "cold s": cold} for warm, cold in pairs], 9)
    row = "| four runs, warm cache | 10 s | four runs, cold cache | 50 s | 0.2 (0.01 to 0.25) |"
    assert row in table.splitlines()


@pytest.mark.parametrize("source", [None, "digits"])
def test_a_fourth_of_the_images_has_every_class_on_both_sides(source, tmp_path):
    assert bench.write_images(tmp_path, Namespace(data=source, train=None, test=None, images=400))
    whole, fourth = (data.load(str(tmp_path / part)) for part in ("all", "quarter"))
    assert len(set(fourth.digests)) == 100 and set(fourth.digests) < set(whole.digests)
    for counts, in_fourth in zip(whole.counts().values(), fourth.counts().values(), strict=True):
        assert in_fourth == pytest.approx(np.array(counts) / 4, abs=1)


def test_the_memory_of_a_process_is_measured_with_and_without_mapped_files(tmp_path):
    (tmp_path / "file").write_bytes(b"1" * (64 << 20))
    scripts = ("pass", "own = b'1' * (192 << 20); print(numpy.memmap(sys.argv[1]).max())")
    runs = [f"import numpy, sys, time; {script}; time.sleep(0.3)" for script in scripts]
    (_, bare), (output, took) = (bench.run("-c", line, tmp_path / "file") for line in runs)
    assert output == "49\n" and took["s"] > 0.3
    assert took["RssAnon"] - bare["RssAnon"] == pytest.approx(192, abs=3)
    assert took["VmHWM"] - bare["VmHWM"] == pytest.approx(256, abs=3)


@pytest.mark.parametrize("mistake", ["--images 40", "--train nothing*", "--output page.md"])
def test_a_mistake_is_told_in_one_line_with_its_name(mistake, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.md").write_text("no markers")
    with pytest.raises(SystemExit) as ended:
        sys.exit(bench.main(mistake.split()))
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.count("\n") == 1
    assert mistake.split()[0] in told or "page.md" in told
