"""Compare learning-rate schedules on a frozen MobileNetV2: which is better, and how sure are we?

python train.py --schedule exp_warmup                       # digits, no download
python train.py --schedule all --seeds 5                    # all four, repeated, with intervals
python train.py --schedule all --data flowers/              # an image folder
python train.py --schedule all --train 'rec/train*' --test 'rec/test*'    # TFRecords
python train.py --schedule exp --data tfds:tf_flowers       # a TFDS data set
python train.py --schedule mine.py:cosine                   # your own schedule: (epoch, lr) -> lr
tensorboard --logdir tensorboard                            # the curves
"""

import argparse
import contextlib
import datetime
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import cli
import schedulers
from settings import Settings

DIGITS_SIZE, LEAST_SIZE = 96, 32  # pixels; MobileNetV2 takes no fewer than 32


def integer(least: int, most: int) -> Callable[[str], int]:
    """Return an argparse type: an integer from `least` to `most`."""

    def parse(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most:,}, got {text}")
        return number

    parse.__name__ = "integer"  # as argparse calls it where the text is not a number
    return parse


def positive_float(text: str) -> float:
    """argparse type: a number > 0 that float32 holds."""
    number = float(text)
    if not 0 < number <= schedulers.LARGEST:
        raise argparse.ArgumentTypeError(f"must be a finite number > 0, got {text}")
    return number


def fraction(text: str) -> float:
    """argparse type: a number in [0, 1)."""
    number = float(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"must be in [0, 1), got {text}")
    return number


def parse_arguments(arguments: list[str]) -> tuple[Settings | Path, str | None]:
    """Return the settings of a new experiment, or the directory of one to resume; and --ray.

    Every mistake that can be seen without data ends the process here, with exit status 2.
    """
    title, _, examples = __doc__.partition("\n\n")
    parser = cli.Parser(
        "train.py",
        description=title,
        epilog=examples,
        formatter_class=argparse.RawTextHelpFormatter,
        argument_default=argparse.SUPPRESS,  # The defaults are those of Settings.
    )
    names = " ".join(schedulers.SCHEDULES)
    own = ", ".join(f"{name} {epochs}" for name, (_, epochs) in schedulers.SCHEDULES.items())

    def add(flag: str, help: str, **options) -> None:
        default = getattr(Settings, flag[2:].replace("-", "_"), None)
        shown = "" if default in (None, False) else f" (default: {default})"
        parser.add_argument(flag, help=help.replace("%", "%%") + shown, **options)

    rate = {"type": positive_float, "metavar": "LR"}
    add("--schedule", f"one or more of: {names}; or all, or FILE.py:FUNCTION", nargs="+",
        metavar="NAME")  # fmt: skip
    add("--data", "digits, tfds:NAME, or a folder: CLASS/*, or train/CLASS/* with validation,\n"
        "val or test beside it")  # fmt: skip
    add("--train", "TFRecords to train on, instead of --data", metavar="GLOB")
    add("--test", "TFRecords to validate on, with --train", metavar="GLOB")
    add("--validation-fraction", "part held out where the data have no validation split",
        type=fraction, metavar="F")  # fmt: skip
    add("--image-size", f"side to which images are resized; digits: {DIGITS_SIZE}",
        type=integer(LEAST_SIZE, 4096), metavar="PIXELS")  # fmt: skip
    add("--preprocessing", "scale: to [-1, 1], as the weights were trained;\n"
        "standardize: image by image, as the report", choices=("scale", "standardize"))  # fmt: skip
    add("--epochs", f"of every schedule (default: {own};\n"
        f"FILE.py:FUNCTION {schedulers.OWN_EPOCHS}; with --tune the largest of them)",
        type=integer(1, 100_000), metavar="N")  # fmt: skip
    add("--lr", f"initial rate (default: {schedulers.LR})", **rate)
    add("--peak-lr", f"rate at the end of the warm-up (default: {schedulers.PEAK_LR})", **rate)
    add("--drop-factor", "what the linear schedules multiply by; 1: the report's listing\n"
        f"(default: {schedulers.DROP_FACTOR})", type=positive_float, metavar="F")  # fmt: skip
    add("--batch-size", "images a step", type=integer(1, 2**31 - 1), metavar="N")
    add("--dropout", "before the softmax", type=fraction, metavar="F")
    add("--seeds", "runs of every schedule, with seeds 0 to N-1; to be fixed in advance",
        type=integer(1, 10_000), metavar="N")  # fmt: skip
    add("--tune", "compare each schedule, and a constant rate, at its own best peak, chosen on a\n"
        "fifth of the training images", action="store_true")  # fmt: skip
    add("--weights", "imagenet (the file in weights/), random, or a file")
    add("--logdir", "where experiments go", metavar="DIR")
    add("--name", "of this experiment's folder in --logdir (default: the time)")
    add("--cache-dir", "where features are kept", metavar="DIR")
    add("--skip-damaged", "leave damaged images out instead of stopping", action="store_true")
    add("--export", "write the best schedule's model: uint8 images in, probabilities out",
        metavar="FILE.keras")  # fmt: skip
    add("--resume", "finish the experiment in DIR, with the arguments it was begun with",
        metavar="DIR")  # fmt: skip
    add("--ray", "run on all nodes of the Ray cluster at this address; local: start one here",
        metavar="ADDRESS")  # fmt: skip
    given = vars(parser.parse_args(arguments))
    ray = given.pop("ray", None)
    if "resume" in given:
        if len(given) > 1:
            parser.error("--resume DIR takes no other flags but --ray: they are in DIR/config.json")
        return Path(given["resume"]), ray
    if "schedule" not in given:
        choices = f"{names.replace(' ', ', ')}, all, or FILE.py:FUNCTION"
        parser.error(f"--schedule is missing; choose from {choices}")
    records = {"train", "test"} & set(given)
    if records and "data" in given:
        parser.error("--data does not go with --train and --test")
    if len(records) == 1:
        parser.error("TFRecords need --train and --test")
    if "tune" in given and {"lr", "peak_lr"} & set(given):
        parser.error("--tune chooses the rates itself; leave out --lr and --peak-lr")
    given.setdefault("name", datetime.datetime.now().strftime("%Y%m%d-%H%M%S"))
    if not cli.is_folder_name(given["name"]):
        parser.error(f"--name must be a plain folder name, got {given['name']!r}")
    if not records and given.get("data", Settings.data) == "digits":
        given.setdefault("image_size", DIGITS_SIZE)
    settings = Settings(**given)
    if settings.export and Path(settings.export).suffix != ".keras":
        parser.error(f"--export must end in .keras, got {settings.export}")
    return settings, ray


def unroll_schedules(settings: Settings) -> dict[str, list[float]]:
    """Return the table of rates of every schedule; with --tune the control's, too.

    With --tune all have the same number of epochs, by default the largest of their own.
    """
    names, epochs = settings.schedule, settings.epochs
    flags = {"lr": schedulers.LR, "peak_lr": schedulers.PEAK_LR}
    flags |= {"drop_factor": schedulers.DROP_FACTOR}
    given = {flag: getattr(settings, flag) for flag in flags if getattr(settings, flag) is not None}
    flags |= given
    if settings.tune:
        names = [name for name in names if name != schedulers.CONTROL] + [schedulers.CONTROL]
        own = schedulers.unroll_all(names, None, **flags)
        epochs = epochs or max(map(len, own.values()))
    tables = schedulers.unroll_all(names, epochs, **flags)
    for flag, value in given.items():
        if schedulers.unroll_all(names, epochs, **flags | {flag: value / 2}) == tables:
            name = flag.replace("_", "-")
            raise schedulers.ScheduleError(f"--{name}: no chosen schedule reads it; leave it out")
    for label, rates in tables.items():
        if settings.tune and not any(rates):
            raise schedulers.ScheduleError(f"{label} is 0 in every epoch; --tune cannot scale it")
    return tables


def resume_command(directory: Path, ray: str | None) -> str:
    """Return the command that finishes an experiment, invoked as this process was."""
    called = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    return shlex.join([*called, "--resume", str(directory), *(["--ray", ray] if ray else [])])


def end_on_signals(directory: Path, ray: str | None) -> None:
    """End at once on Ctrl-C and SIGTERM, with one line that tells how to go on.

    TensorFlow's calls cannot be cancelled, but files are always whole, so it does not
    wait for them.
    """

    def end(number: int, frame: object) -> None:
        begun = (directory / "config.json").exists()
        way_on = f"go on with: {resume_command(directory, ray)}" if begun else "nothing was begun"
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            newline = "\n" if sys.stderr.isatty() else ""  # below the progress bar
            print(f"{newline}interrupted; {way_on}", file=sys.stderr, flush=True)
        os._exit(128 + number)  # as a shell reports it: 130, 143

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def main(arguments: list[str]) -> int:
    """Run the command line and return the exit status."""
    # Tasks are spread over the cores, so BLAS must not use all of them for each. It asks when NumPy
    # is imported, perhaps by a user's schedule.
    for library in ("OPENBLAS_NUM", "OMP_NUM", "MKL_NUM", "VECLIB_MAXIMUM"):
        os.environ[f"{library}_THREADS"] = "1"
    settings, ray = parse_arguments(arguments)
    resumed = isinstance(settings, Path)
    directory = settings if resumed else Path(settings.logdir) / settings.name
    end_on_signals(directory, ray)
    try:
        if not resumed:
            tables = unroll_schedules(settings)
    except schedulers.ScheduleError as error:
        return cli.refuse("train.py", error)

    # TensorFlow is loaded only now, so that a typo is told at once.
    import experiment

    try:
        if resumed:
            experiment.resume(directory, ray)
        else:
            experiment.run(settings, tables, ray)
    except experiment.UnfinishedError as error:
        return cli.refuse("train.py", f"{error}; go on with: {resume_command(directory, ray)}")
    except experiment.REFUSALS as error:
        return cli.refuse("train.py", experiment.describe_error(error))
    print(f"\nlogs: {directory}; show them with: tensorboard --logdir {directory.parent}")
    return 0


if __name__ == "__main__":
    cli.end_quietly()
    cli.print_lines_at_once()
    cli.silence_native_stderr()
    sys.exit(main(sys.argv[1:]))
