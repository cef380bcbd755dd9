"""Compare learning-rate schedules on a frozen MobileNetV2: which is better, and how sure are we?

python train.py --schedule exp_warmup                       # digits, no download
python train.py --schedule all --tune --seeds 5             # all, each at its own best rate
python train.py --schedule all --seeds 5 --data flowers/    # an image folder, with intervals
python train.py --schedule all --train 'rec/train*' --test 'rec/test*'    # TFRecords
python train.py --schedule exp --data tfds:tf_flowers       # a TFDS data set
python train.py --schedule mine.py:cosine                   # your own schedule: (epoch, lr) -> lr
"""

import argparse
import contextlib
import dataclasses
import datetime
import os
import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import schedulers
from runtime import cli
from runtime.messages import Refusal, Unfinished, describe
from storage.settings import DIGITS_SIZE, Settings


@dataclass(frozen=True)
class Command:
    """What train.py is asked to do: run a new experiment, or, without settings, resume one."""

    directory: Path  # of the experiment
    settings: Settings | None
    ray: str | None

    @property
    def resume_line(self) -> str:
        """The command that goes on where this one stops."""
        # The interpreter, its options and the script, as this process was called.
        called = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
        if cli.in_notebook():
            called = ["%run", sys.argv[0]]
        ray = ["--ray", self.ray] if self.ray else []
        return shlex.join([*called, "--resume", str(self.directory), *ray])


def parse_arguments(arguments: list[str]) -> Command:
    """Return what the command line asks for.

    Every mistake that can be seen without data ends the process here, with exit status 2.
    """
    parser = cli.Parser("train.py", __doc__, argument_default=argparse.SUPPRESS)
    for field in dataclasses.fields(Settings):
        options = dict(field.metadata)
        if field.default not in (None, False, ()):
            options["help"] += f" (default: {field.default})"
        parser.add_argument(f"--{field.name.replace('_', '-')}", **options)
    help = "finish the experiment in DIR, with the arguments it was begun with"
    parser.add_argument("--resume", help=help, metavar="DIR")
    help = "run on all nodes of the Ray cluster at this address; local: start one here"
    parser.add_argument("--ray", help=help, metavar="ADDRESS")
    given = vars(parser.parse_args(arguments))
    ray = given.pop("ray", None)
    if "resume" in given:
        if len(given) > 1:
            parser.error("--resume DIR takes no other flags but --ray: they are in DIR/config.json")
        return Command(Path(given["resume"]), None, ray)
    if "schedule" not in given:
        parser.error(f"--schedule is missing; give {schedulers.NAMES_HELP}")
    records = {"train", "test"} & set(given)
    if records and "data" in given:
        parser.error("--data does not go with --train and --test")
    if len(records) == 1:
        parser.error("TFRecords need --train and --test")
    if "tune" in given and {"lr", "peak_lr"} & set(given):
        parser.error("--tune chooses the rates itself; leave out --lr and --peak-lr")
    name = given.setdefault("name", datetime.datetime.now().strftime("%Y%m%d-%H%M%S"))
    if not name or name != Path(name).name or name.startswith(".") or not name.isprintable():
        parser.error(f"--name must be a plain folder name, got {name!r}")
    if records:
        given["data"] = None
    elif given.get("data", Settings.data) == "digits":
        given.setdefault("image_size", DIGITS_SIZE)
    for path in given.get("export", ()):
        if Path(path).suffix not in (".keras", ".tflite"):
            parser.error(f"--export must end in .keras or .tflite, got {path}")
    settings = Settings(**given)
    return Command(Path(settings.logdir) / settings.name, settings, ray)


def unroll_schedules(settings: Settings) -> dict[str, list[float]]:
    """Return the rates of every schedule, with --tune also the control's; raises Refusal."""
    names = list(settings.schedule)
    if settings.tune and schedulers.CONTROL not in names:
        names.append(schedulers.CONTROL)
    flags = {flag: getattr(settings, flag) for flag in ("lr", "peak_lr", "drop_factor")}
    flags = {flag: value for flag, value in flags.items() if value is not None}
    tables = schedulers.unroll_all(names, settings.epochs, settings.tune, **flags)
    for label, rates in tables.items():
        if settings.tune and not any(rates):
            raise Refusal(f"{label} is 0 in every epoch; --tune cannot scale it")
    return tables


def end_on_signals(command: Command) -> None:
    """End at once on Ctrl-C and SIGTERM, with one line that tells how to go on.

    TensorFlow's calls cannot be cancelled, but files are always whole, so it does not
    wait for them.
    """

    def end(number: int, frame: object) -> None:
        begun = (command.directory / "config.json").exists()
        advice = f"continue with: {command.resume_line}" if begun else "repeat the command"
        newline = "\n" if sys.stderr.isatty() else ""  # below the progress bar
        line = f"{newline}interrupted; {advice}\n".encode(errors="backslashreplace")
        # Not by print, which fails where the signal came in the middle of another print.
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), line)
        os._exit(128 + number)  # as a shell reports it: 130, 143

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def main(arguments: list[str]) -> int:
    """Run the command line and return the exit status."""
    # Tasks are spread over the cores, so BLAS must not use all of them for each. It reads these
    # when NumPy is imported, perhaps by a user's schedule.
    for library in ("OPENBLAS_NUM", "OMP_NUM", "MKL_NUM", "VECLIB_MAXIMUM"):
        os.environ[f"{library}_THREADS"] = "1"
    command = parse_arguments(arguments)
    if not cli.in_notebook():
        end_on_signals(command)
    try:
        tables = unroll_schedules(command.settings) if command.settings else {}
        # TensorFlow is loaded only now, so that a typo is reported at once.
        import experiment

        if command.settings:
            experiment.run(command.settings, tables, command.ray)
        else:
            experiment.resume(command.directory, command.ray)
    except (Refusal, OSError) as error:
        unfinished = isinstance(error, Unfinished)
        advice = f"; continue with: {command.resume_line}" if unfinished else ""
        return cli.refuse("train.py", describe(error) + advice)
    return 0


if __name__ == "__main__":
    cli.set_up_streams()
    sys.exit(main(sys.argv[1:]))
