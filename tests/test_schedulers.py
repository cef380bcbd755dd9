"""The report's rates, from literal numbers and in closed form; refusals; the preview."""

import functools
import math
import sys

import numpy as np
import pytest
from conftest import run_command

from runtime.messages import Refusal
from schedulers import ALL, SCHEDULES, find_schedule, unroll, unroll_all

# Around every epoch in which some schedule changes its rule. Each of them, and the last epoch of
# each run, needs a golden row.
BOUNDARIES = (0, 1, 9, 10, 11, 29, 30, 31, 39, 40, 41, 59, 60, 61)

# From the report's table with 40-digit decimals: e^-0.1 = 0.9048374180, e^-1 = 0.3678794412.
GOLDEN_TABLE = [
    # epoch, exp, linear, exp_warmup, linear_warmup; None once the run is over. constant: 4e-5.
    (0, 3.619349672e-5, 4e-5, 0.0, 0.0),
    (1, 3.274923012e-5, 4e-5, 4e-5, 4e-5),
    (9, 1.471517765e-5, 4e-5, 3.6e-4, 3.6e-4),
    (10, 1.331484335e-5, 4e-5, 4e-4, 4e-4),
    (11, 1.331484335e-5, 4e-5, 3.619349672e-4, 4e-4),
    (29, 1.331484335e-5, 4e-5, 5.982744769e-5, 4e-4),
    (30, 1.331484335e-5, 4e-6, 5.413411329e-5, 4e-4),
    (31, 1.331484335e-5, 4e-6, 4.898257130e-5, 4e-4),
    (39, 1.331484335e-5, 4e-6, 2.200928802e-5, 4e-4),
    (40, 1.331484335e-5, 4e-6, 1.991482735e-5, 4e-5),
    (41, 1.331484335e-5, 4e-6, 1.801968096e-5, 4e-5),
    (49, 1.331484335e-5, 4e-6, 8.096764578e-6, 4e-5),
    (59, 1.331484335e-5, None, None, 4e-5),
    (60, None, None, None, 4e-6),
    (61, None, None, None, 4e-6),
    (69, None, None, None, 4e-6),
]
COSINE = {
    0: 0.0,
    1: 4e-5,
    9: 3.6e-4,
    10: 4e-4,
    11: 3.993514616e-04,
    29: 2.080531880e-04,
    30: 1.919468120e-04,
    31: 1.758926639e-04,
    39: 6.145512930e-05,
    40: 5.029785037e-05,
    41: 4.011144732e-05,
    49: 0.0,
}
GOLDEN = {
    name: {epoch: rates[column] for epoch, *rates in GOLDEN_TABLE if rates[column] is not None}
    for column, name in enumerate(["exp", "linear", "exp_warmup", "linear_warmup"])
}
# 4e-4 * (1 + cos(pi * (epoch - 10) / 39)) / 2 from epoch 10 on.
GOLDEN["cosine"] = COSINE
GOLDEN["constant"] = {epoch: 4e-5 for epoch, *_ in GOLDEN_TABLE if epoch < 50}

# The rate of an epoch in closed form: never from the epoch before.
ORACLES = {
    "exp": lambda epoch, lr, peak, factor: lr * math.exp(-0.1 * (min(epoch, 10) + 1)),
    "linear": lambda epoch, lr, peak, factor: lr * factor ** (epoch >= 30),
    "exp_warmup": lambda epoch, lr, peak, factor: peak * min(epoch / 10, math.exp(1 - 0.1 * epoch)),
    "constant": lambda epoch, lr, peak, factor: lr,
    "cosine": lambda epoch, lr, peak, factor: (
        peak
        * min(epoch / 10, math.cos(math.pi / 2 * max(0, epoch - 10) / 89) ** 2 if epoch < 99 else 0)
    ),
    "linear_warmup": lambda epoch, lr, peak, factor: (
        peak * min(epoch / 10, 1) * factor ** ((epoch >= 40) + (epoch >= 60))
    ),
}

by_name = pytest.mark.parametrize("name", SCHEDULES)


def close(wanted, rel):
    # Without abs=0, pytest also takes anything within 1e-12.
    return pytest.approx(wanted, rel=rel, abs=0)


def rates_of(name, *, epochs=None, **flags):
    return unroll_all([name], epochs, **flags)[name]


@pytest.fixture
def own(tmp_path):
    """Write a schedule file; return its `FILE.py:FUNCTION`."""

    def write(code, file="mine.py", function="f"):
        path = tmp_path / file
        path.write_bytes(code if isinstance(code, bytes) else code.encode())
        return f"{path}:{function}"

    return write


# ---- the four schedules of the report ----


@pytest.mark.parametrize("name", GOLDEN)
def test_rates_are_the_golden_ones(name):
    rates = rates_of(name)
    assert {epoch: rates[epoch] for epoch in GOLDEN[name]} == close(GOLDEN[name], rel=1e-6)


@by_name
def test_every_schedule_has_a_golden_row_on_each_boundary_of_its_run(name):
    epochs = SCHEDULES[name].epochs
    wanted = {epoch for epoch in BOUNDARIES if epoch < epochs} | {epochs - 1}
    assert wanted <= set(GOLDEN.get(name, {}))


def test_runs_are_as_long_as_in_the_report():
    assert [SCHEDULES[name].epochs for name in ALL] == [60, 50, 50, 70]


@by_name
@pytest.mark.parametrize(
    ("lr", "peak_lr", "drop_factor"),
    [(4e-5, 4e-4, 0.1), (1e-3, 0.05, 0.5), (4e-5, 4e-4, 1), (2.0, 1e-9, 3.0)],
)
def test_every_epoch_is_as_in_closed_form(name, lr, peak_lr, drop_factor):
    wanted = [ORACLES[name](epoch, lr, peak_lr, drop_factor) for epoch in range(100)]
    flags = {"lr": lr, "peak_lr": peak_lr, "drop_factor": drop_factor}
    taken = {flag: flags[flag] for flag in flags if find_schedule(name).takes(flag)}
    rates = rates_of(name, epochs=100, **taken)
    assert rates == close(wanted, rel=1e-12)


def test_linear_with_factor_1_is_the_listing_which_never_changes_the_rate():
    assert rates_of("linear", drop_factor=1) == [4e-5] * 50


# ---- your own schedules ----


@pytest.mark.parametrize(
    "schedule",
    [
        functools.partial(lambda epoch, lr, factor: lr * factor, factor=0.5),
        lambda epoch, lr, factor=0.5: lr * factor,
        lambda epoch, lr: np.float32(lr / 2),
        lambda epoch, lr: [4, 2, 1][epoch],
    ],
    ids=["partial", "default", "numpy", "int"],
)
def test_whatever_takes_epoch_and_rate_and_returns_a_number_is_a_schedule(schedule):
    rates = unroll(schedule, 3, 8.0, "mine")
    assert rates == [4.0, 2.0, 1.0]
    assert {type(rate) for rate in rates} == {float}


def test_a_schedule_sees_the_epoch_and_the_rate_of_the_epoch_before():
    seen = []
    unroll(lambda epoch, lr: seen.append((epoch, lr)) or epoch + 0.5, 4, 4e-5, "mine")
    assert seen == [(0, 4e-5), (1, 0.5), (2, 1.5), (3, 2.5)]


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -1e-9, 3.5e38, None, "4e-5", True, 1j, np.float32("nan")]
)
def test_a_value_that_cannot_be_a_rate_is_refused_with_name_epoch_and_value(value):
    with pytest.raises(Refusal) as refused:
        unroll(lambda epoch, lr: lr if epoch < 3 else value, 5, 4e-5, "mine.f")
    wanted = "mine.f must return a finite number >= 0 that float32 holds"
    assert str(refused.value) == f"{wanted}; epoch 3 returned {value!r}"


def test_a_function_in_a_file_is_found_labelled_and_run_for_50_epochs(own):
    name = own("def f(epoch, lr): return lr + epoch\n")
    assert [(label, len(rates)) for label, rates in unroll_all([name]).items()] == [("mine.f", 50)]
    assert unroll_all([name], 3, lr=1.0) == {"mine.f": [1.0, 2.0, 4.0]}


def test_a_dataclass_with_postponed_annotations_is_a_schedule_too(own):
    lines = "from __future__ import annotations", "from dataclasses import dataclass", "@dataclass"
    body = (
        "class D:\n  k: float = 0.5\n  def __call__(self, epoch, lr): return lr * self.k\nf = D()"
    )
    assert unroll_all([own("\n".join((*lines, body)))], 2, lr=8.0) == {"mine.f": [4.0, 2.0]}


@pytest.mark.parametrize(
    ("file", "label"),
    [("...py", "f"), (".hidden.py", "hidden.f"), ("my rate.py", "my_rate.f"),
     ("v1.2.py", "v1.2.f"), ("a:b\\c$(x)*.py", "a_b_c__x__.f"), ("скорость.py", "скорость.f")],
)  # fmt: skip
def test_a_label_is_one_safe_folder_name_whatever_the_file_is_called(own, file, label):
    assert find_schedule(own("def f(epoch, lr): return lr\n", file)).label == label


def test_names_that_lead_nowhere_are_refused(own, tmp_path):
    file = own("number = 1\ndef f(epoch, lr): return lr\n").rpartition(":")[0]
    for name, message in {
        "Exp": "unknown schedule 'Exp'; choose from exp, linear, exp_warmup, linear_warmup, "
        "constant, cosine, all, or FILE.py:FUNCTION",
        "mine.txt:f": "unknown schedule 'mine.txt:f'",
        "no_such.py:f": "no_such.py: no such file; --schedule wants FILE.py:FUNCTION",
        f"{file}:g": "mine.py has no function 'g'",
        f"{file}:number": "mine.py has no function 'number'",
    }.items():
        with pytest.raises(Refusal) as refused:
            find_schedule(name)
        assert message in str(refused.value)


def test_what_a_users_file_raises_keeps_its_traceback(own):
    with pytest.raises(ZeroDivisionError):
        find_schedule(own("1 / 0\n"))
    with pytest.raises(KeyError):
        unroll_all([own("def f(epoch, lr): return {}['k']\n")])


def test_all_is_the_reports_four_and_a_schedule_named_twice_is_refused():
    assert list(unroll_all(["all"])) == ["exp", "linear", "exp_warmup", "linear_warmup"]
    with pytest.raises(Refusal, match="--schedule names exp twice"):
        unroll_all(["all", "exp"])


def test_files_of_one_name_have_labels_of_their_own_and_may_import_their_neighbours(own, tmp_path):
    for folder, factor in ("a", 0.5), ("b", 0.25):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"neighbour_{folder}.py").write_text(f"FACTOR = {factor}\n")
    code = "from neighbour_{0} import FACTOR\ndef f(epoch, lr): return lr * FACTOR\n"
    names = [own(code.format(folder), f"{folder}/mine.py") for folder in "ab"]
    assert unroll_all(names, 1, lr=1.0) == {"mine.f": [0.5], "mine.f-2": [0.25]}


def test_a_neighbour_is_the_files_own_whatever_the_projects_modules_are_called(own, tmp_path):
    modules = "import sys, data, sources.parts, storage.parts, schedulers, runtime\n"
    code = modules + "def f(epoch, lr):\n  import plots, verdict.parts\n"
    code += "  factors = data, sources.parts, storage.parts, schedulers, runtime, plots\n"
    code += "  return sum(module.FACTOR for module in factors) + verdict.parts.FACTOR\n"
    before = {name: id(module) for name, module in sys.modules.items()}
    names = []
    for folder, factor in ("a", 1), ("b", 2):
        # A folder is a package with __init__.py, as sources is here, and without, as storage.
        for name in ("data", "plots", "schedulers", "runtime", "sources/__init__", "sources/parts",
            "storage/parts", "verdict/parts"):  # fmt: skip
            path = tmp_path / folder / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"FACTOR = {factor}\n")
        names.append(own(code, f"{folder}/mine.py"))
    assert unroll_all(names, 2) == {"mine.f": [7.0, 7.0], "mine.f-2": [14.0, 14.0]}
    assert {name: id(sys.modules.get(name)) for name in before} == before


def test_a_schedule_is_given_what_it_takes_by_name(own):
    code = "def f(epoch, lr, *, {}): return {}\n"
    whole = own(code.format("epochs, lr0, peak_lr, drop_factor", "lr0 + peak_lr + drop_factor"))
    assert unroll_all([whole], 1) == {"mine.f": [4e-5 + 4e-4 + 0.1]}
    flags = {"lr": 1.0, "peak_lr": 2.0, "drop_factor": 4.0}
    assert unroll_all([whole], 1, **flags) == {"mine.f": [7.0]}
    # A default of the function holds until a flag says otherwise; epochs are always true.
    default = own(code.format("epochs=5, peak_lr=8.0", "peak_lr + epochs"))
    assert unroll_all([default], 1) == {"mine.f": [9.0]}
    assert unroll_all([default], 2, peak_lr=1.0) == {"mine.f": [3.0, 3.0]}
    # What stands first is the epoch and the rate before, whatever it is called.
    assert unroll_all([own("def f(epochs, lr0): return lr0 + epochs\n")], 2, lr=1.0) == {
        "mine.f": [1.0, 2.0]
    }


@pytest.mark.parametrize("epochs", [12, 50, 70])
def test_a_cosine_ends_at_zero_whatever_the_epochs(own, epochs):
    code = "import math\ndef f(epoch, lr, epochs, peak_lr):\n"
    code += "  return peak_lr * (1 + math.cos(math.pi * epoch / (epochs - 1))) / 2\n"
    tables = unroll_all([own(code), "cosine", "linear_warmup"], epochs, peak_lr=1.0)
    assert tables["mine.f"][-1] == tables["cosine"][-1] == 0 and tables["cosine"][10] == 1.0
    assert max(tables["cosine"]) == 1.0


def test_what_cannot_be_called_with_epoch_and_rate_is_told_with_what_it_takes(own):
    for parameters, reason in ("epoch", "too many positional"), ("epoch, lr, gamma", "'gamma'"):
        with pytest.raises(Refusal) as refused:
            unroll_all([own(f"def f({parameters}): return 1\n")])
        wanted = f"mine.f is ({parameters}), but schedules are called with (epoch, lr): "
        assert str(refused.value).startswith(wanted) and reason in str(refused.value)


def test_a_flag_is_refused_where_no_chosen_schedule_takes_it(own):
    for names, flag in (
        (["exp"], "peak_lr"),
        (["cosine", "linear_warmup"], "lr"),
        (["exp"], "drop_factor"),
    ):
        with pytest.raises(Refusal, match=f"--{flag.replace('_', '-')}: it changes no rate"):
            unroll_all(names, **{flag: 1e-3})
    assert unroll_all(["cosine", "exp"], lr=1e-3)["exp"][0] == close(1e-3 * math.exp(-0.1), 1e-12)
    with pytest.raises(Refusal, match="--peak-lr: it changes no rate"):
        unroll_all([own("def f(epoch, lr): return lr\n")], peak_lr=1.0)


# ---- preview ----


def test_the_command_prints_the_four_columns_or_the_chosen_ones(own):
    told = run_command("schedulers.py")
    assert (told.returncode, told.stderr) == (0, "")
    lines = told.stdout.splitlines()
    assert lines[0].split() == ["epoch", "exp", "linear", "exp_warmup", "linear_warmup"]
    assert lines[1].split() == ["0", "3.6193e-05", "4.0000e-05", "0.0000e+00", "0.0000e+00"]
    assert lines[70].split() == ["69", "4.0000e-06"]
    long = own("def f(epoch, lr): return 1.0\n", "a_rather_long_label.py")
    chosen = run_command("schedulers.py", long, "exp").stdout.splitlines()
    # The own schedule has 50 epochs, exp has 60.
    assert [chosen[row].rstrip() for row in (0, 1, 60)] == [
        "epoch  a_rather_long_label.f                    exp",
        "    0             1.0000e+00             3.6193e-05",
        "   59                                    1.3315e-05",
    ]


def test_the_command_refuses_in_one_line_with_status_2():
    refused = run_command("schedulers.py", "cosin")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("schedulers.py: error: unknown schedule 'cosin'")
    assert refused.stderr.count("\n") == 1
