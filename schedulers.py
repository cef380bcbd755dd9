"""The learning-rate schedules as pure functions `(epoch, lr) -> lr`: the report's and two more.

    python schedulers.py                          # the rates of every epoch, side by side
    python schedulers.py exp_warmup mine.py:own   # these

`epoch` counts from 0; `lr` is the previous epoch's rate, in epoch 0 the initial rate. TensorFlow is
not imported, so a typo is told at once.
"""

import contextlib
import functools
import inspect
import itertools
import math
import numbers
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

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
    """Warm-up, then half a cosine from the peak in epoch 10 to 0 in the last epoch.

    Not in the report; Loshchilov and Hutter 2017, SGDR, without restarts. Of 11 epochs or fewer
    only the warm-up is left.
    """
    if epoch <= WARMUP_EPOCHS:
        return warmup(epoch, peak_lr)
    part = (epoch - WARMUP_EPOCHS) / (epochs - 1 - WARMUP_EPOCHS)
    return peak_lr / 2 * (1 + math.cos(math.pi * part))


@dataclass(frozen=True)
class Entry:
    """A registered schedule."""

    function: Callable
    epochs: int  # by default
    reads_lr: bool = True  # whether the initial rate changes anything


# The only list of schedules.
SCHEDULES = {
    "exp": Entry(exp, 60),
    "linear": Entry(linear, 50),
    "exp_warmup": Entry(exp_warmup, 50, reads_lr=False),
    "linear_warmup": Entry(linear_warmup, 70, reads_lr=False),
    "constant": Entry(constant, 50),
    "cosine": Entry(cosine, 50, reads_lr=False),
}
CONTROL = "constant"
ALL = ["exp", "linear", "exp_warmup", "linear_warmup"]  # what the name `all` stands for
NAMES_HELP = f"one or more of: {' '.join(SCHEDULES)}; or all, or FILE.py:FUNCTION"
PARAMETERS = ("epochs", "lr0", "peak_lr", "drop_factor")  # given to schedules that take them


@dataclass(frozen=True)
class Chosen:
    """A schedule that was found by its name."""

    label: str  # a valid folder name
    function: Callable
    epochs: int  # by default
    reads_lr: bool = True

    def takes(self, flag: str) -> bool:
        """Whether a flag of the command line changes its rates: lr, peak_lr or drop_factor."""
        return self.reads_lr if flag == "lr" else flag in _parameters(self.function)

    def rates(self, epochs: int, lr: float, **given: float) -> list[float]:
        """Return its rates, float64; `given` are flags. Raises Refusal."""
        values = {"peak_lr": PEAK_LR, "drop_factor": DROP_FACTOR, **given}
        values |= {"epochs": epochs, "lr0": lr}
        taken = {
            name: values[name]
            for name, parameter in _parameters(self.function).items()
            # A default of the schedule's own stays unless a flag says otherwise.
            if name in ("epochs", "lr0", *given) or parameter.default is parameter.empty
        }
        return unroll(functools.partial(self.function, **taken), epochs, lr, self.label)


def _parameters(function: Callable) -> dict[str, inspect.Parameter]:
    """Return those of PARAMETERS that a schedule takes by name."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # Functions in C may not tell.
        return {}
    by_name = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = [name for name in PARAMETERS if name in parameters]
    return {name: parameters[name] for name in names if parameters[name].kind in by_name}


def find_schedule(name: str) -> Chosen:
    """Return the schedule of a registered name or of `FILE.py:FUNCTION`; raises Refusal."""
    if name in SCHEDULES:
        entry = SCHEDULES[name]
        return Chosen(name, entry.function, entry.epochs, entry.reads_lr)
    path, _, function = name.rpartition(":")
    if not path.endswith(".py"):
        choices = f"{', '.join(SCHEDULES)}, all, or FILE.py:FUNCTION"
        raise Refusal(f"unknown schedule {name!r}; choose from {choices}")
    if not Path(path).is_file():
        raise Refusal(f"{path}: no such file; --schedule wants FILE.py:FUNCTION")
    neighbours = Neighbours(Path(path).resolve().parent)
    with neighbours.first():
        schedule = runpy.run_path(path).get(function)
    if not callable(schedule):
        raise Refusal(f"{path} has no function {function!r}")
    with contextlib.suppress(ValueError):  # Functions in C may not tell.
        signature = inspect.signature(schedule)
        try:
            signature.bind(0, LR, **dict.fromkeys(_parameters(schedule)))
        except TypeError:
            called = f"called with (epoch, lr), and it takes {signature}"
            told = f"by name it may take {', '.join(PARAMETERS)}"
            raise Refusal(f"{path}: {function} is {called}; {told}") from None

    @functools.wraps(schedule)
    def call(*arguments: float, **given: float) -> float:
        with neighbours.first():  # It may import when it is called.
            return schedule(*arguments, **given)

    label = re.sub(r"[^\w.-]", "_", f"{Path(path).stem}.{function}").lstrip(".-")
    return Chosen(label, call, OWN_EPOCHS)


class Neighbours:
    """The modules beside a user's file, which its imports find before the project's of one name."""

    def __init__(self, folder: Path):
        self._folder, self._imported = str(folder), {}
        names = {path.stem for path in folder.glob("*.py")}
        names |= {path.parent.name for path in folder.glob("*/__init__.py")}
        self._names = names - set(sys.stdlib_module_names) - {"__main__"}

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """Let imports find the neighbours until the block ends, and afterwards the project's."""
        hidden = self._take()
        sys.modules.update(self._imported)
        sys.path.insert(0, self._folder)
        try:
            yield
        finally:
            sys.path.remove(self._folder)
            self._imported = self._take()
            sys.modules.update(hidden)

    def _take(self) -> dict[str, ModuleType]:
        """Remove the modules that have a neighbour's name, and return them."""
        names = [name for name in sys.modules if name.partition(".")[0] in self._names]
        return {name: sys.modules.pop(name) for name in names}


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


def choose(names: list[str]) -> dict[str, Chosen]:
    """Return `{label: schedule}` of the chosen names, `all` for the report's four.

    Raises Refusal also for a name that comes twice; what a user's file raises is not caught.
    """
    names = [name for given in names for name in (ALL if given == "all" else [given])]
    chosen: dict[str, Chosen] = {}
    for name in names:
        if names.count(name) > 1:
            raise Refusal(f"--schedule names {name} twice")
        schedule = find_schedule(name)
        label = schedule.label
        while label in chosen:
            label += "-2"  # a function of one name in another file of one name
        chosen[label] = replace(schedule, label=label)
    return chosen


def unroll_all(
    names: list[str], epochs: int | None = None, equal: bool = False, lr: float = LR, **flags: float
) -> dict[str, list[float]]:
    """Return `{label: rates}` of the chosen schedules; `flags` are peak_lr and drop_factor.

    `epochs` None: each schedule's own, or, to be `equal`, the largest of them. Raises Refusal.
    """
    chosen = choose(names)
    if equal:
        epochs = epochs or max(schedule.epochs for schedule in chosen.values())
    return {
        label: schedule.rates(epochs or schedule.epochs, lr, **flags)
        for label, schedule in chosen.items()
    }


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
