"""The learning-rate schedules as pure functions `(epoch, lr) -> lr`: the report's and two more.

    python schedulers.py                          # the rates of every epoch, side by side
    python schedulers.py exp_warmup mine.py:own   # these

`epoch` counts from 0; `lr` is the previous epoch's rate, in epoch 0 the initial rate. TensorFlow is
not imported, so a typo is told at once.
"""

import contextlib
import importlib.machinery
import inspect
import itertools
import math
import numbers
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

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


def cosine(epoch: int, lr: float, *, epochs: int, peak_lr: float = PEAK_LR) -> float:
    """Warm-up, then half a cosine to 0 in the last epoch. Not in the report; widely used.

    Raises Refusal where the warm-up leaves no epoch to decay in.
    """
    decay = epochs - 1 - WARMUP_EPOCHS
    if decay < 1:
        least = WARMUP_EPOCHS + 2
        raise Refusal(f"cosine needs --epochs {least} or more, the warm-up included; got {epochs}")
    if epoch <= WARMUP_EPOCHS:
        return warmup(epoch, peak_lr)
    return peak_lr * (1 + math.cos(math.pi * (epoch - WARMUP_EPOCHS) / decay)) / 2


class Registered(NamedTuple):
    """A schedule of this module."""

    schedule: Callable
    epochs: int  # unless --epochs says otherwise
    # Behind a warm-up, which starts from 0, the initial rate is never read.
    reads_lr: bool = True


# The only list of schedules.
SCHEDULES = {
    "exp": Registered(exp, 60),
    "linear": Registered(linear, 50),
    "exp_warmup": Registered(exp_warmup, 50, reads_lr=False),
    "linear_warmup": Registered(linear_warmup, 70, reads_lr=False),
    "constant": Registered(constant, 50),
    "cosine": Registered(cosine, 50, reads_lr=False),
}
CONTROL = "constant"
ALL = ["exp", "linear", "exp_warmup", "linear_warmup"]  # what the name `all` stands for
NAMES_HELP = f"one or more of: {' '.join(SCHEDULES)}; or all, or FILE.py:FUNCTION"
# What a schedule is given if it takes it by name, beside `epochs`; lr0 is the initial rate.
PARAMETERS = {"lr0": LR, "peak_lr": PEAK_LR, "drop_factor": DROP_FACTOR}


class Chosen(NamedTuple):
    """A schedule that the command line names."""

    label: str  # a valid folder name
    schedule: Callable
    epochs: int
    reads_lr: bool = True
    # In which it is called.
    context: contextlib.AbstractContextManager = contextlib.nullcontext()

    def takes(self, flag: str) -> bool:
        """Whether one of the flags `lr`, `peak_lr`, `drop_factor` can change its rates."""
        if flag == "lr":
            return self.reads_lr or "lr0" in _named_parameters(self.schedule)
        return flag in _named_parameters(self.schedule)

    def bind(self, epochs: int, flags: dict[str, float]) -> Schedule:
        """Return it as `(epoch, lr) -> lr`; raises Refusal where it cannot be called like that."""
        flags = {"lr0" if flag == "lr" else flag: value for flag, value in flags.items()}
        given: dict[str, Any] = {"epochs": epochs, **flags}
        arguments = {}
        for name, default in _named_parameters(self.schedule).items():
            # A default of the function holds until a flag says otherwise.
            values = given if default is not inspect.Parameter.empty else PARAMETERS | given
            if name in values:
                arguments[name] = values[name]
        signature = inspect.signature(self.schedule)
        try:
            signature.bind(0, LR, **arguments)
        except TypeError as error:
            reason = f"is {signature}, but schedules are called with (epoch, lr)"
            raise Refusal(f"{self.label} {reason}: {error}") from None

        def call(epoch: int, lr: float) -> float:
            with self.context:
                return self.schedule(epoch, lr, **arguments)

        return call


def _named_parameters(schedule: Callable) -> dict[str, Any]:
    """Return `{name: default}` of what a schedule takes behind epoch and lr."""
    parameters = list(inspect.signature(schedule).parameters.values())[2:]
    return {parameter.name: parameter.default for parameter in parameters}


class Neighbours:
    """Inside it, a user's file imports modules of its own folder, whatever the project's are named.

    Neighbours are the .py files of the folder, and folders in it that hold .py files. They are
    kept for the next time, and hidden from the project, whose modules are hidden meanwhile.
    """

    def __init__(self, folder: Path):
        self._folder = str(folder.resolve())
        self._modules: dict[str, ModuleType] = {}
        # In the project's own folder they are the project's modules, and must not be doubled.
        if folder.resolve() != Path(__file__).parent:
            names = {path.parent.name for path in folder.glob("*/*.py")}
            names |= {path.stem for path in folder.glob("*.py")}
            self._names = names - set(sys.builtin_module_names) - {"__main__"}
        else:
            self._names = set()

    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a neighbour, as `sys.meta_path` asks for it."""
        if name not in self._names:
            return None
        return importlib.machinery.PathFinder.find_spec(name, [self._folder], target)

    def __enter__(self) -> None:
        self._hidden = self._take_modules()
        sys.modules.update(self._modules)
        sys.meta_path.insert(0, self)

    def __exit__(self, *error: object) -> None:
        sys.meta_path.remove(self)
        self._modules = self._take_modules()
        sys.modules.update(self._hidden)

    def _take_modules(self) -> dict[str, ModuleType]:
        """Remove the modules of these names from `sys.modules`, and return them."""
        names = [name for name in sys.modules if name.partition(".")[0] in self._names]
        return {name: sys.modules.pop(name) for name in names}


def find_schedule(name: str) -> Chosen:
    """Return a registered schedule, or that of `FILE.py:FUNCTION`; raises Refusal."""
    if name in SCHEDULES:
        return Chosen(name, *SCHEDULES[name])
    path, _, function = name.rpartition(":")
    if not path.endswith(".py"):
        choices = f"{', '.join(SCHEDULES)}, all, or FILE.py:FUNCTION"
        raise Refusal(f"unknown schedule {name!r}; choose from {choices}")
    if not Path(path).is_file():
        raise Refusal(f"{path}: no such file; --schedule wants FILE.py:FUNCTION")
    neighbours = Neighbours(Path(path).parent)
    with neighbours:
        schedule = runpy.run_path(path).get(function)
    if not callable(schedule):
        raise Refusal(f"{path} has no function {function!r}")
    label = re.sub(r"[^\w.-]", "_", f"{Path(path).stem}.{function}").lstrip(".-")
    # It may import more when it is called.
    return Chosen(label, schedule, OWN_EPOCHS, context=neighbours)


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
    names: list[str], epochs: int | None = None, equal: bool = False, **flags: float
) -> dict[str, list[float]]:
    """Return `{label: rates}` of the chosen schedules, `all` for the report's four.

    `epochs` None: each schedule's own, or, to be `equal`, the largest of them. `flags` are those
    given of `lr`, `peak_lr` and `drop_factor`. Raises Refusal also for a name that comes twice and
    for a flag that no chosen schedule takes; what a user's file raises is not caught.
    """
    names = [name for given in names for name in (ALL if given == "all" else [given])]
    schedules: dict[str, Chosen] = {}
    for name in names:
        if names.count(name) > 1:
            raise Refusal(f"--schedule names {name} twice")
        chosen = find_schedule(name)
        while chosen.label in schedules:
            # A function of one name in another file of one name.
            chosen = chosen._replace(label=chosen.label + "-2")
        schedules[chosen.label] = chosen
    for flag in flags:
        if not any(chosen.takes(flag) for chosen in schedules.values()):
            reason = "it changes no rate of the chosen schedules; leave it out"
            raise Refusal(f"--{flag.replace('_', '-')}: {reason}")
    if equal:
        epochs = epochs or max(chosen.epochs for chosen in schedules.values())
    tables = {}
    for label, chosen in schedules.items():
        count = epochs or chosen.epochs
        tables[label] = unroll(chosen.bind(count, flags), count, flags.get("lr", LR), label)
    return tables


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
