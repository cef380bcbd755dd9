"""predict.py answers as the run did, names what it cannot read, and is quick without TensorFlow."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import PROJECT, run_command
from image_files import encode

import results


def ask(place, *arguments):
    """Return the answers of predict.py as dictionaries; it must not complain."""
    told = run_command("predict.py", *arguments, "--json", cwd=place)
    assert (told.returncode, told.stderr) == (0, "")
    return [json.loads(line) for line in told.stdout.splitlines()]


@pytest.fixture(scope="module")
def validation(whole):
    """The validation images of `whole` as a folder, CLASS/N.png."""
    for name in (whole / "tensorboard/one/validation-images.txt").read_text().splitlines():
        target = whole / "validation" / name.removeprefix("images/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(whole / name, target)
    return whole / "validation"


@pytest.mark.parametrize("model", ["model.tflite", "model.keras"])
def test_every_validation_image_gets_the_class_that_its_run_gave_it(whole, validation, model):
    experiment = whole / "tensorboard/one"
    about = results.read_config(experiment).data
    label = re.search(rf"model of (\S+) seed 0: {model}", (whole / "stdout").read_text())[1]
    run = results.run_directory(experiment, label, 0) / results.VALIDATION
    answers = ask(whole, model, "validation")
    names = (experiment / "validation-images.txt").read_text().splitlines()
    assert [answer["path"].replace("validation", "images") for answer in answers] == names
    predicted = [about.class_names[i] for i in results.read_outputs(run, about).predicted]
    assert [answer["class"] for answer in answers] == predicted
    for answer in answers:
        assert answer["second"] in {*about.class_names} - {answer["class"]}
        assert 1 / 3 <= answer["probability"] <= 1
    line = "{path}: {class} {probability:.4f}, then {second}\n"
    told = run_command("predict.py", model, names[0], cwd=whole).stdout
    assert told == line.format(**answers[0] | {"path": names[0]})


def test_what_cannot_be_read_is_named_and_the_others_are_answered(whole, tmp_path):
    shutil.copytree(whole / "images/disc", tmp_path / "disc")
    (tmp_path / "disc/3.png").write_bytes((tmp_path / "disc/3.png").read_bytes()[:300])
    told = run_command(
        "predict.py", whole / "model.tflite", "disc", "gone.jpg", "disc/0.png", cwd=tmp_path
    )
    assert told.returncode == 1
    assert [line.partition(": ")[0] for line in told.stdout.splitlines()] == [
        f"disc/{number}.png" for number in (0, 1, 2, 4, 5, 6, 7, 0)
    ]
    damaged, gone = told.stderr.splitlines()
    assert damaged.startswith("predict.py: disc/3.png: damaged")
    assert gone == "predict.py: gone.jpg: cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["model.tflite", "empty"], "empty: no .jpg .jpeg"),
        (["gone.tflite", "images"], "gone.tflite: .*No such file"),
        (
            ["images/disc/0.png", "images"],
            "0.png: File is not a zip file; give a .tflite or .keras",
        ),
        (["cut.tflite", "images"], "cut.tflite: .*; give a .tflite or .keras"),
    ],
)
def test_what_is_not_a_model_or_holds_no_image_is_refused_in_one_line(copy, arguments, reason):
    (copy / "empty").mkdir()
    # The labels are at the end of the file.
    (copy / "cut.tflite").write_bytes((copy / "model.tflite").read_bytes()[5000:])
    told = run_command("predict.py", *arguments, cwd=copy)
    assert (told.returncode, told.stdout, told.stderr.count("\n")) == (2, "", 1)
    assert re.match(f"predict.py: error: (.*/)?{reason}", told.stderr)


def test_a_tflite_file_answers_for_images_of_any_size_without_tensorflow(whole, tmp_path):
    random, shapes = np.random.default_rng(0), [(40, 60), (40, 60), (300, 20), (7, 7), (40, 60)]
    pixels = random.integers(0, 256, (40, 60, 3), np.uint8)
    for number, shape in enumerate(shapes):
        (tmp_path / f"{number}.png").write_bytes(encode(np.resize(pixels, (*shape, 3))))
    code = "import sys, predict\nassert predict.main(sys.argv[1:]) == 0\n"
    code += "print([name for name in ('tensorflow', 'keras', 'matplotlib') if name in sys.modules])"
    options = {"env": {"PYTHONPATH": str(PROJECT)}, "cwd": tmp_path, "text": True}
    line = [sys.executable, "-c", code, whole / "model.tflite", *sorted(tmp_path.glob("*.png"))]
    *answers, loaded = subprocess.check_output(line, **options).splitlines()
    assert loaded == "[]"
    first, again, *_, last = (answer.partition(": ")[2] for answer in answers)
    assert first == again == last and len(answers) == len(shapes)
