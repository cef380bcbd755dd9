"""What the runs confuse is counted and drawn, and wrong labels come first among the suspects."""

import warnings
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from conftest import run_command
from experiment_files import IMAGES, LABEL, write_experiment, write_report, write_run
from image_files import encode, write
from PIL import Image

import data
from sources import digits
from storage.audit import read_experiment
from storage.results import Outputs, Run
from verdict import mistakes
from verdict.ranking import rank

ODD = ["$^$", "<b>|`*_x_ & -->", "花\\frac"]


def test_wrong_labels_of_digits_are_first_among_the_suspects(tmp_path):
    listing = digits.list_digits()
    # A pair of dollars is mathematics to Matplotlib, and this one cannot be drawn.
    labels = [f"{entry.label} $^$" for entry in listing.entries]
    wrong = {row: f"{(int(labels[row][0]) + 3) % 10} $^$" for row in range(0, 1797, 300)}
    write(tmp_path / "digits", {
        f"{'train' if row % 6 else 'val'}/{wrong.get(row, labels[row])}/{row}.bmp": image
        for row, image in enumerate(listing.source.read(range(1797)))
    })  # fmt: skip
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


@pytest.fixture
def doubted(tmp_path):
    """An experiment whose three runs are wrong about the same 20 images."""
    experiment = write_experiment(tmp_path / "x", {"exp": [40] * 3}, class_names=ODD)
    for seed in range(3):
        write_run(experiment, "exp", seed, 40)
    return experiment


def test_the_contact_sheet_shows_the_suspects_and_no_other_image(doubted, tmp_path):
    experiment = read_experiment(doubted)
    suspects = {suspect.image for suspect in mistakes.find_suspects(experiment.runs["exp"])}
    red, green, blue = np.eye(3, dtype=np.uint8) * 255
    pixels = {f"train/{row // 20}/{row:02}.png": red for row in range(IMAGES)}
    for row in range(IMAGES):
        pixels[f"val/{row // 20}/{row:02}.png"] = blue if row in suspects else green
    pictures = {name: encode(np.full((8, 9, 3), colour)) for name, colour in pixels.items()}
    pictures["train/0/00.png"] = encode(np.full((8, 8, 3), red))  # not all equal
    dataset = data.load(write(tmp_path / "images", pictures))
    mistakes.write_contact_sheet(experiment, rank(experiment), dataset)
    with Image.open(doubted / "suspects.png") as sheet:
        drawn = np.asarray(sheet.convert("RGB"))
    counts = [np.sum(np.all(drawn == colour, axis=-1)) for colour in (red, green, blue)]
    assert counts[:2] == [0, 0] and counts[2] > len(suspects) * 100 * 100
    # An image that vanished since is a grey place.
    for path in (tmp_path / "images").rglob("*.png"):
        path.unlink()
    mistakes.write_contact_sheet(experiment, rank(experiment), dataset)
    with Image.open(doubted / "suspects.png") as sheet:
        assert not np.any(np.all(np.asarray(sheet.convert("RGB")) == blue, axis=-1))


def test_names_of_any_characters_break_neither_picture_nor_markdown_nor_list(doubted):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = write_report(doubted)
    ElementTree.parse(doubted / "confusion.svg")
    assert (doubted / "confusion.svg").read_text("utf-8").count("<!-- $^$ -->") == 2
    assert ", \\$^\\$ for \\<b\\>\\|\\`\\*\\_x\\_ \\& --\\> (" in summary
    assert "- 20 validation images are put into one same other class" in summary
    lines = (doubted / "suspects.txt").read_text("utf-8").splitlines()
    assert len(lines) == 20 and all(line.split("\t")[1] in ODD for line in lines)


def make_run(classes):
    """Return a run that predicts {image: class}, and all else right; labels go 0, 1, 2, 0, ..."""
    predicted = LABEL.copy()
    predicted[list(classes)] = list(classes.values())
    return Run(None, Outputs(predicted, LABEL, np.arange(IMAGES, dtype=np.float32)), False)


def test_suspects_are_images_that_nine_in_ten_runs_put_into_one_other_class():
    runs = [make_run({0: 1, 1: 2, 2: 0, 3: 1})] * 8
    runs += [make_run({0: 1, 3: 1}), make_run({2: 1, 3: 1})]
    suspects = [tuple(vars(suspect).values()) for suspect in mistakes.find_suspects(runs)]
    assert suspects == [(3, 0, 1, 3.0), (0, 0, 1, 0.0)]
    assert mistakes.find_suspects(runs[:3]) and not mistakes.find_suspects(runs[:2])


def test_the_most_confused_pairs_are_told_with_their_means_over_seeds():
    names = ["disc", "noise", "stripes"]
    runs = [make_run({0: 1, 3: 1, 6: 1, 1: 0, 4: 0, 2: 1, 5: 0})]
    runs.append(make_run({0: 1, 1: 0, 4: 0, 2: 1}))
    told, _, picture = mistakes.describe(runs, "exp", names).split("\n")
    pairs = "disc for noise (2 of 20), noise for disc (2 of 20), stripes for noise (1 of 20)"
    assert told == f"- Most often exp takes {pairs}, mean of 2 seeds."
    assert picture.endswith("(confusion.svg)")
    alone = mistakes.describe(runs[1:], "exp", names)
    assert "takes noise for disc (2 of 20), disc for noise (1 of 20), stripes for" in alone
    assert "seeds" not in alone
    assert "takes no class for another." in mistakes.describe([make_run({})], "exp", names)


def test_more_than_thirty_classes_are_not_drawn(tmp_path):
    for classes in (30, 31):
        names, counts = [f"class {i}" for i in range(classes)], [20] * 3 + [0] * (classes - 3)
        about = {"class_names": names, "train": counts, "validation": counts}
        experiment = write_experiment(tmp_path / f"{classes}", {"exp": [50]}, **about)
        assert ("(confusion.svg)" in write_report(experiment)) == (classes == 30)
        assert (experiment / "confusion.svg").exists() == (classes == 30)
