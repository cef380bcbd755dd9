"""Features are the backbone's, bit-identical however they are computed, and the cache is right."""

import functools
import os
import pickle
import subprocess
import sys
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import write_images

import data
import features
import model

SIZE = 32
ROW = 4 * model.FEATURES  # bytes
convert_once = functools.cache(model.litert_graphs)


@pytest.fixture(scope="module")
def dataset(images):
    return data.load(str(images))


@pytest.fixture(autouse=True)
def small_shards_and_one_conversion(monkeypatch):
    monkeypatch.setattr(features, "SHARD", 10)  # 24 images: shards of 10, 10 and 4
    monkeypatch.setattr(model, "litert_graphs", convert_once)


def extract(dataset, cache, kind="scale", skip_damaged=False, threads=2):
    with ThreadPoolExecutor(threads) as executor:
        arguments = (dataset, SIZE, kind, "imagenet", cache, skip_damaged, executor)
        return features.extract(*arguments)


def values(found):
    return np.array(features.mapped(found.directory, found.shape))


@pytest.mark.parametrize("kind", model.PREPROCESSING)
def test_features_are_those_of_the_keras_model(dataset, tmp_path, kind, monkeypatch):
    by_litert = values(extract(dataset, tmp_path, kind))
    prepare, backbone = model.preprocessing(SIZE, kind), model.backbone(SIZE)
    for row, encoded in zip(dataset.rows, dataset.source.read(dataset.rows), strict=True):
        expected = backbone(prepare(data.decode(encoded)[None]), training=False)[0]
        np.testing.assert_allclose(by_litert[row], expected, atol=1e-4)
    monkeypatch.setattr(features, "engine", lambda: "keras, as without LiteRT")
    by_keras = extract(dataset, tmp_path, kind)
    assert by_keras.computed == 24
    np.testing.assert_allclose(values(by_keras), by_litert, atol=1e-4)


class PicklingExecutor(Executor):
    """Runs tasks at once, and gives them and their results through pickle, as a cluster does."""

    def submit(self, function, *arguments):
        function, arguments = pickle.loads(pickle.dumps((function, arguments)))
        future = Future()
        future.set_result(pickle.loads(pickle.dumps(function(*arguments))))
        return future


def test_cached_or_not_and_by_any_executor_features_are_bit_identical(dataset, tmp_path):
    first = extract(dataset, tmp_path / "1", threads=1)
    again, three = extract(dataset, tmp_path / "1"), extract(dataset, tmp_path / "3", threads=3)
    arguments = (dataset, SIZE, "scale", "imagenet", tmp_path / "pickle", False)
    pickled = features.extract(*arguments, PicklingExecutor())
    assert [found.computed for found in (first, again, three, pickled)] == [24, 0, 24, 24]
    for other in (again, three, pickled):
        np.testing.assert_array_equal(values(first), values(other))


@dataclass(frozen=True)
class OnePass:
    """A source that can be read once, from its beginning."""

    encoded: list
    passes: list
    sequential: bool = True

    def read(self, rows):
        self.passes.append(1)
        yield from (self.encoded[row] for row in rows)


def test_a_sequential_source_is_read_once_and_only_what_is_missing(dataset, tmp_path):
    expected = extract(dataset, tmp_path / "files")
    source = OnePass(list(dataset.source.read(dataset.rows)), [])
    sequential = replace(dataset, source=source)
    for missing in (24, 10):
        found = extract(sequential, tmp_path / "once")
        assert found.computed == missing and len(source.passes) == 1
        np.testing.assert_array_equal(values(found), values(expected))
        (found.directory / "shard-00001.json").unlink()
        source.passes.clear()


def flip_bit(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a flipped bit": (lambda folder: flip_bit(folder / features.ROWS, 12 * ROW + 7), 10),
    "a short file": (lambda folder: os.truncate(folder / features.ROWS, 22 * ROW), 4),
    "a missing file": (lambda folder: (folder / features.ROWS).unlink(), 24),
    "an empty record": (lambda folder: (folder / "shard-00000.json").write_bytes(b""), 10),
    "no such record": (lambda folder: (folder / "shard-00002.json").write_text('{"sha256": 3}'), 4),
    "another's record": (lambda folder: (folder / "shard-00000.json").write_bytes(
        (folder / "shard-00001.json").read_bytes()), 10),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_shard_is_named_and_made_again(dataset, tmp_path, capsys, what):
    whole = extract(dataset, tmp_path)
    expected = values(whole)
    damage, lost = DAMAGE[what]
    damage(whole.directory)
    mended = extract(dataset, tmp_path)
    assert mended.computed == lost
    np.testing.assert_array_equal(values(mended), expected)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == -(-lost // 10) and all("is damaged" in line for line in lines)


def test_all_that_changes_features_changes_the_key(dataset, monkeypatch):
    same = replace(dataset, labels=dataset.labels[::-1], names=dataset.names[::-1])
    other = replace(dataset, digests=dataset.digests[::-1])
    settings = [(SIZE, "scale", "imagenet"), (64, "scale", "imagenet")]
    settings += [(SIZE, "standardize", "imagenet"), (SIZE, "scale", "random")]
    keys = [features.key(dataset, *each) for each in settings]
    assert features.key(same, *settings[0]) == keys[0]
    keys.append(features.key(other, *settings[0]))
    monkeypatch.setattr(features, "engine", lambda: "another")
    keys.append(features.key(dataset, *settings[0]))
    monkeypatch.setattr(features, "decoder", lambda: "another")
    keys.append(features.key(dataset, *settings[0]))
    assert len({tuple(key.values()) for key in keys}) == 7


def test_damaged_images_are_all_named_or_left_out(tmp_path):
    folder = write_images(tmp_path / "patterns")
    for path in ("disc/1.png", "stripes/7.png"):
        (folder / path).write_bytes((folder / path).read_bytes()[:300])
    dataset = data.load(str(folder))
    damaged = [dataset.names.index(str(folder / path)) for path in ("disc/1.png", "stripes/7.png")]
    # The second start finds in the cache what the first has passed.
    for _ in range(2):
        with pytest.raises(data.DataError, match=r"2 damaged images.*\n.*1\.png.*\n.*7\.png"):
            extract(dataset, tmp_path / "cache", threads=1)
    for _ in range(2):
        found = extract(dataset, tmp_path / "cache", skip_damaged=True)
        assert sorted(found.damaged) == damaged
        assert sorted(np.flatnonzero(~values(found).any(axis=1))) == damaged
    assert found.computed == 0


def test_an_image_that_changes_after_loading_is_named(tmp_path):
    dataset = data.load(str(write_images(tmp_path / "patterns")))
    Path(dataset.names[3]).write_bytes(Path(dataset.names[4]).read_bytes())
    with pytest.raises(data.DataError, match=r"3\.png changed or vanished.*start again"):
        extract(dataset, tmp_path / "cache")


EXTRACT = """
import resource, signal, sys
from concurrent.futures import ThreadPoolExecutor
import data, features

class Limited(ThreadPoolExecutor):
    def submit(self, function, *arguments):
        if function is features.extract_shard:
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
        return super().submit(function, *arguments)

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
features.SHARD = 10
try:
    arguments = data.load(sys.argv[1]), 32, "scale", "imagenet", sys.argv[2], False, Limited(1)
    features.extract(*arguments)
except features.CacheError as error:
    print(error)
"""


def start(images, cache, limit):
    """Start an extraction in which no file may become larger than `limit` bytes."""
    line = [sys.executable, "-c", EXTRACT, str(images), str(cache), str(limit)]
    return subprocess.Popen(line, cwd=Path(data.__file__).parent, stdout=subprocess.PIPE, text=True)


def test_a_full_disk_is_told_and_what_was_written_counts(images, dataset, tmp_path):
    # The first shard of ten rows fits, the second does not.
    told, _ = start(images, tmp_path, 13 * ROW).communicate(timeout=120)
    assert "File too large; see --cache-dir" in told and told.count("\n") == 1
    assert extract(dataset, tmp_path).computed == 14
    assert not list(tmp_path.rglob("*.tmp"))


def test_two_processes_on_an_empty_cache_both_end_with_the_same(images, dataset, tmp_path):
    both = [start(images, tmp_path / "shared", 2**30) for _ in range(2)]
    assert [process.communicate(timeout=120)[0] for process in both] == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    shared, alone = extract(dataset, tmp_path / "shared"), extract(dataset, tmp_path / "alone")
    assert (shared.computed, alone.computed) == (0, 24)
    np.testing.assert_array_equal(values(shared), values(alone))


def test_a_cache_that_cannot_be_written_is_told(dataset, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(features.CacheError, match=r"file.*: Not a directory; see --cache-dir"):
        extract(dataset, tmp_path / "file" / "cache")
