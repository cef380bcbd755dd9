"""What the README says is what the repository holds."""

import re
import shutil
from pathlib import Path

import logs
import pytest

import report
import train

PROJECT = Path(train.__file__).parent
README = (PROJECT / "README.md").read_text(encoding="utf-8")
INTEL = PROJECT / "tensorboard" / "intel"


def between(marker):
    """The lines of the README between `<!-- marker -->` and its end."""
    return (
        re.search(f"<!-- {marker} -->\n(.*?)<!-- /{marker} -->", README, re.DOTALL)[1]
        .strip()
        .splitlines()
    )


def rows(lines):
    """The cells of a Markdown table, without the rule below its header."""
    table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]
    return [row for row in table if not set("".join(row)) <= set("-:")]


def test_the_results_are_those_of_the_committed_summary():
    summary = (INTEL / "summary.md").read_text(encoding="utf-8").split("\n\n")
    first_table = next(block for block in summary if block.startswith("| schedule"))
    assert rows(between("results")) == rows(first_table.splitlines())


def test_the_committed_experiment_passes_its_audit_and_gives_the_committed_summary(tmp_path):
    shutil.copytree(INTEL, tmp_path / "intel")
    (tmp_path / "intel/summary.md").unlink()
    report.write(tmp_path / "intel")
    assert (tmp_path / "intel/summary.md").read_bytes() == (INTEL / "summary.md").read_bytes()


def test_the_committed_experiment_is_small_whole_and_made_by_the_command_in_the_readme():
    assert sum(path.stat().st_size for path in INTEL.rglob("*") if path.suffix != ".keras") < 5e6
    config = logs.read_json(INTEL / "config.json")
    command = re.search(r"python train.py (--schedule .* --name intel)\n", README)[1]
    stated = vars(train.options_from([word.strip("'") for word in command.split()]))
    assert config["arguments"] == stated
    assert config["seeds"] >= 5
    assert len(logs.run_directories(INTEL)) == 4 * config["seeds"]


def test_every_file_the_readme_names_is_there():
    for target in set(re.findall(r"\]\(([^)#:]+)\)", README)):
        assert (PROJECT / target).exists(), target


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"python train\.py (--schedule [^#\n]*)", README)))
)
def test_every_command_of_the_readme_is_understood(command):
    options = train.options_from([word.strip("'") for word in command.split()])
    for name in options.schedule:
        assert name in {"all", "mine.py:cosine", *train.schedulers.SCHEDULES}


def test_the_first_screen_has_plot_table_and_both_commands():
    first = "\n".join(README.splitlines()[:40])
    assert "comparison.svg" in first and "<!-- results -->" in first and "-m pytest" in first
    assert "train.py --schedule exp_warmup" in first
