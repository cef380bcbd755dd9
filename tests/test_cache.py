"""Features are the backbone's, bit-identical however they are computed, and the cache is right."""

import functools
import json
import os
import pickle
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import write_images

import data
import model
from features import cache, shards
from model import Recipe
from runtime import tasks
from runtime.messages import Refusal
from sources.decoding import decode

ROW_BYTES = 4 * model.FEATURES
SIZE = 32
build_once = functools.cache(model.backbone)


@pytest.fixture(scope="module")
def dataset(images):
    return data.load(str(images))


@pytest.fixture(autouse=True)
def small_shards_and_one_backbone(monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 10)  # 24 images: shards of 10, 10 and 4
    monkeypatch.setattr(model, "backbone", build_once)


def extract(dataset, folder, kind="scale", skip=False, threads=2, pool=tasks.Threads):
    with pool(threads) as executor:
        return cache.extract(dataset, Recipe(SIZE, kind, "imagenet"), folder, skip, executor)


def values(found):
    return np.fromfile(found.stores[0].directory / shards.ROWS, np.float32).reshape(
        -1, model.FEATURES
    )


@pytest.mark.parametrize("kind", ["scale", "standardize"])
def test_features_are_those_of_the_keras_model(tmp_path, kind, monkeypatch):
    folder = write_images(tmp_path / "two sizes", ["disc", "stripes"], each=3, size=40)
    dataset = data.load(str(write_images(folder, ["noisé"], each=6, size=30)))
    by_litert = values(extract(dataset, tmp_path, kind))
    recipe = Recipe(SIZE, kind, "imagenet")
    prepare, backbone = model.preprocessing(recipe), model.backbone(recipe)
    images = [decode(encoded)[None] for encoded in dataset.source.read(dataset.rows)]
    expected = [backbone(prepare(image), training=False)[0] for image in images]
    np.testing.assert_allclose(by_litert, expected, atol=1e-4)
    monkeypatch.setattr(cache, "engine", lambda: "keras, as without LiteRT")
    by_keras = extract(dataset, tmp_path, kind)
    assert by_keras.computed == 12
    np.testing.assert_allclose(values(by_keras), by_litert, atol=1e-4)


class PicklingExecutor(tasks.Threads):
    def submit(self, function, task):
        return super().submit(function, pickle.loads(pickle.dumps(task)))


def test_cached_or_not_and_by_any_executor_features_are_bit_identical(dataset, tmp_path):
    first = extract(dataset, tmp_path / "1", threads=1)
    others = [extract(dataset, tmp_path / "1"), extract(dataset, tmp_path / "3", threads=3)]
    others.append(extract(dataset, tmp_path / "pickle", pool=PicklingExecutor))
    assert [found.computed for found in (first, *others)] == [24, 0, 24, 24]
    for other in others:
        np.testing.assert_array_equal(values(first), values(other))


DAMAGE = {
    "a number": (lambda at: np.memmap(at / shards.ROWS, np.float32, "r+").put(-1, -1), 4),
    "a missing file": (lambda at: (at / shards.ROWS).unlink(), 24),
    "an empty record": (lambda at: (at / "shard-00000.json").write_bytes(b""), 10),
}


@pytest.mark.parametrize(("damage", "lost"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_shard_is_named_and_made_again(dataset, tmp_path, capsys, damage, lost):
    whole = extract(dataset, tmp_path)
    expected = values(whole)
    damage(whole.stores[0].directory)
    mended = extract(dataset, tmp_path)
    assert mended.computed == lost
    np.testing.assert_array_equal(values(mended), expected)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == -(-lost // 10) and all("is damaged" in line for line in lines)


def test_all_that_changes_features_changes_the_key(dataset, monkeypatch):
    relabelled = replace(dataset, labels=dataset.labels[::-1])
    recipe = Recipe(SIZE, "scale", "imagenet")
    others = {"image_size": 64, "preprocessing": "standardize", "weights": "random"}.items()
    recipes = [recipe, *(replace(recipe, **{name: value}) for name, value in others)]
    keys = [cache.key(dataset, recipe) for recipe in recipes]
    assert cache.key(relabelled, recipe) == keys[0]
    keys.append(cache.key(replace(dataset, rows=dataset.rows[::-1]), recipe))
    for name in ("engine", "decoder"):
        monkeypatch.setattr(cache, name, lambda: "another")
        keys.append(cache.key(dataset, recipe))
    assert len(set(keys)) == 7


def test_of_many_damaged_images_some_are_named_and_all_are_in_a_file(tmp_path):
    folder = write_images(tmp_path / "patterns")
    for path in folder.glob("disc/*.png"):
        path.write_bytes(path.read_bytes()[:300])
    (folder / "stripes/0.png").write_bytes(b"")
    for number in range(5):
        (folder / f"stripes/new{number}.png").write_bytes(b"text")
    dataset = data.load(str(folder))
    with pytest.raises(Refusal) as caught:
        extract(dataset, tmp_path / "cache")
    first, *lines = str(caught.value).split("\n  ")
    assert first.startswith("patterns: 14 images cannot be used; fix or remove them, or leave them")
    listed = Path(first.partition("; all are in ")[2]).read_text("utf-8").splitlines()
    assert lines == [*listed[:10], "and 4 more"] and len(listed) == 14
    assert listed[8] == f"{folder}/stripes/0.png: empty"


def test_damaged_images_are_all_named_or_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 1)
    monkeypatch.setattr(tasks, "cores", lambda: 1)
    folder = write_images(tmp_path / "patterns")
    for path in ("disc/1.png", "stripes/7.png"):
        (folder / path).write_bytes((folder / path).read_bytes()[:300])
    dataset = data.load(str(folder))
    damaged = [dataset.names.index(str(folder / path)) for path in ("disc/1.png", "stripes/7.png")]
    # The second start finds in the cache what the first has passed before it found the damage.
    for _ in range(2):
        with pytest.raises(Refusal, match=r"2 images cannot be used.*\n.*1\.png.*\n.*7\.png"):
            extract(dataset, tmp_path / "cache", threads=1)
        assert len(list(tmp_path.rglob("shard-*.json"))) < 12
    for _ in range(2):
        found = extract(dataset, tmp_path / "cache", skip=True)
        assert sorted(found.damaged) == damaged
        assert sorted(np.flatnonzero(~values(found).any(axis=1))) == damaged
    assert found.computed == 0


def test_an_image_that_changes_after_loading_is_named(tmp_path):
    dataset = data.load(str(write_images(tmp_path / "patterns")))
    Path(dataset.names[3]).write_bytes(Path(dataset.names[4]).read_bytes())
    with pytest.raises(Refusal, match=r"3\.png changed or vanished.*start again"):
        extract(dataset, tmp_path / "cache")


def test_a_full_disk_is_told_and_what_was_written_counts(dataset, tmp_path):
    # The first shard of ten rows fits, the second does not.
    _, limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (13 * ROW_BYTES, limit))
    try:
        with pytest.raises(Refusal, match=r"^.*: File too large; see --cache-dir$"):
            extract(dataset, tmp_path, threads=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    assert extract(dataset, tmp_path).computed == 14


def test_a_cache_that_will_be_large_says_so_before_it_is_written(
    dataset, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(cache, "LARGE", len(dataset.rows) * ROW_BYTES - 1)
    extract(dataset, tmp_path)
    assert capsys.readouterr().out == f"note: features will take 0.0 GB in {tmp_path}\n"
    extract(dataset, tmp_path)
    assert capsys.readouterr().out == ""


def test_open_rows_stay_right_whatever_happens_to_the_name(dataset, tmp_path):
    found = extract(dataset, tmp_path)
    rows = shards.open_rows(found.stores[0], len(dataset.labels))
    before = rows.map().copy()
    shutil.rmtree(found.stores[0].directory)
    found.stores[0].directory.mkdir()  # and another process begins to fill it again
    np.zeros_like(before).tofile(found.stores[0].directory / shards.ROWS)
    np.testing.assert_array_equal(rows.map(), before)
    with pytest.raises(Refusal, match="shard-00000.json cannot be read"):
        shards.open_rows(found.stores[0], len(dataset.labels))


def test_rows_that_were_changed_or_cut_after_the_extraction_are_refused(dataset, tmp_path):
    (store,), count = extract(dataset, tmp_path).stores, len(dataset.labels)
    path = store.directory / shards.ROWS
    content = path.read_bytes()
    rows = shards.open_rows(store, count)
    assert pickle.loads(pickle.dumps(rows)).map().tobytes() == content
    path.write_bytes(bytes(ROW_BYTES) + content[ROW_BYTES:])
    with pytest.raises(Refusal, match="was changed by another process while it was used"):
        pickle.loads(pickle.dumps(rows))
    os.truncate(path, len(content) - 1)
    for use in (rows.map, lambda: shards.open_rows(store, count)):
        with pytest.raises(Refusal, match="features.f32 was cut by another process"):
            use()


RECORDS = {
    "no field": lambda record: record.pop("damaged"),
    "another field": lambda record: record.update(x=1),
    "a count": lambda record: record.update(images=3),
    "text": lambda record: record.update(remarks="x"),
    "a row elsewhere": lambda record: record.update(damaged=[[99, "x"]]),
    "a bare number": lambda record: record.update(damaged=[1]),
}


@pytest.mark.parametrize("change", RECORDS.values(), ids=RECORDS)
def test_a_record_of_another_form_is_made_again(dataset, tmp_path, change, capsys):
    found = extract(dataset, tmp_path)
    path = found.stores[0].directory / "shard-00000.json"
    content = path.read_bytes()
    record = json.loads(content)
    change(record)
    path.write_text(json.dumps(record))
    assert extract(dataset, tmp_path).computed == 10
    assert "shard-00000.json is damaged and is made again" in capsys.readouterr().err
    assert path.read_bytes() == content
