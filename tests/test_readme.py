"""What the README says is what the repository holds."""

import re
import shlex
import shutil
from dataclasses import replace

import pytest
from conftest import PROJECT
from experiment_files import write_report
from test_layers import MODULES

import train
from storage import results

README = (PROJECT / "README.md").read_text(encoding="utf-8")
# Folder of a committed experiment -> its number of runs.
COMMITTED = {"tensorboard/intel": 40, "tensorboard/intel-tuned": 50}


def between(marker):
    """The text of the README between `<!-- marker -->` and its end."""
    return re.search(f"<!-- {marker} -->\n(.*?)<!-- /{marker} -->", README, re.DOTALL)[1].strip()


@pytest.mark.parametrize(
    ("marker", "folder"),
    [
        ("intel-tuned", "tensorboard/intel-tuned"),
        ("digits-tuned", "docs/digits-tuned"),
        ("digits-fine-tuned", "docs/digits-fine-tuned"),
        ("intel", "tensorboard/intel"),
    ],
)
def test_the_tables_are_those_of_the_committed_summaries(marker, folder):
    summary = (PROJECT / folder / "summary.md").read_text(encoding="utf-8")
    assert between(marker) in summary and between(marker).startswith("| schedule")


@pytest.mark.parametrize("folder", COMMITTED)
def test_a_committed_experiment_passes_its_audit_and_gives_its_summary(folder, tmp_path):
    copy = shutil.copytree(PROJECT / folder, tmp_path / "copy")
    write_report(copy)
    places = copy, PROJECT / folder
    first, second = ((place / "summary.md").read_bytes() for place in places)
    assert first == second
    # Other versions of Matplotlib write other coordinates, but the same texts, as comments.
    plots = ((place / "comparison.svg").read_text("utf-8") for place in places)
    first, second = (re.findall("<!-- (.*) -->", plot) for plot in plots)
    assert first == second != []
    config = results.read_config(copy)
    assert len(results.finished_runs(copy)) == COMMITTED[folder]
    name = re.escape(folder.removeprefix("tensorboard/"))
    command = re.search(rf"python train.py (--schedule .* --name {name})\n", README)[1]
    stated = train.parse_arguments(shlex.split(command)).settings
    assert replace(config.settings, schedule=list(config.settings.schedule)) == stated


def test_committed_experiments_are_small_and_without_heads():
    files = [path for folder in COMMITTED for path in (PROJECT / folder).rglob("*")]
    kept = [path for path in files if path.is_file() and path.name != results.WEIGHTS]
    assert sum(path.stat().st_size for path in kept) < 8e6


def test_every_file_the_readme_names_is_there():
    for target in set(re.findall(r"\]\(([^)#:]+)\)", README)):
        assert (PROJECT / target).exists(), target
    modules = {str(path.relative_to(PROJECT)) for path in MODULES if path.stem != "__init__"}
    assert modules == set(re.findall(r"\]\(((?:\w+/)?\w+\.py)\)", README))


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"python train\.py (--schedule [^#\n`]*)", README)))
)
def test_every_command_of_the_readme_is_understood(command):
    settings = train.parse_arguments(shlex.split(command)).settings
    for name in settings.schedule:
        assert name in {"all", "mine.py:falling", *train.schedulers.SCHEDULES}


def test_the_first_screen_has_plots_table_and_both_commands():
    first = "\n".join(README.splitlines()[:45])
    for part in ("tuning.svg", "<!-- intel-tuned -->", "-m pytest", "train.py --schedule"):
        assert part in first
