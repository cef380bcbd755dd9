"""The settings of an experiment: every flag of train.py, with its default, its help and bounds."""

import argparse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import schedulers
from runtime.cli import bounded

if TYPE_CHECKING:
    from model import Recipe

EPOCHS = ", ".join(f"{name} {entry.epochs}" for name, entry in schedulers.SCHEDULES.items())
RATE = {"type": bounded(float, 1e-30, schedulers.LARGEST), "metavar": "LR"}
FRACTION = {"type": bounded(float, 0, 0.99), "metavar": "F"}
LEAST_SIZE = 32  # pixels; MobileNetV2 takes no fewer
BLOCKS = [f"block_{number}" for number in range(1, 17)]  # of MobileNetV2
DIGITS_SIZE = 96  # pixels; larger images of 8 x 8 digits take longer and tell no more


def block(name: str) -> str:
    """Return the name of a block if it is one; an argparse type."""
    if name not in BLOCKS:
        raise argparse.ArgumentTypeError(f"must be one of {BLOCKS[0]} to {BLOCKS[-1]}, got {name}")
    return name


def flag(default: Any, help: str, **options: Any) -> Any:
    """Return a field of Settings that is a flag of train.py; `options` are argparse's."""
    return field(default=default, metadata={"help": help, **options})


@dataclass(frozen=True)
class Settings:
    """What the command line says; a default of None is explained in its help."""

    # fmt: off
    schedule: list[str] = flag((), schedulers.NAMES_HELP, nargs="+", metavar="NAME")
    name: str = flag(None, "of this experiment's folder in --logdir (default: the time)")
    data: str | None = flag("digits", "digits, tfds:NAME, a folder of images by class, with a "
        "split or without, or a table.csv of files and labels")
    columns: str | None = flag(None, "of the table, where they have unusual names",
        metavar="FILE,LABEL[,SPLIT]")
    train: str | None = flag(None, "TFRecords to train on, instead of --data", metavar="GLOB")
    test: str | None = flag(None, "TFRecords to validate on, with --train", metavar="GLOB")
    keys: str | None = flag(None, "of the TFRecords (default: image/encoded,image/class/label)",
        metavar="IMAGE,LABEL")
    validation_fraction: float = flag(0.2, "part held out where the data have no validation split",
        **FRACTION)
    image_size: int = flag(224, "side in pixels to which images are resized; "
        f"digits: {DIGITS_SIZE}", type=bounded(int, LEAST_SIZE, 4096), metavar="N")
    preprocessing: str = flag("scale", "scale: to [-1, 1], as the weights were trained; "
        "standardize: image by image, as the report", choices=("scale", "standardize"))
    epochs: int | None = flag(None, f"of every schedule (default: {EPOCHS}; FILE.py:FUNCTION "
        f"{schedulers.OWN_EPOCHS}; with --tune the largest of them)",
        type=bounded(int, 1, 100_000), metavar="N")
    lr: float | None = flag(None, f"initial rate (default: {schedulers.LR})", **RATE)
    peak_lr: float | None = flag(None, "rate at the end of the warm-up "
        f"(default: {schedulers.PEAK_LR})", **RATE)
    drop_factor: float | None = flag(None, "what the linear schedules multiply by; 1: the report's "
        f"listing (default: {schedulers.DROP_FACTOR})", **RATE | {"metavar": "F"})
    batch_size: int = flag(64, "images a step", type=bounded(int, 1, 2**31 - 1), metavar="N")
    steps_per_epoch: int | None = flag(None, "batches an epoch, so that a schedule fits any budget "
        "(default: one pass over the training images)", type=bounded(int, 1, 10**9), metavar="N")
    fine_tune: str | None = flag(None, "train this block of MobileNetV2 and all behind it with the "
        "head; block_1 to block_16 (default: the head alone; without BLOCK: block_16)", nargs="?",
        const="block_16", type=block, metavar="BLOCK")
    dropout: float = flag(0.2, "before the softmax", **FRACTION)
    seeds: int = flag(1, "runs of every schedule, with seeds 0 to N-1; to be fixed in advance",
        type=bounded(int, 1, 10_000), metavar="N")
    tune: bool = flag(False, "compare each schedule, and a constant rate, at its own best peak, "
        "chosen on a fifth of the training images", action="store_true")
    weights: str = flag("imagenet", "imagenet (the file in weights/), random, or a file")
    logdir: str = flag("tensorboard", "where experiments go", metavar="DIR")
    cache_dir: str = flag(".cache/features", "where features are kept", metavar="DIR")
    skip_damaged: bool = flag(False, "leave damaged images out instead of stopping",
        action="store_true")
    export: list[str] | None = flag(None, "write the best schedule's model to .keras and .tflite "
        "files: uint8 images in, probabilities out", nargs="+", metavar="FILE")
    # fmt: on

    @property
    def recipe(self) -> "Recipe":
        """How an image becomes the numbers that are trained on."""
        # It imports TensorFlow, which the command line does not need.
        from model import Recipe

        return Recipe(self.image_size, self.preprocessing, self.weights, self.fine_tune)
