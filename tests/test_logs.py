"""Files that are whole or absent, and event files that are read back completely or not at all."""

import os
import stat

import logs
import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter


def write_events(path, scalars):
    """Write an event file with scalars `[(tag, step, value)]`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for tag, step, value in scalars:
            event = Event(step=step)
            event.summary.value.add(tag=tag, simple_value=value)
            writer.write(event.SerializeToString())


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    logs.write_whole(path, "old ±")

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        logs.write_whole(path, "new")
    assert path.read_text(encoding="utf-8") == "old ±"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_written_file_can_be_read_by_those_the_umask_allows(tmp_path):
    umask = os.umask(0o027)
    try:
        logs.write_whole(tmp_path / "file", b"")
    finally:
        assert os.umask(umask) == 0o027
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_json_is_read_back_or_refused(tmp_path):
    path = tmp_path / "a.json"
    logs.write_json(path, {"name": "Wälder", "rates": [4e-5 * 0.9, 0.0]})
    assert logs.read_json(path) == {"name": "Wälder", "rates": [4e-5 * 0.9, 0.0]}
    for content in ("[1]", '{"name": ', None):
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(logs.ExperimentError, match=r"a\.json"):
            logs.read_json(path)


def test_only_finished_runs_are_listed_in_the_order_of_their_seeds(tmp_path):
    for run in ("linear/seed-2", "linear/seed-10", "exp/seed-0", "exp/seed-0-old"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "result.json").touch()
    (tmp_path / "exp/seed-1/train").mkdir(parents=True)
    assert logs.run_directories(tmp_path) == [
        tmp_path / run for run in ("exp/seed-0", "linear/seed-2", "linear/seed-10")
    ]


def test_scalars_of_several_files_are_joined_in_the_order_of_their_steps(tmp_path):
    write_events(tmp_path / "2.tfevents", [("epoch_loss", 0, 0.1)])
    write_events(tmp_path / "1.tfevents", [("epoch_loss", 1, 0.2), ("other", 7, 3.0)])
    assert logs.scalars(tmp_path) == {"epoch_loss": [np.float32(0.1), np.float32(0.2)], "other": [3.0]}


def test_scalars_that_are_not_whole_are_refused(tmp_path):
    def scalars(name, *events):
        write_events(tmp_path / name / "1.tfevents", events)
        return logs.scalars(tmp_path / name)

    with pytest.raises(logs.ExperimentError, match="epoch_loss is logged twice for epoch 1"):
        scalars("twice", ("epoch_loss", 0, 1.0), ("epoch_loss", 1, 1.0), ("epoch_loss", 1, 1.0))
    with pytest.raises(logs.ExperimentError, match="epoch_loss is missing for epoch 1"):
        scalars("gap", ("epoch_loss", 0, 1.0), ("epoch_loss", 2, 1.0))
    with pytest.raises(logs.ExperimentError, match="nothing holds no event file"):
        logs.scalars(tmp_path / "nothing")


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_event_file_is_refused(tmp_path, damage):
    file = tmp_path / "1.tfevents"
    write_events(file, [("epoch_loss", 0, 1.0), ("epoch_loss", 1, 2.0)])
    content = bytearray(file.read_bytes())
    content[-6] ^= 1
    file.write_bytes(content if damage == "flipped" else content[:-3])
    with pytest.raises(logs.ExperimentError, match=r"1\.tfevents is damaged"):
        logs.scalars(tmp_path)


def test_rates_are_compared_as_the_optimizer_holds_them(tmp_path):
    rates = [4e-5 * 0.9**epoch for epoch in range(3)]
    write_events(tmp_path / "train/1.tfevents", [(logs.RATE, epoch, rate) for epoch, rate in enumerate(rates)])
    logged = logs.scalars(tmp_path / "train")
    logs.check_rates(tmp_path, logged, rates)
    logs.check_rates(tmp_path, logged, np.array(rates))
    off = float(np.nextafter(np.float32(rates[2]), np.float32(1)))
    with pytest.raises(logs.ExperimentError, match="epoch 2 was logged with rate"):
        logs.check_rates(tmp_path, logged, [*rates[:2], off])
    with pytest.raises(logs.ExperimentError, match="3 epochs are logged, the schedule has 2"):
        logs.check_rates(tmp_path, logged, rates[:2])
