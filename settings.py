"""The settings of an experiment: every flag of train.py with its default, and nothing computed."""

from dataclasses import dataclass


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
    lr: float | None = None  # None: the report's, as of the next two
    peak_lr: float | None = None
    drop_factor: float | None = None
    batch_size: int = 64
    dropout: float = 0.2
    seeds: int = 1
    tune: bool = False
    weights: str = "imagenet"
    logdir: str = "tensorboard"
    cache_dir: str = ".cache/features"
    skip_damaged: bool = False
    export: list[str] | None = None  # .keras and .tflite files
