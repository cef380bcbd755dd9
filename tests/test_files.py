"""Files are whole or absent, locks hold, and only temporary files of dead processes are removed."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import PROJECT, run_command, run_python

from runtime import files
from runtime.messages import Refusal, printable
from training import runs


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    files.write_atomically(path, "old")
    path.with_name("folder").mkdir()
    with pytest.raises(TypeError):
        files.write_atomically(path, 1)
    with pytest.raises(OSError) as refused:
        files.write_atomically(tmp_path / "folder", "new")  # A folder cannot be replaced by a file.
    assert refused.value.filename == str(tmp_path / "folder")
    assert path.read_text() == "old" and sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_json_is_read_back_or_refused(tmp_path):
    path = tmp_path / "value.json"
    value = {"name": "é\udcff", "values": [1.5, None, True]}
    files.write_json(path, value)
    assert files.read_json(path) == value
    for content in ("{", "[]", "", "\xff"):
        path.write_bytes(content.encode("latin-1"))
        with pytest.raises(Refusal, match=r"value\.json"):
            files.read_json(path)
    with pytest.raises(ValueError):
        files.write_json(path, float("nan"))


def test_only_temporary_files_of_the_projects_own_naming_are_removed(tmp_path):
    # A process that is killed in the middle of a write leaves its temporary file.
    code = "import os; from runtime import files; os.replace = lambda *_: os._exit(9)\n"
    code += f"files.write_atomically({str(tmp_path / 'config.json')!r}, 'half')"
    run_python("-c", code)
    assert len(os.listdir(tmp_path)) == 1
    kept = [tmp_path / name for name in (".a.0123456.tmp", ".notes.tmp", "config.json")]
    for path in kept:
        path.write_text("")
    runs.recover(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_a_directory_is_locked_by_one_process_at_a_time(tmp_path):
    folder = f"pathlib.Path({str(tmp_path)!r})"
    code = f"import pathlib; from runtime import files\nwith files.lock({folder}): pass"
    with files.lock(tmp_path):
        assert "another process is working on it" in run_python("-c", code).stderr
    assert run_python("-c", code).returncode == 0


@pytest.mark.parametrize("whole", [True, False])
def test_a_replacement_that_was_killed_between_two_renames_is_undone_or_ended(tmp_path, whole):
    old, run = tmp_path / "exp/.seed-0.old", tmp_path / "exp/seed-0"
    for path in (old, tmp_path / "exp/.seed-1.new", *([run] if whole else [])):
        path.mkdir(parents=True)
        (path / "result.json").write_text(path.name)
    runs.recover(tmp_path)
    assert os.listdir(tmp_path / "exp") == ["seed-0"]
    assert (run / "result.json").read_text() == ("seed-0" if whole else ".seed-0.old")


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path):
    pipe = tmp_path / "config.json"
    os.mkfifo(pipe)
    for use in (files.hash_file, files.read_json):
        with pytest.raises((OSError, Refusal), match="not a regular file"):
            use(pipe)
    weights = ["--schedule", "exp", "--weights", pipe]
    for command in (["train.py", *weights], ["predict.py", pipe, "x.png"], ["report.py", tmp_path]):
        done = run_command(*command, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_reason_not_to_work(tmp_path, closed):
    line = f"{sys.executable} {PROJECT / 'schedulers.py'} exp {closed}"
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    report = f"{sys.executable} {PROJECT / 'report.py'} {tmp_path / 'copy'} {closed}"
    shutil.copytree(PROJECT / "tensorboard/intel", tmp_path / "copy")
    (tmp_path / "copy/summary.md").unlink()
    assert subprocess.run(report, shell=True).returncode == 0
    assert (tmp_path / "copy/summary.md").exists()


def test_no_control_character_reaches_a_terminal():
    text = "a\x1b[31m\nb\rc\x9b"
    assert printable(text) == "a\\x1b[31m\nb\\rc\\x9b"
    assert printable("plain é\n花") == "plain é\n花"
