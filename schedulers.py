"""The learning-rate schedules as pure functions `(epoch, lr) -> lr`: the report's and a control.

    python schedulers.py                          # the rates of every epoch, side by side
    python schedulers.py exp_warmup mine.py:own   # these

`epoch` counts from 0; `lr` is the previous epoch's rate, in epoch 0 the initial rate. TensorFlow is
not imported, so a typo is told at once.
"""

import functools
import inspect
import itertools
import math
import numbers
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

from runtime import cli
from runtime.messages import Refusal

Schedule = Callable[[int, float], float]

LR = 4e-5  # initial rate of every run in the report
PEAK_LR = 4e-4  # rate at the end of the warm-up
DROP_FACTOR = 0.1  # what `linear` and `linear_warmup` multiply by
WARMUP_EPOCHS = 10  # the peak is reached in epoch 10, the eleventh
OWN_EPOCHS = 50  # epochs of a user's schedule, as of the report's runs 2 and 3
LARGEST = 2.0**128 * (1 - 2.0**-24)  # the largest float32; the optimizer's rate is one


def warmup(epoch: int, peak_lr: float) -> float:
    """Return the rate of the linear warm-up: `peak_lr / 10 * epoch`, `peak_lr` in epoch 10."""
    return peak_lr / WARMUP_EPOCHS * epoch


def exp(epoch: int, lr: float) -> float:
    """Exponential decrease (report, run 1): `lr * e^-0.1` through epoch 10, constant afterwards.

    From 4e-5: 3.6193e-5 in epoch 0, 1.3315e-5 from epoch 10 on.
    """
    return lr * math.exp(-0.1) if epoch <= 10 else lr


def linear(epoch: int, lr: float, *, drop_factor: float = DROP_FACTOR) -> float:
    """Step decrease, titled "linear decrease" (report, run 2): `lr * drop_factor` in epoch 30.

    The report's listing returns `lr` in both branches, but its log and its curves show 4e-6 from
    epoch 30 on, as the title says. This follows the run; `drop_factor=1` is the listing.
    """
    return lr * drop_factor if epoch == 30 else lr


def exp_warmup(epoch: int, lr: float, *, peak_lr: float = PEAK_LR) -> float:
    """Warm-up, then exponential decrease (report, run 3): `lr * e^-0.1` after epoch 10.

    Closed form: `peak_lr * e^(-0.1 * (epoch - 10))` from epoch 10 on. The first rate is 0.
    """
    return warmup(epoch, peak_lr) if epoch <= WARMUP_EPOCHS else lr * math.exp(-0.1)


def linear_warmup(
    epoch: int, lr: float, *, peak_lr: float = PEAK_LR, drop_factor: float = DROP_FACTOR
) -> float:
    """Warm-up, then step decrease (report, run 4): `lr * drop_factor` in epochs 40 and 60."""
    if epoch <= WARMUP_EPOCHS:
        return warmup(epoch, peak_lr)
    return lr * drop_factor if epoch in (40, 60) else lr


def constant(epoch: int, lr: float) -> float:
    """No schedule: `lr` in every epoch. Not in the report; the control of a comparison."""
    return lr


# name -> (schedule, its epochs): the only list of schedules.
SCHEDULES: dict[str, tuple[Callable, int]] = {
    "exp": (exp, 60),
    "linear": (linear, 50),
    "exp_warmup": (exp_warmup, 50),
    "linear_warmup": (linear_warmup, 70),
    "constant": (constant, 50),
}
CONTROL = "constant"
ALL = [name for name in SCHEDULES if name != CONTROL]  # what the name `all` stands for
NAMES_HELP = f"one or more of: {' '.join(SCHEDULES)}; or all, or FILE.py:FUNCTION"


def find_schedule(name: str, **parameters: float) -> tuple[str, Schedule, int]:
    """Return label, schedule and default epochs of a registered name or of `FILE.py:FUNCTION`.

    The label is a valid folder name; registered schedules are given the parameters that they take.
    """
    if name in SCHEDULES:
        schedule, epochs = SCHEDULES[name]
        taken = parameters.keys() & inspect.signature(schedule).parameters
        return name, functools.partial(schedule, **{key: parameters[key] for key in taken}), epochs
    path, _, function = name.rpartition(":")
    if not path.endswith(".py"):
        choices = f"{', '.join(SCHEDULES)}, all, or FILE.py:FUNCTION"
        raise Refusal(f"unknown schedule {name!r}; choose from {choices}")
    if not Path(path).is_file():
        raise Refusal(f"{path}: no such file; --schedule wants FILE.py:FUNCTION")
    sys.path.append(str(Path(path).parent))  # The file may import its neighbours.
    schedule = runpy.run_path(path).get(function)
    if not callable(schedule):
        raise Refusal(f"{path} has no function {function!r}")
    label = re.sub(r"[^\w.-]", "_", f"{Path(path).stem}.{function}").lstrip(".-")
    return label, schedule, OWN_EPOCHS


def unroll(schedule: Schedule, epochs: int, lr: float, name: str) -> list[float]:
    """Return `epochs` rates, float64, each computed from the last, starting from `lr`.

    Raises Refusal for anything but a number from 0 to LARGEST.
    """
    rates = []
    for epoch in range(epochs):
        rate = schedule(epoch, lr)
        is_number = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
        if not (is_number and 0 <= rate <= LARGEST):
            wanted = "a finite number >= 0 that float32 holds"
            raise Refusal(f"{name} must return {wanted}; epoch {epoch} returned {rate!r}")
        lr = float(rate)
        rates.append(lr)
    return rates


def unroll_all(
    names: list[str], epochs: int | None = None, equal: bool = False, lr: float = LR, **parameters
) -> dict[str, list[float]]:
    """Return `{label: rates}` of the chosen schedules, `all` for the report's four.

    `epochs` None: each schedule's own, or, to be `equal`, the largest of them. Raises Refusal
    also for a name that comes twice; what a user's file raises is not caught.
    """
    names = [name for given in names for name in (ALL if given == "all" else [given])]
    schedules: dict[str, list] = {}
    for name in names:
        if names.count(name) > 1:
            raise Refusal(f"--schedule names {name} twice")
        label, *schedule = find_schedule(name, **parameters)
        while label in schedules:
            label += "-2"  # a function of one name in another file of one name
        schedules[label] = schedule
    if equal:
        epochs = epochs or max(own for _, own in schedules.values())
    tables = schedules.items()
    return {label: unroll(schedule, epochs or own, lr, label) for label, (schedule, own) in tables}


def scale_to_peak(rates: list[float], peak: float) -> list[float]:
    """Return a table of rates scaled so that its largest is `peak`."""
    largest = max(rates)
    return [rate / largest * peak for rate in rates]


if __name__ == "__main__":
    cli.set_up_streams()
    parser = cli.Parser("schedulers.py", __doc__)
    parser.add_argument("names", nargs="*", default=["all"], metavar="NAME", help=NAMES_HELP)
    try:
        tables = unroll_all(parser.parse_args().names)
    except Refusal as refusal:
        parser.error(str(refusal))
    columns = [[label, *(f"{rate:.4e}" for rate in rates)] for label, rates in tables.items()]
    width = max(13, *map(len, tables)) + 2
    for row, cells in enumerate(itertools.zip_longest(*columns, fillvalue="")):
        print(f"{row - 1 if row else 'epoch':>5}", *(f"{cell:>{width}}" for cell in cells), sep="")
