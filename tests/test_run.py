"""A run is what its seed and its schedule make it, to the last bit, and training on features is training on images."""

import filecmp
import subprocess
import sys
from pathlib import Path

import logs
import numpy as np
import pytest
import run

import data
import features
import model

keras = pytest.importorskip("keras")

SIZE = 32
RATES = [0.0, 1e-3, 2e-3]  # the report's warm-ups too begin with a rate of 0


@pytest.fixture(scope="module")
def prepared(images, tmp_path_factory):
    """`(data set, features)` of the 24 images."""
    dataset = data.load(str(images))
    return dataset, features.extract(dataset, SIZE, "scale", "imagenet", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def a_run(prepared, tmp_path):
    """A function that makes a Run of three epochs in a folder of its own."""
    dataset, found = prepared

    def made(name="run", **changes):
        sides = dataset.rows[~dataset.validation], dataset.rows[dataset.validation]
        directory = str(tmp_path / name)
        whole = run.Run(
            directory, "own", 0, RATES, str(found.directory), found.shape, dataset.labels, *sides, 3, 5, 0.2, {"a": 1}
        )
        return whole._replace(**changes)

    return made


def logged(directory):
    """All scalars of a run: `{(side, tag): values}`."""
    sides = (run.TRAIN, run.VALIDATION)
    return {(side, tag): values for side in sides for tag, values in logs.scalars(f"{directory}/{side}").items()}


def test_training_on_features_is_training_through_the_whole_frozen_model(prepared, a_run):
    dataset, _ = prepared
    ours = a_run(dropout=0.0, batch_size=7)
    run.train(ours)
    pixels = [data.decode(encoded) for _, encoded in dataset.encoded(np.ones(24, bool))]
    whole = model.joined(model.head_layers(3, 0.0, seed=0), SIZE)
    accuracy = ["sparse_categorical_accuracy"]
    whole.compile(keras.optimizers.Adam(), loss="sparse_categorical_crossentropy", metrics=accuracy)
    ours_logged = logged(ours.directory)
    for epoch, rate in enumerate(RATES):
        rows = run.order(ours.seed, epoch, ours.train)
        whole.optimizer.learning_rate = rate
        images = np.stack([pixels[row] for row in rows])
        history = whole.fit(images, dataset.labels[rows], batch_size=7, shuffle=False, verbose=0).history
        held_out = np.stack([pixels[row] for row in ours.validation])
        loss, accuracy = whole.evaluate(held_out, dataset.labels[ours.validation], verbose=0)
        assert ours_logged["train", logs.LOSS][epoch] == pytest.approx(history["loss"][0], abs=1e-4)
        assert ours_logged["validation", logs.LOSS][epoch] == pytest.approx(loss, abs=1e-4)
        assert ours_logged["validation", logs.ACCURACY][epoch] == pytest.approx(accuracy, abs=1e-6)
    assert history["loss"][0] < ours_logged["train", logs.LOSS][0]  # something was learned


def test_logs_hold_every_epoch_once_and_the_rates_of_the_schedule(a_run):
    told = []
    result = run.train(a_run(), lambda run, epoch, numbers: told.append((epoch, numbers["val_loss"])))
    scalars = logged(a_run().directory)
    for side in (run.TRAIN, run.VALIDATION):
        assert len(scalars[side, logs.ACCURACY]) == len(scalars[side, logs.LOSS]) == len(RATES)
    assert scalars[run.TRAIN, logs.RATE] == [np.float32(rate) for rate in RATES]
    assert [epoch for epoch, _ in told] == [0, 1, 2]
    assert np.float32(result["final"]["val_loss"]) == scalars[run.VALIDATION, logs.LOSS][-1] == np.float32(told[-1][1])
    assert result["best"]["val_loss"] == min(loss for _, loss in told)
    assert result == logs.read_json(f"{a_run().directory}/result.json")


def test_event_files_do_not_hold_the_host_in_their_names(a_run, tmp_path):
    run.train(a_run())
    assert {path.name for path in tmp_path.rglob("*tfevents*")} == {"events.out.tfevents.v2"}


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(a_run):
    first, second, other = (a_run(name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    results = [run.train(each) for each in (first, second, other)]
    assert results[0] == results[1] != results[2]
    assert logged(first.directory) == logged(second.directory) != logged(other.directory)
    assert filecmp.cmp(f"{first.directory}/result.json", f"{second.directory}/result.json", shallow=False)


def test_schedules_with_equal_rates_give_equal_runs_of_a_seed(a_run):
    first, second = a_run("a", schedule="one"), a_run("b", schedule="two")
    run.train(first), run.train(second)
    assert logged(first.directory) == logged(second.directory)


def test_dropout_and_rates_change_a_run(a_run):
    numbers = [
        run.train(each)["final"]["loss"]
        for each in (a_run("a"), a_run("b", dropout=0.0), a_run("c", rates=[0.0, 1e-3, 1e-3]))
    ]
    assert len(set(numbers)) == 3


@pytest.mark.parametrize("rate", [0.0, 1e-6, 0.2, 0.5, 0.99, 1 - 1e-9])
def test_dropout_drops_its_share_anywhere_and_scales_what_it_keeps(rate):
    values = np.ones((64, model.FEATURES), np.float32)
    left = np.stack([run.dropped_out(values, rate, 0, step) for step in range(20)])  # (20, 64, 1280)
    limit = min(round(rate * 2**16), 2**16 - 1)
    assert set(np.unique(left)) <= {0, np.float32(2**16 / (2**16 - limit))}
    dropped = (left == 0).astype(float)
    assert dropped.mean() == pytest.approx(rate, abs=0.002)
    if 0.1 < rate < 0.9:  # every step, image and feature alike, and neighbours, which share a draw, independently
        for axes, tolerance in (((1, 2), 0.01), ((0, 2), 0.02), ((0, 1), 0.1)):
            assert abs(dropped.mean(axes) - rate).max() < tolerance
        assert abs(np.corrcoef(dropped[..., ::2].ravel(), dropped[..., 1::2].ravel())[0, 1]) < 0.01


def test_what_is_dropped_depends_on_seed_and_step():
    values = np.ones((5, 64), np.float32)
    left = {(seed, step): run.dropped_out(values, 0.5, seed, step).numpy() for seed in range(3) for step in range(3)}
    assert len({each.tobytes() for each in left.values()}) == 9
    np.testing.assert_array_equal(run.dropped_out(values, 0.5, 2, 1), left[2, 1])


def test_a_training_step_is_traced_once(a_run, monkeypatch):
    traced = []
    real = run.dropped_out
    monkeypatch.setattr(run, "dropped_out", lambda *arguments: traced.append(arguments) or real(*arguments))
    run.train(a_run())
    assert len(traced) == 1


def test_what_an_unfinished_run_left_is_gone_after_its_repetition(a_run, tmp_path):
    run.train(a_run("whole"))
    for leftover in ("train/events.out.tfevents.1.other.host", "seed.tmp"):
        (tmp_path / "again" / leftover).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "again" / leftover).write_bytes(b"half")
    run.train(a_run("again"))
    names = [sorted(path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*"))
             for name in ("whole", "again")]  # fmt: skip
    assert names[0] == names[1]
    assert logged(tmp_path / "whole") == logged(tmp_path / "again")


def test_an_order_holds_every_row_once_and_depends_on_seed_and_epoch():
    rows = np.arange(5, 900, 3)
    orders = {(seed, epoch): run.order(seed, epoch, rows) for seed in range(2) for epoch in range(2)}
    for found in orders.values():
        np.testing.assert_array_equal(np.sort(found), rows)
    assert len({found.tobytes() for found in orders.values()}) == 4
    np.testing.assert_array_equal(run.order(1, 1, rows), orders[1, 1])


def test_features_are_mapped_not_copied(tmp_path):
    # In a process of its own, since memory that was once taken is not given back; 128 MiB are hard to miss.
    rows = 26_000
    np.zeros((rows, model.FEATURES), np.float32).tofile(tmp_path / "features.f32")
    line = [sys.executable, "-c", MAPPED, str(tmp_path), str(rows)]
    grown = subprocess.run(line, capture_output=True, text=True, check=True, cwd=Path(run.__file__).parent).stdout
    assert float(grown) < 60, "MiB"


MAPPED = """
import re, sys
import numpy as np
import quiet, run
quiet.tensorflow()

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

directory, rows = sys.argv[1], int(sys.argv[2])
every = np.arange(rows)
sides = every[: rows // 2], every[rows // 2 :]
labels = np.zeros(rows, np.int32)
a_run = run.Run("", "own", 0, [1e-3], directory, (rows, 1280), labels, *sides, 2, 64, 0.2, {})
for each in (a_run._replace(train=every[:64], validation=every[:64]), a_run):
    before = anonymous()
    held_out = run._once(each.validation)
    run.trainable_head(each).fit(run._orders(each), steps_per_epoch=1, verbose=0, validation_data=held_out)
print(anonymous() - before)
"""


def test_workers_end_with_their_block_whatever_is_left_to_do(tmp_path):
    # As a file, since worker processes import it.
    script = tmp_path / "script.py"
    script.write_text(WORKERS)
    line = [sys.executable, script, Path(run.__file__).parent]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("['MainThread'] []\n", "")


WORKERS = """
import multiprocessing.queues, sys, threading, time
sys.path.insert(0, sys.argv[1])
import run

join_thread = multiprocessing.queues.Queue.join_thread

def slowly(queue):  # as on a busy machine
    time.sleep(0.5)
    join_thread(queue)

if __name__ == "__main__":
    with run.workers(1) as (executor, _):
        executor.submit(int).result()
        executor.submit(time.sleep, 60)
        for _ in range(3):  # larger than a pipe, where they wait to be taken
            executor.submit(len, bytes(1_000_000))
        time.sleep(0.5)
        multiprocessing.queues.Queue.join_thread = slowly
    # Python waits for threads that are no daemons when it ends, and talks to this one meanwhile.
    print([each.name for each in threading.enumerate() if not each.daemon], multiprocessing.active_children())
"""
