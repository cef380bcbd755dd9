"""What the runs confuse is counted and drawn, and wrong labels come first among the suspects."""

import warnings
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from conftest import run_command
from experiment_files import IMAGES, LABEL, write_experiment, write_report, write_run
from image_files import encode, write
from PIL import Image

import data
import intervals
import mistakes
import sources
from audit import audit

ODD = ["$^$", "<b>|`*_x_ & -->", "花\\frac"]


def test_wrong_labels_of_digits_are_first_among_the_suspects(tmp_path):
    listing = sources.list_digits()
    # A pair of dollars is mathematics to Matplotlib, and this one cannot be drawn.
    labels = [f"{entry.label} $^$" for entry in listing.entries]
    wrong = {row: f"{(int(labels[row][0]) + 3) % 10} $^$" for row in range(0, 1797, 300)}
    for row, image in enumerate(listing.source.read(range(1797))):
        side = tmp_path / "digits" / ("train" if row % 6 else "val")
        folder = side / wrong.get(row, labels[row])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row}.bmp").write_bytes(image)
    arguments = ["--schedule", "constant", "--lr", "3e-3", "--epochs", "40", "--seeds", "3"]
    arguments += ["--data", "digits/", "--image-size", "96", "--name", "x"]
    told = run_command("train.py", *arguments, cwd=tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
    lines = (tmp_path / "tensorboard/x/suspects.txt").read_text().splitlines()
    suspects = [line.split("\t") for line in lines]
    rows = [int(image.rpartition("/")[2].removesuffix(".bmp")) for image, *_ in suspects]
    assert len(set(rows[:8]) & set(wrong)) >= 5
    for row, (_, label, predicted, _) in zip(rows, suspects, strict=True):
        assert label == wrong.get(row, labels[row]) != predicted
        assert predicted == labels[row] or row not in wrong
    losses = [float(loss) for *_, loss in suspects]
    assert losses == sorted(losses, reverse=True) and 6 <= len(losses) <= 24
    assert (tmp_path / "tensorboard/x/suspects.png").exists()


def test_the_contact_sheet_shows_the_suspects_and_no_other_image(tmp_path):
    path = write_experiment(tmp_path / "x", {"exp": [40] * 3})
    for seed in range(3):
        # The same images are wrong for every seed.
        write_run(path, "exp", seed, 40)
    experiment = audit(path)
    suspects = {of.image for of in mistakes.find_suspects(experiment.runs["exp"])}
    red, green, blue = ([255, 0, 0], [0, 255, 0], [0, 0, 255])
    for row in range(IMAGES):
        colour, folder = blue if row in suspects else green, f"{row // 20}"
        pictures = {f"train/{folder}/{row:02}.png": red, f"val/{folder}/{row:02}.png": colour}
        write(tmp_path / "images", {name: encode(np.full((8, 9, 3), of, np.uint8))
            for name, of in pictures.items()})  # fmt: skip
    dataset = data.load(str(tmp_path / "images"))
    mistakes.write_contact_sheet(experiment, intervals.rank(experiment), dataset)
    with Image.open(path / "suspects.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    counts = [np.sum(np.all(pixels == colour, axis=-1)) for colour in (red, green, blue)]
    assert counts[:2] == [0, 0] and counts[2] > len(suspects) * 100 * 100


@pytest.fixture
def make_runs(tmp_path):
    """Return a function that makes runs; each predicts {image: class}, and all else right."""
    (run,) = audit(write_experiment(tmp_path / "x", {"exp": [50]})).runs["exp"]

    def make(*predictions):
        runs = []
        for classes in predictions:
            predicted, loss = LABEL.copy(), np.arange(IMAGES, dtype=np.float32)
            predicted[list(classes)] = list(classes.values())
            runs.append(replace(run, outputs=replace(run.outputs, predicted=predicted, loss=loss)))
        return runs

    return make


def test_suspects_are_images_that_nine_in_ten_runs_put_into_one_other_class(make_runs):
    # Labels go 0, 1, 2, 0, 1, 2, ...
    wrong = {image: (image + 1) % 3 for image in (0, 1, 2, 3)}
    ninth = {0: 1, 3: 1}
    runs = make_runs(*[wrong] * 8, ninth, {2: 1, 3: 1})
    found = mistakes.find_suspects(runs)
    assert [(of.image, of.label, of.predicted, of.loss) for of in found] == [
        (3, 0, 1, 3.0),
        (0, 0, 1, 0.0),
    ]
    assert mistakes.find_suspects(runs[:3]) and not mistakes.find_suspects(runs[:2])


def test_the_most_confused_pairs_are_told_with_their_means_over_seeds(make_runs):
    names = ["disc", "noise", "stripes"]
    runs = make_runs({0: 1, 3: 1, 6: 1, 1: 0, 4: 0, 2: 1, 5: 0}, {0: 1, 1: 0, 4: 0, 2: 1})
    said, _, picture = mistakes.describe(runs, "exp", names).split("\n")
    pairs = "disc for noise (2 of 20), noise for disc (2 of 20), stripes for noise (1 of 20)"
    assert said == f"- Most often exp takes {pairs}, mean of 2 seeds."
    assert picture.endswith("(confusion.svg)")
    alone = mistakes.describe(runs[1:], "exp", names)
    assert "takes noise for disc (2 of 20), disc for noise (1 of 20), stripes for" in alone
    assert "seeds" not in alone
    assert "takes no class for another." in mistakes.describe(make_runs({}), "exp", names)


def test_names_of_any_characters_break_neither_picture_nor_markdown_nor_list(tmp_path):
    experiment = write_experiment(tmp_path / "x", {"exp": [40] * 3}, class_names=ODD)
    for seed in range(3):
        # The same images are wrong for every seed.
        write_run(experiment, "exp", seed, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = write_report(experiment)
    ElementTree.parse(experiment / "confusion.svg")
    assert (experiment / "confusion.svg").read_text("utf-8").count("<!-- $^$ -->") == 2
    assert ", \\$^\\$ for \\<b\\>\\|\\`\\*\\_x\\_ \\& --\\> (" in summary
    assert "- 20 validation images are put into one same other class" in summary
    lines = (experiment / "suspects.txt").read_text("utf-8").splitlines()
    assert len(lines) == 20 and all(line.split("\t")[1] in ODD for line in lines)


def test_more_than_thirty_classes_are_not_drawn(tmp_path):
    for classes in (30, 31):
        names, counts = [f"class {i}" for i in range(classes)], [20] * 3 + [0] * (classes - 3)
        about = {"class_names": names, "train": counts, "validation": counts}
        experiment = write_experiment(tmp_path / f"{classes}", {"exp": [50]}, **about)
        assert ("(confusion.svg)" in write_report(experiment)) == (classes == 30)
        assert (experiment / "confusion.svg").exists() == (classes == 30)
