"""predict.py answers as the run did, names what it cannot read, and is quick without TensorFlow."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from conftest import run_command, run_python
from image_files import TURN, encode, write

import predict
from sources.decoding import SURPLUS, TURNED
from storage import results


@pytest.mark.parametrize("model", ["model.tflite", "model.keras"])
def test_every_validation_image_gets_the_class_that_its_run_gave_it(whole, model):
    experiment = whole / "tensorboard/one"
    data = results.read_config(experiment).data
    label = re.search(rf"model of (\S+) seed 0: {model}", (whole / "stdout").read_text())[1]
    run = results.run_directory(experiment, label, 0) / results.VALIDATION
    names = (experiment / results.IMAGES).read_text().splitlines()
    told = run_command("predict.py", model, *names, "--json", cwd=whole)
    assert (told.returncode, told.stderr) == (0, "")
    answers = list(map(json.loads, told.stdout.splitlines()))
    assert [answer["path"] for answer in answers] == names
    predicted = [data.class_names[i] for i in results.read_outputs(run, data).predicted]
    assert [answer["class"] for answer in answers] == predicted
    for answer in answers:
        assert answer["second"] in {*data.class_names} - {answer["class"]}
        assert 1 / 3 <= answer["probability"] <= 1
        assert 0 <= answer["second_probability"] <= answer["probability"]
    line = "{path}: {class} {probability:.4f}, then {second} {second_probability:.4f}\n"
    assert run_command("predict.py", model, names[0], cwd=whole).stdout == line.format(**answers[0])


def test_what_cannot_be_read_is_named_and_the_others_are_answered(
    whole, tmp_path, monkeypatch, capsys
):
    shutil.copytree(whole / "images", tmp_path / "images")
    damaged = tmp_path / "images/disc/3.png"
    damaged.write_bytes(damaged.read_bytes()[:300])

    def deny(path, scandir=os.scandir):
        if path.endswith("stripes"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    monkeypatch.chdir(tmp_path)
    assert predict.main([f"{whole}/model.tflite", "images"]) == 2
    assert "images/stripes cannot be read: Permission denied" in capsys.readouterr().err
    paths = "images/disc", "gone.jpg", "images/disc/0.png"
    assert predict.main([f"{whole}/model.tflite", *paths]) == 1
    told = capsys.readouterr()
    answered = [line.partition(": ")[0] for line in told.out.splitlines()]
    assert answered == [f"images/disc/{number}.png" for number in (0, 1, 2, 4, 5, 6, 7, 0)]
    image, gone = told.err.splitlines()
    assert image.startswith("predict.py: images/disc/3.png: damaged")
    assert gone == "predict.py: gone.jpg: cannot be read: No such file or directory"


PHOTO = encode(np.full((9, 9, 3), 70, np.uint8), "JPEG", exif=TURN)
MIXED = {
    "plain.png": encode(np.full((9, 9, 3), 7, np.uint8)),
    "turned.jpg": PHOTO,
    "surplus.jpg": PHOTO[:-2] + bytes(99) + PHOTO[-2:],
    "cut.jpg": PHOTO[:-9],
    "photo.HEIC": b"any",
    "scan.tif": b"any",
    "notes": b"any",
}


def test_files_named_or_in_a_folder_give_the_notes_of_training_and_errors_in_json(
    whole, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(write(tmp_path, {f"in/{name}": file for name, file in MIXED.items()}))
    model, files = f"{whole}/model.tflite", sorted(f"in/{name}" for name in MIXED)
    notes = [
        "note: 1 .heic, 1 .tif, 1 no-extension files are not read",
        f"note: images that {SURPLUS}: 1 (in/surplus.jpg)",
        f"note: images that {TURNED}: 2 (in/surplus.jpg, in/turned.jpg)",
    ]
    answers = []
    for arguments in (["in"], files):
        assert predict.main([model, *arguments]) == 1
        told = capsys.readouterr()
        damaged, *said = told.err.splitlines()
        assert damaged.startswith("predict.py: in/cut.jpg: damaged") and said == notes
        assert predict.main([model, *arguments, "--json"]) == 1
        found = capsys.readouterr()
        assert found.err.splitlines() == notes
        answers.append(list(map(json.loads, found.out.splitlines())))
        assert [line.partition(":")[0] for line in told.out.splitlines()] == [
            answer["path"] for answer in answers[-1] if "class" in answer
        ]
    assert answers[0] == answers[1]
    errors = {answer["path"]: answer["error"] for answer in answers[0] if "error" in answer}
    assert errors.pop("in/cut.jpg").startswith("damaged")
    assert errors == dict.fromkeys(["in/notes", "in/photo.HEIC", "in/scan.tif"], "not read")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["model.tflite", "empty"], "empty: no .jpg .jpeg"),
        (["model.tflite", "empty", "x.HEIC"], "empty, x.HEIC: no .jpg .* 1 .heic files are not"),
        (["gone.tflite", "images"], "gone.tflite: .*No such file"),
        (["images/disc/0.png", "images"], "0.png: File is not a zip file; give a .tflite"),
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
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    shapes = [(40, 60), (40, 60), (300, 20), (7, 7), (40, 60)]
    for number, shape in enumerate(shapes):
        (tmp_path / f"{number}.png").write_bytes(encode(np.resize(pixels, (*shape, 3))))
    code = "import sys, predict\nassert predict.main(sys.argv[1:]) == 0\n"
    code += "print({'tensorflow', 'keras', 'matplotlib'} & set(sys.modules))"
    told = run_python("-c", code, whole / "model.tflite", *sorted(tmp_path.glob("*.png")))
    *answers, loaded = told.stdout.splitlines()
    assert loaded == "set()"
    first, again, *_, last = (answer.partition(": ")[2] for answer in answers)
    assert first == again == last and len(answers) == len(shapes)
