"""Features are the backbone's, and the cache is never wrong."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import data
import features
import model

keras = pytest.importorskip("keras")

SIZE = 32


@pytest.fixture(scope="module")
def dataset(images):
    return data.load(str(images))


@pytest.fixture(scope="module")
def graphs():
    made = model.litert_graphs(SIZE)
    return lambda *_: made


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(features, "SHARD", 10)  # 24 images: shards of 10, 10 and 4


def no_graphs(*_):
    raise AssertionError("an image was passed that is in the cache")


def extract(dataset, cache, graphs, **options):
    return features.extract(dataset, SIZE, "scale", "imagenet", cache, graphs=graphs, **options)


def values(found):
    return np.array(features.mapped(found.directory, found.shape))


def test_features_are_those_of_the_keras_model(dataset, tmp_path, graphs):
    found = values(extract(dataset, tmp_path, graphs))
    prepare, backbone = model.preprocessing(SIZE), model.backbone(SIZE)
    for row, encoded in dataset.encoded(np.ones(24, bool)):
        expected = backbone(prepare(data.decode(encoded)[None]), training=False)[0]
        np.testing.assert_allclose(found[row], expected, atol=1e-4)


def test_keras_gives_the_same_where_litert_is_missing(dataset, tmp_path, graphs, monkeypatch):
    by_litert = values(extract(dataset, tmp_path, graphs))
    monkeypatch.setattr(features, "engine", lambda: "keras, forced by this test")
    by_keras = extract(dataset, tmp_path, no_graphs)
    assert by_keras.computed == 24
    np.testing.assert_allclose(values(by_keras), by_litert, atol=1e-4)


def test_a_second_run_passes_no_image(dataset, tmp_path, graphs):
    first = extract(dataset, tmp_path, graphs)
    second = extract(dataset, tmp_path, no_graphs)
    assert (first.computed, second.computed) == (24, 0)
    assert first.pixels == second.pixels and len(set(first.pixels)) == 24
    np.testing.assert_array_equal(values(first), values(second))


def test_features_do_not_depend_on_the_number_of_engines(dataset, tmp_path, graphs, monkeypatch):
    found = []
    for cores in (1, 2, 3):
        monkeypatch.setattr(features, "cores", lambda cores=cores: cores)
        found.append(values(extract(dataset, tmp_path / str(cores), graphs)))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def flip_bit(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a flipped bit": (lambda where: flip_bit(where / "features.f32", 12 * 5120 + 7), 10),
    "a truncated file": (lambda where: (where / "features.f32").write_bytes(bytes(5 * 5120)), 24),
    "a file cut in the last shard": (lambda where: subprocess.run(
        ["truncate", "-s", str(22 * 5120), where / "features.f32"], check=True), 4),
    "a missing file": (lambda where: (where / "features.f32").unlink(), 24),
    "a missing record": (lambda where: (where / "shard-00001.json").unlink(), 10),
    "an empty record": (lambda where: (where / "shard-00000.json").write_bytes(b""), 10),
    "another program's record": (lambda where: (where / "shard-00002.json").write_text('{"sha256": 3}'), 4),
    "a record that is a list": (lambda where: (where / "shard-00002.json").write_text("[]"), 4),
    "another shard's record": (lambda where: (where / "shard-00000.json").write_bytes(
        (where / "shard-00001.json").read_bytes()), 10),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_noticed_named_and_mended(dataset, tmp_path, graphs, capsys, what):
    whole = extract(dataset, tmp_path, graphs)
    expected = values(whole)
    damage, lost = DAMAGE[what]
    damage(whole.directory)
    mended = extract(dataset, tmp_path, graphs)
    assert mended.computed == lost
    np.testing.assert_array_equal(values(mended), expected)
    if what != "a missing record":
        assert "is damaged" in capsys.readouterr().err
    assert extract(dataset, tmp_path, no_graphs).computed == 0


@pytest.mark.parametrize(
    "change",
    ["images", "image_size", "preprocessing", "weights", "engine", "decoder", "format", "order"],
)
def test_all_that_changes_features_changes_the_key(dataset, monkeypatch, tmp_path, change):
    arguments = {
        "dataset": dataset,
        "image_size": SIZE,
        "preprocessing": "scale",
        "weights": "imagenet",
    }
    before = features.key(**arguments)
    assert before == features.key(**arguments)
    if change == "images":
        arguments["dataset"] = dataset._replace(digests=[b"x" * 32, *dataset.digests[1:]])
    elif change == "order":
        arguments["dataset"] = dataset._replace(digests=dataset.digests[::-1])
    elif change == "image_size":
        arguments["image_size"] = 64
    elif change == "preprocessing":
        arguments["preprocessing"] = "standardize"
    elif change == "weights":
        arguments["weights"] = "random"
    elif change == "engine":
        monkeypatch.setattr(features, "engine", lambda: "keras, tensorflow 0")
    elif change == "decoder":
        monkeypatch.setattr(features.importlib.metadata, "version", lambda package: "0")
    else:
        monkeypatch.setattr(features, "FORMAT", 0)
    assert features.key(**arguments) != before


def test_labels_and_split_do_not_change_the_key(dataset):
    other = dataset._replace(
        labels=dataset.labels[::-1], validation=~dataset.validation, names=dataset.names[::-1]
    )
    arguments = (SIZE, "scale", "imagenet")
    assert features.key(other, *arguments) == features.key(dataset, *arguments)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import data, features, model
features.SHARD = 10
try:
    features.extract(data.load(sys.argv[1]), 32, "scale", "imagenet", sys.argv[2])
except features.CacheError as error:
    print(error)
"""


def test_a_full_disk_is_told_and_what_was_written_counts(images, dataset, tmp_path, graphs):
    room = 13 * 5120  # bytes: the first shard of ten rows fits, the second does not
    command = [sys.executable, "-c", LIMITED, str(images), str(tmp_path), str(room)]
    told = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(features.__file__).parent, check=True
    )
    assert "features cannot be kept there" in told.stdout and "--cache-dir" in told.stdout
    assert told.stdout.count("\n") == 1
    assert extract(dataset, tmp_path, graphs).computed == 14
    assert not list(tmp_path.rglob("*.tmp"))


def test_two_processes_on_an_empty_cache_both_end_with_the_same(images, dataset, tmp_path, graphs):
    command = [sys.executable, "-c", LIMITED, str(images), str(tmp_path / "shared"), str(2**30)]
    both = [subprocess.Popen(command, cwd=Path(features.__file__).parent) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    shared = extract(dataset, tmp_path / "shared", no_graphs)
    alone = extract(dataset, tmp_path / "alone", graphs)
    np.testing.assert_array_equal(values(shared), values(alone))


def test_a_cache_that_cannot_be_written_is_told(dataset, tmp_path, graphs):
    (tmp_path / "file").touch()
    with pytest.raises(features.CacheError, match="--cache-dir"):
        extract(dataset, tmp_path / "file" / "cache", graphs)


def test_what_is_kept_is_listed_and_pruned(dataset, tmp_path, graphs, capsys):
    found = extract(dataset, tmp_path, graphs)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/key.json").write_text('{"a": 1}')  # somebody else's
    features.main(["--list", "--cache-dir", str(tmp_path)])
    told = capsys.readouterr().out
    assert (
        str(found.directory) in told and "data patterns, image_size 32, preprocessing scale" in told
    )
    features.main(["--prune", "--cache-dir", str(tmp_path)])
    assert not found.directory.exists() and (tmp_path / "mine/key.json").exists()
    features.main(["--list", "--cache-dir", str(tmp_path)])
    assert json.loads("0.0") == float(capsys.readouterr().out.split("\n")[-2].split()[0])
