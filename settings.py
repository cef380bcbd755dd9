"""The settings of an experiment: every flag of train.py with its default, and nothing computed."""

from dataclasses import dataclass

import schedulers


@dataclass(frozen=True)
class Settings:
    """What the command line says, after it was checked; the defaults are those of the flags."""

    schedule: list[str]  # registered names, FILE.py:FUNCTION, or all
    name: str  # of the experiment's folder in logdir
    data: str = "digits"
    train: str | None = None  # glob of TFRecords
    test: str | None = None
    validation_fraction: float = 0.2
    image_size: int = 224  # pixels; 96 for digits
    preprocessing: str = "scale"
    epochs: int | None = None  # None: each schedule's own
    lr: float = schedulers.LR
    peak_lr: float = schedulers.PEAK_LR
    drop_factor: float = schedulers.DROP_FACTOR
    batch_size: int = 64
    dropout: float = 0.2
    seeds: int = 1
    tune: bool = False
    weights: str = "imagenet"
    logdir: str = "tensorboard"
    cache_dir: str = ".cache/features"
    skip_damaged: bool = False
    export: str | None = None
