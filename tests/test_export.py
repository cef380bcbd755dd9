"""The exported files hold one model, for images of every size and mode, and replace no file."""

import errno
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from experiment_files import write_experiment
from image_files import encode, write
from PIL import Image
from scipy.special import softmax

import data
import model
import predict
from features import cache
from features.litert import Graph
from runtime import files, tasks
from runtime.messages import Refusal
from sources.decoding import decode
from storage import export
from storage.audit import read_experiment
from storage.results import WEIGHTS, run_directory


@pytest.fixture
def experiment(tmp_path):
    """An audited experiment whose run has the head of no training."""
    experiment = write_experiment(tmp_path / "one", {"exp": [50, 51]})
    kernel, bias = model.initial_kernel(3, 0), np.array([0.1, 0, -0.1], np.float32)
    np.savez(run_directory(experiment, "exp", 0) / WEIGHTS, kernel=kernel, bias=bias)
    return read_experiment(experiment)


def write_models(experiment, *paths):
    """Export the experiment's best model."""
    export.export_model(experiment, "exp", 0, list(paths))


def make_images():
    """Return encoded images of several sizes, modes and formats."""
    random = np.random.default_rng(0)
    kinds = {"L": "BMP", "P": "PNG", "RGBA": "PNG", "CMYK": "JPEG", "RGB": "WEBP"}
    for mode, kind in kinds.items():
        for size in ((150, 150), (301, 77), (20, 33)):
            image = Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8)).resize(size)
            yield encode(image.convert(mode), kind)


def test_both_files_say_what_the_features_of_training_say(experiment, tmp_path):
    paths = [tmp_path / "a.keras", tmp_path / "a.tflite"]
    write_models(experiment, *paths)
    (names, keras), (same_names, litert) = map(predict.load_model, paths)
    assert names == same_names == experiment.config.data.class_names
    images = {f"images/{i % 2}/{i}.png": image for i, image in enumerate(make_images())}
    dataset = data.load(write(tmp_path, images) + "/images")
    recipe = model.Recipe(96, "scale", "imagenet")
    with tasks.Threads() as executor:
        computed = cache.extract(dataset, recipe, tmp_path, False, executor)
    values = np.fromfile(computed.stores[0].directory / "features.f32", np.float32).reshape(
        len(images), -1
    )
    with np.load(run_directory(experiment.directory, "exp", 0) / WEIGHTS) as head:
        expected = softmax(values @ head["kernel"] + head["bias"], axis=1)
    for encoded, probabilities in zip(dataset.source.read(dataset.rows), expected, strict=True):
        pixels = decode(encoded)[None]
        np.testing.assert_allclose(litert(pixels)[0], probabilities, atol=2e-6)
        np.testing.assert_allclose(keras(pixels)[0], probabilities, atol=1e-4)
    assert np.ptp(expected, axis=0).max() > 0.1


def test_a_model_that_is_there_already_stays_and_another_file_is_refused(experiment, tmp_path):
    path = tmp_path / "a.keras"
    write_models(experiment, path)
    before = path.read_bytes()
    # As a resume does.
    write_models(experiment, path)
    assert path.read_bytes() == before
    path.write_bytes(b"another")
    with pytest.raises(Refusal, match=r"a\.keras exists and is not this exp.*; move it"):
        write_models(experiment, path)
    assert path.read_bytes() == b"another"


def test_a_file_that_appears_during_the_export_stays(experiment, tmp_path, monkeypatch):
    path, write_json = tmp_path / "a.keras", files.write_json

    def write_meanwhile(*arguments):
        path.write_bytes(b"another")
        write_json(*arguments)

    monkeypatch.setattr(files, "write_json", write_meanwhile)
    with pytest.raises(Refusal, match=r"a\.keras exists"):
        write_models(experiment, path)
    assert path.read_bytes() == b"another" and not list(tmp_path.glob(".*.keras"))


def test_a_damaged_head_is_named_with_what_to_do(experiment, tmp_path):
    head = run_directory(experiment.directory, "exp", 0) / WEIGHTS
    head.write_bytes(head.read_bytes()[:5000])
    with pytest.raises(Refusal, match=r"weights\.npz cannot be read.*; remove .*seed-0, and"):
        write_models(experiment, tmp_path / "a.keras")


def test_a_phone_reads_the_image_size_from_the_shape_and_any_size_still_runs(experiment, tmp_path):
    write_models(experiment, tmp_path / "best.tflite")
    content = (tmp_path / "best.tflite").read_bytes()
    interpreter = Interpreter(model_content=content)
    (given,) = interpreter.get_input_details()
    assert given["shape"].tolist() == [1, 96, 96, 3]
    assert given["shape_signature"].tolist() == [1, -1, -1, 3]
    # Without a resize the same as after one, and as the converter's own file.
    pixels = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3), np.uint8)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], pixels)
    interpreter.invoke()
    answer = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    graph = Graph(content)
    other = np.random.default_rng(0).integers(0, 256, (1, 50, 70, 3), np.uint8)
    assert graph.run(other)[0].shape == answer.shape
    np.testing.assert_array_equal(graph.run(pixels)[0], answer)


def test_weights_in_float16_take_half_the_place_and_change_probabilities_little(
    experiment, tmp_path
):
    paths = [tmp_path / "a.tflite", tmp_path / "a.fp16.tflite"]
    write_models(experiment, *paths)
    sizes = [path.stat().st_size for path in paths]
    assert 0.45 < sizes[1] / sizes[0] < 0.55
    (names, model), (same_names, half) = map(predict.load_model, paths)
    assert names == same_names
    differences = []
    for image in make_images():
        pixels = decode(image)[None]
        differences.append(np.abs(model(pixels)[0] - half(pixels)[0]).max())
    assert 0 < max(differences) < 0.05


# Answers of MediaPipe's own ImageClassifier, which installs beside other versions than ours.
CLASSIFY = """
import json, sys
from mediapipe import Image
from mediapipe.tasks.python import vision
with vision.ImageClassifier.create_from_model_path(sys.argv[1]) as classifier:
    for path in sys.argv[2:]:
        (answer,) = classifier.classify(Image.create_from_file(path)).classifications
        best = answer.categories[0]
        print("answer", json.dumps([best.category_name, best.score]))
"""
MEDIAPIPE = os.environ.get("MEDIAPIPE_PYTHON")  # of an environment with mediapipe


@pytest.mark.skipif(not MEDIAPIPE, reason="MEDIAPIPE_PYTHON is not the python of a mediapipe")
@pytest.mark.parametrize("name", ["a.tflite", "a.fp16.tflite"])
def test_mediapipe_gives_the_names_and_probabilities_of_predict(experiment, tmp_path, name):
    write_models(experiment, tmp_path / name)
    random = np.random.default_rng(0)
    paths = []
    for number in range(20):
        pixels = Image.fromarray(random.integers(0, 256, (3, 3, 3), np.uint8)).resize((96, 96))
        paths.append(str(tmp_path / f"{number}.png"))
        pixels.save(paths[-1])
    line = [MEDIAPIPE, "-c", CLASSIFY, str(tmp_path / name), *paths]
    told = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
    answers = [json.loads(row[7:]) for row in told.stdout.splitlines() if row[:7] == "answer "]
    names, classify = predict.load_model(tmp_path / name)
    for path, (label, score) in zip(paths, answers, strict=True):
        probabilities = classify(decode(Path(path).read_bytes())[None])[0].copy()
        assert (label, names[probabilities.argmax()]) == (label, label)
        assert score == pytest.approx(float(probabilities.max()), abs=1e-3)


def test_a_file_system_without_links_gets_the_file_and_another_file_is_not_replaced(
    experiment, tmp_path, monkeypatch
):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    write_models(experiment, tmp_path / "linked.tflite")
    monkeypatch.setattr(os, "link", refuse)  # as on exFAT
    write_models(experiment, tmp_path / "written.tflite")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 50, 70, 3), np.uint8)
    paths = [tmp_path / f"{name}.tflite" for name in ("linked", "written")]
    answers = [Graph(path.read_bytes()).run(pixels)[0].copy() for path in paths]
    np.testing.assert_array_equal(answers[0], answers[1])
    (tmp_path / "taken.tflite").write_bytes(b"another's")
    with pytest.raises(Refusal, match="taken.tflite exists and is not this experiment's"):
        write_models(experiment, tmp_path / "taken.tflite")
    assert (tmp_path / "taken.tflite").read_bytes() == b"another's"
    assert not list(tmp_path.glob(".*.tflite"))


def test_one_file_by_two_paths_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(Refusal, match="names .*a.keras twice; leave one out"):
        export.require_free([tmp_path / "a.keras", tmp_path / "link/a.keras"])
    export.require_free([tmp_path / "a.keras", tmp_path / "a.tflite"])
