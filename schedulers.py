"""The four learning-rate schedules of the report, as pure functions `(epoch, lr) -> lr`.

    python schedulers.py                          # the four tables side by side, without training
    python schedulers.py exp_warmup mine.py:own   # these

`epoch` counts from 0; `lr` is the rate of the previous epoch, and the initial rate before the first. Nothing but the
standard library is imported, so a typo in a name is found, and a test is run, before TensorFlow is even loaded.
"""

import functools
import importlib.util
import inspect
import itertools
import math
import numbers
import re
import sys
import traceback
from pathlib import Path

LR = 4e-5  # initial rate of every run in the report
PEAK_LR = 4e-4  # where the warm-up ends
DROP_FACTOR = 0.1  # what `linear` and `linear_warmup` multiply by
WARMUP_EPOCHS = 10  # the peak is reached in epoch 10, the eleventh
OWN_EPOCHS = 50  # length of a run with a schedule of one's own, as the report's runs 2 and 3
LARGEST = 2.0**128 * (1 - 2.0**-24)  # number of float32, in which Keras' optimizers hold the rate
JUMP = 2  # the preview points out a rate that changes by more than this factor


class ScheduleError(ValueError):
    """A schedule cannot be used; the message says, in one line, which one, in which epoch, and why."""

    def __init__(self, message):
        super().__init__(" ".join(message.split()))


def warmup(epoch, peak_lr):
    """Rate of the linear warm-up, `peak_lr / 10 * epoch`: 0 in epoch 0, `peak_lr` in epoch 10."""
    return peak_lr / WARMUP_EPOCHS * epoch


def exp(epoch, lr):
    """Exponential decrease (report, run 1): `lr * e^-0.1` up to and including epoch 10, constant afterwards.

    From 4e-5: 3.6193e-5 in epoch 0, 1.3315e-5 from epoch 10 on.
    """
    return lr * math.exp(-0.1) if epoch <= 10 else lr


def linear(epoch, lr, *, drop_factor=DROP_FACTOR):
    """Step decrease, titled "linear decrease" (report, run 2): `lr * drop_factor` in epoch 30, else `lr`.

    The report's listing returns `lr` in both branches, but its log and its curves show 4e-6 from epoch 30 on, as the
    title says. This follows the run; `drop_factor=1` is the listing word for word.
    """
    return lr * drop_factor if epoch == 30 else lr


def exp_warmup(epoch, lr, *, peak_lr=PEAK_LR):
    """Warm-up, then exponential decrease (report, run 3): `lr * e^-0.1` in every epoch after the tenth.

    Closed form: `peak_lr * e^(-0.1 * (epoch - 10))` from epoch 10 on; the first epoch trains at rate 0.
    """
    return warmup(epoch, peak_lr) if epoch <= WARMUP_EPOCHS else lr * math.exp(-0.1)


def linear_warmup(epoch, lr, *, peak_lr=PEAK_LR, drop_factor=DROP_FACTOR):
    """Warm-up, then step decrease (report, run 4): `lr * drop_factor` in epochs 40 and 60, else `lr`.

    The first epoch trains at rate 0.
    """
    if epoch <= WARMUP_EPOCHS:
        return warmup(epoch, peak_lr)
    return lr * drop_factor if epoch in (40, 60) else lr


# name -> (schedule, epochs of its run in the report): the only list of schedules there is.
SCHEDULES = {
    "exp": (exp, 60),
    "linear": (linear, 50),
    "exp_warmup": (exp_warmup, 50),
    "linear_warmup": (linear_warmup, 70),
}


def named(name, *, peak_lr=PEAK_LR, drop_factor=DROP_FACTOR):
    """Return `(label, schedule, epochs)` of a registered name or of one's own `FILE.py:FUNCTION`.

    `label` is fit for a directory name, `schedule` is `(epoch, lr) -> lr` with the parameters it reads already bound,
    `epochs` its default length. Raises ScheduleError where the name, the file or a parameter is wrong.
    """
    parameters = {"peak_lr": peak_lr, "drop_factor": drop_factor}
    for parameter, value in parameters.items():
        if not (math.isfinite(value) and value > 0):
            raise ScheduleError(f"{parameter} must be a finite number > 0, got {value}")
    if name in SCHEDULES:
        schedule, epochs = SCHEDULES[name]
        reads = inspect.signature(schedule).parameters
        bound = {parameter: value for parameter, value in parameters.items() if parameter in reads}
        return name, functools.partial(schedule, **bound), epochs
    path, colon, function = name.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise ScheduleError(
            f"unknown schedule {name!r}; choose from {', '.join(SCHEDULES)}, all, or FILE.py:FUNCTION"
        )
    label = re.sub(r"[^\w.-]", "_", f"{Path(path).stem}.{function}").lstrip(".-")
    return label, _function_in(path, function), OWN_EPOCHS


def _function_in(path, function):
    """The function of that name in a Python file, which is run: it is the user's own code, named by the user."""
    if not Path(path).is_file():
        raise ScheduleError(f"{path}: no such file; --schedule wants FILE.py:FUNCTION")
    spec = importlib.util.spec_from_file_location(f"own_schedule_{Path(path).stem}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(
        spec
    )  # dataclasses look themselves up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ScheduleError(f"{path} cannot be loaded: {_described(error)}") from error
    if not callable(getattr(module, function, None)):
        raise ScheduleError(f"{path} has no function {function!r}")
    return getattr(module, function)


def unroll(schedule, epochs, lr, name=None):
    """List the rates of `epochs` epochs, float64, each computed from the one before, the first from `lr`.

    Raises ScheduleError for a schedule that is not a function of two arguments, that returns anything but a number from
    0 to LARGEST, or that raises; the message names the schedule, the epoch, and the value or the exception.
    """
    bare = getattr(schedule, "func", schedule)  # what a functools.partial wraps
    name = name or getattr(bare, "__name__", type(bare).__name__)
    a_rate = "a finite number >= 0 that float32 holds"
    if epochs < 1:
        raise ScheduleError(f"{name}: epochs must be >= 1, got {epochs}")
    if not 0 <= lr <= LARGEST:
        raise ScheduleError(f"{name}: the initial lr must be {a_rate}, got {lr}")
    try:
        inspect.signature(schedule).bind(0, lr)
    except (TypeError, ValueError) as error:
        raise ScheduleError(
            f"{name} is not a function of two arguments (epoch, lr): {error}"
        ) from error
    rates = []
    for epoch in range(epochs):
        try:
            rate = schedule(epoch, lr)
            lr = (
                float(rate)
                if isinstance(rate, numbers.Real) and not isinstance(rate, bool)
                else math.nan
            )
        except (Exception, SystemExit) as error:
            raise ScheduleError(f"{name} failed in epoch {epoch}: {_described(error)}") from error
        if not 0 <= lr <= LARGEST:
            raise ScheduleError(
                f"{name} must return {a_rate}; in epoch {epoch} it returned {rate!r}"
            )
        rates.append(lr)
    return rates


def _described(error):
    """`ZeroDivisionError: division by zero (mine.py, line 3)`: the exception and where it was raised."""
    if isinstance(error, SyntaxError):
        message, file, line = error.msg, error.filename, error.lineno
    else:
        last = traceback.extract_tb(error.__traceback__)[-1]
        message, file, line = error, last.filename, last.lineno
    where = f" ({Path(file).name}, line {line})" if file and line else ""
    return f"{type(error).__name__}: {message}{where}"


def jumps(rates):
    """List `(epoch, before, after)` wherever a rate changes by more than a factor of 2 from one epoch to the next."""
    pairs = enumerate(itertools.pairwise(rates), start=1)
    return [
        (epoch, old, new) for epoch, (old, new) in pairs if max(old, new) > JUMP * min(old, new)
    ]


def preview(tables):
    """Return the rates of several schedules, `{label: rates}`, side by side as text, and below it their jumps."""
    width = max(13, *map(len, tables)) + 2
    lines = ["epoch" + "".join(f"{label:>{width}}" for label in tables)]
    for epoch in range(max(map(len, tables.values()))):
        cells = [
            f"{rates[epoch]:{width}.4e}" if epoch < len(rates) else " " * width
            for rates in tables.values()
        ]
        lines.append(f"{epoch:5}{''.join(cells)}".rstrip())
    lines.append("")
    for label, rates in tables.items():
        found = [
            f"epoch {epoch}: {before:.4g} -> {after:.4g}" for epoch, before, after in jumps(rates)
        ]
        lines.append(
            f"{label}: "
            + (f"jumps by more than {JUMP}x in " + ", ".join(found) if found else "no jumps")
        )
    return "\n".join(lines)


if __name__ == "__main__":
    import argparse  # only now: whoever imports this file has no command line

    import commands

    commands.end_quietly()
    parser = commands.Parser(
        "schedulers.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    some = f"one or more of: {' '.join(SCHEDULES)}; or all, the default, or FILE.py:FUNCTION"
    parser.add_argument("names", nargs="*", metavar="NAME", help=some)
    names = parser.parse_args().names
    try:
        chosen = [named(name) for name in (SCHEDULES if names in ([], ["all"]) else names)]
        print(
            preview(
                {label: unroll(schedule, epochs, LR, label) for label, schedule, epochs in chosen}
            )
        )
    except ScheduleError as error:
        print(f"schedulers.py: error: {error}", file=sys.stderr)
        sys.exit(2)
