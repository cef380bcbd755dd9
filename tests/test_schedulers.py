"""Tests of schedulers.py: the report's rates from literal numbers and in closed form, refusals, and the preview."""

import functools
import itertools
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import schedulers
from schedulers import SCHEDULES, ScheduleError, jumps, named, preview, unroll

# Around every epoch in which some schedule changes its rule; with the last epoch of its run, each needs a golden row.
BOUNDARIES = (0, 1, 9, 10, 11, 29, 30, 31, 39, 40, 41, 59, 60, 61)

# Worked out from the report's table with 40-digit decimals: e^-0.1 = 0.9048374180, e^-1 = 0.3678794412.
GOLDEN_TABLE = [
    # epoch, exp, linear, exp_warmup, linear_warmup; None once the run is over
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
GOLDEN = {
    name: {epoch: rates[column] for epoch, *rates in GOLDEN_TABLE if rates[column] is not None}
    for column, name in enumerate(["exp", "linear", "exp_warmup", "linear_warmup"])
}

# The rate of an epoch in closed form: never from the epoch before.
ORACLES = {
    "exp": lambda epoch, lr, peak, factor: lr * math.exp(-0.1 * (min(epoch, 10) + 1)),
    "linear": lambda epoch, lr, peak, factor: lr * factor ** (epoch >= 30),
    "exp_warmup": lambda epoch, lr, peak, factor: peak * min(epoch / 10, math.exp(1 - 0.1 * epoch)),
    "linear_warmup": lambda epoch, lr, peak, factor: (
        peak * min(epoch / 10, 1) * factor ** ((epoch >= 40) + (epoch >= 60))
    ),
}

by_name = pytest.mark.parametrize("name", SCHEDULES)
with_warmup = pytest.mark.parametrize("name", ["exp_warmup", "linear_warmup"])


def close(wanted, rel):
    return pytest.approx(wanted, rel=rel, abs=0)  # without abs=0, pytest also takes anything within 1e-12


def rates_of(name, *, lr=4e-5, epochs=None, **parameters):
    _label, schedule, own_epochs = named(name, **parameters)
    return unroll(schedule, epochs or own_epochs, lr)


def refusal(call, *args, **kwargs):
    """The message of the ScheduleError that the call must raise, which is one line."""
    with pytest.raises(ScheduleError) as caught:
        call(*args, **kwargs)
    (line,) = str(caught.value).splitlines()
    return line


def run_python(*args):
    return subprocess.run(
        [sys.executable, *args], cwd=Path(schedulers.__file__).parent, capture_output=True, text=True, timeout=30
    )


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
    schedule, epochs = SCHEDULES[name]
    for rates in (unroll(schedule, epochs, 4e-5), rates_of(name)):
        assert {epoch: rates[epoch] for epoch in GOLDEN[name]} == close(GOLDEN[name], rel=1e-6)


@by_name
def test_every_schedule_has_a_golden_row_on_each_boundary_of_its_run(name):
    _schedule, epochs = SCHEDULES[name]
    wanted = {epoch for epoch in BOUNDARIES if epoch < epochs} | {epochs - 1}
    assert wanted <= set(GOLDEN.get(name, {}))


def test_runs_are_as_long_as_in_the_report():
    lengths = {name: epochs for name, (_schedule, epochs) in SCHEDULES.items()}
    assert lengths == {"exp": 60, "linear": 50, "exp_warmup": 50, "linear_warmup": 70}


@by_name
@pytest.mark.parametrize(
    ("lr", "peak_lr", "drop_factor"), [(4e-5, 4e-4, 0.1), (1e-3, 0.05, 0.5), (4e-5, 4e-4, 1), (2.0, 1e-9, 3.0)]
)
def test_every_epoch_is_as_in_closed_form(name, lr, peak_lr, drop_factor):
    wanted = [ORACLES[name](epoch, lr, peak_lr, drop_factor) for epoch in range(100)]
    rates = rates_of(name, lr=lr, epochs=100, peak_lr=peak_lr, drop_factor=drop_factor)
    assert rates == close(wanted, rel=1e-12)


def test_linear_with_factor_1_is_the_listing_which_never_changes_the_rate():
    assert rates_of("linear", drop_factor=1) == [4e-5] * 50


@by_name
def test_rates_are_floats_and_never_negative(name):
    assert all(type(rate) is float and rate >= 0 for rate in rates_of(name, epochs=500))


@with_warmup
def test_warmup_rises_in_equal_steps_from_zero_to_the_peak(name):
    rates = rates_of(name, peak_lr=0.7)[:11]
    assert (rates[0], rates[10]) == (0, close(0.7, rel=1e-12))
    assert [after - before for before, after in itertools.pairwise(rates)] == close([0.07] * 10, rel=1e-12)


@with_warmup
def test_warmup_is_the_maximum_and_does_not_depend_on_the_initial_rate(name):
    rates = rates_of(name)
    assert rates.index(max(rates)) == 10
    assert rates == rates_of(name, lr=1.0)


def test_both_warmups_are_equal_through_epoch_10_and_differ_in_epoch_11():
    first, second = rates_of("exp_warmup"), rates_of("linear_warmup")
    assert first[:11] == second[:11]
    assert first[11] < second[11]


def test_exp_falls_in_epochs_0_to_10_and_is_constant_afterwards():
    rates = [4e-5, *rates_of("exp")]
    assert all(after < before for before, after in itertools.pairwise(rates[:12]))
    assert set(rates[11:]) == {rates[11]}


@pytest.mark.parametrize(("name", "drops"), [("linear", [30]), ("linear_warmup", [40, 60])])
def test_steps_fall_in_their_epochs_only(name, drops):
    rates = rates_of(name)
    assert [epoch for epoch in range(11, len(rates)) if rates[epoch] != rates[epoch - 1]] == drops


# ---- unroll: what a user's function may be ----


class Halving:
    def __call__(self, epoch, lr):
        return lr / 2


def half(epoch, lr):
    return lr / 2


@pytest.mark.parametrize(
    "schedule",
    [
        half,
        Halving(),
        Halving().__call__,
        functools.partial(lambda epoch, lr, factor: lr * factor, factor=0.5),
        functools.partial(lambda factor, epoch, lr: lr * factor, 0.5),
        functools.partial(Halving()),
        lambda epoch, lr, factor=0.5: lr * factor,
        lambda *args: args[1] / 2,
    ],
    ids=["function", "instance", "method", "partial", "partial_first", "partial_instance", "default", "star"],
)
def test_whatever_takes_epoch_and_rate_is_accepted(schedule):
    assert unroll(schedule, 3, 8.0) == [4.0, 2.0, 1.0]


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "int64"])
def test_numpy_numbers_are_accepted_and_become_floats(kind):
    numpy = pytest.importorskip("numpy")
    rates = unroll(lambda epoch, lr: getattr(numpy, kind)(epoch), 3, 1.0)
    assert rates == [0.0, 1.0, 2.0]
    assert {type(rate) for rate in rates} == {float}


def test_a_function_sees_the_epoch_and_the_rate_of_the_epoch_before():
    seen = []

    def schedule(epoch, lr):
        seen.append((epoch, lr))
        return epoch + 0.5

    unroll(schedule, 4, 4e-5)
    assert seen == [(0, 4e-5), (1, 0.5), (2, 1.5), (3, 2.5)]


def test_a_function_that_prints_is_left_in_peace(capsys):
    assert unroll(lambda epoch, lr: print("epoch", epoch) or lr, 2, 1.0) == [1.0, 1.0]
    assert capsys.readouterr().out == "epoch 0\nepoch 1\n"


class TwoLines:
    def __repr__(self):
        return "two\nlines"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (-1e-9, "-1e-09"),
        (3.5e38, "3.5e+38"),
        (None, "None"),
        ("4e-5", "'4e-5'"),
        (True, "True"),
        (1j, "1j"),
        ([4e-5], "[4e-05]"),
        (TwoLines(), "two lines"),
    ],
)
def test_a_value_that_is_no_rate_is_refused_with_name_epoch_and_value(value, shown):
    def mine(epoch, lr):
        return lr if epoch < 3 else value

    message = refusal(unroll, mine, 5, 4e-5)
    assert message == f"mine must return a finite number >= 0 that float32 holds; in epoch 3 it returned {shown}"


@pytest.mark.parametrize("kind", ["nan", "inf"])
def test_a_numpy_value_that_is_no_rate_is_refused(kind):
    numpy = pytest.importorskip("numpy")
    message = refusal(unroll, lambda epoch, lr: numpy.float32(kind), 1, 1.0)
    assert f"in epoch 0 it returned {numpy.float32(kind)!r}" in message


@pytest.mark.parametrize(
    ("schedule", "start"),
    [
        (lambda epoch: 0.1, "<lambda> is not a function of two arguments (epoch, lr): too many positional"),
        (lambda epoch, lr, k: 0.1, "<lambda> is not a function of two arguments (epoch, lr): missing a required"),
        (lambda epoch, lr, *, k: 0.1, "<lambda> is not a function of two arguments (epoch, lr): missing a required"),
        (functools.partial(half, 1, 2), "half is not a function of two arguments (epoch, lr): too many"),
        (0.1, "float is not a function of two arguments (epoch, lr): 0.1 is not a callable"),
        (None, "NoneType is not a function of two arguments (epoch, lr): None is not a callable"),
    ],
    ids=["one", "three", "keyword", "partial", "number", "none"],
)
def test_what_does_not_take_epoch_and_rate_is_refused(schedule, start):
    assert refusal(unroll, schedule, 1, 4e-5).startswith(start)


@pytest.mark.parametrize(
    ("fail", "shown"),
    [
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda: len(5), "TypeError: object of type 'int' has no len()"),
        (lambda: half(1), "TypeError: half() missing 1 required positional argument: 'lr'"),
        (lambda: {}["k"], "KeyError: 'k'"),
        (lambda: compile("1 +", "rule.txt", "eval"), "SyntaxError: invalid syntax (rule.txt, line 1)"),
        (lambda: sys.exit("a\nb"), "SystemExit: a b"),
        (lambda: 10**400, "OverflowError: int too large to convert to float"),
    ],
    ids=["zero", "type", "arguments", "key", "syntax", "exit", "overflow"],
)
def test_an_exception_inside_a_function_is_shown_as_what_it_is(fail, shown):
    def mine(epoch, lr):
        return lr if epoch < 3 else fail()

    message = refusal(unroll, mine, 5, 4e-5)
    assert message.startswith(f"mine failed in epoch 3: {shown}")
    assert ".py, line " in message or "rule.txt, line 1" in message


def test_a_refusal_calls_a_schedule_by_the_name_it_is_given():
    assert refusal(unroll, lambda epoch, lr: None, 1, 4e-5, "mine.f").startswith("mine.f must return")


@pytest.mark.parametrize("epochs", [0, -1])
def test_unroll_refuses_less_than_one_epoch(epochs):
    assert refusal(unroll, half, epochs, 4e-5) == f"half: epochs must be >= 1, got {epochs}"


def test_the_largest_rate_is_the_largest_number_of_float32():
    numpy = pytest.importorskip("numpy")
    assert numpy.finfo(numpy.float32).max == schedulers.LARGEST
    assert unroll(lambda epoch, lr: lr, 2, schedulers.LARGEST) == [schedulers.LARGEST] * 2


@pytest.mark.parametrize("lr", [-1.0, math.nan, math.inf, 3.5e38])
def test_unroll_refuses_an_initial_rate_that_is_no_rate(lr):
    assert (
        refusal(unroll, half, 1, lr)
        == f"half: the initial lr must be a finite number >= 0 that float32 holds, got {lr}"
    )


# ---- named: registered names and FILE.py:FUNCTION ----


@by_name
def test_a_registered_name_is_its_own_label(name):
    label, _schedule, epochs = named(name)
    assert (label, epochs) == (name, SCHEDULES[name][1])


@pytest.mark.parametrize("name", ["", "Exp", "exp ", "cosine", "mine.py", "mine:f", "mine.txt:f", ":", "exp\nlinear"])
def test_an_unknown_name_is_refused_with_the_choices(name):
    message = refusal(named, name)
    assert message.startswith(f"unknown schedule {name!r}; choose from exp, linear, exp_warmup, linear_warmup")
    assert "FILE.py:FUNCTION" in message


@pytest.mark.parametrize("name", ["exp", "linear_warmup", "no_such_file.py:f"])
@pytest.mark.parametrize("parameter", ["peak_lr", "drop_factor"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_a_bad_parameter_is_refused_for_every_schedule(name, parameter, value):
    assert refusal(named, name, **{parameter: value}) == f"{parameter} must be a finite number > 0, got {value}"


def test_a_function_in_a_file_is_found_labelled_and_run_for_50_epochs(own):
    label, schedule, epochs = named(own("def f(epoch, lr):\n    return lr + epoch\n"))
    assert (label, epochs) == ("mine.f", 50)
    assert unroll(schedule, 3, 1.0) == [1.0, 2.0, 4.0]


def test_a_dataclass_with_postponed_annotations_is_a_schedule_too(own):
    code = """
from __future__ import annotations
from dataclasses import dataclass
@dataclass
class Decay:
    k: float = 0.5
    def __call__(self, epoch, lr):
        return lr * self.k
f = Decay()
"""
    assert rates_of(own(code), epochs=2, lr=8.0) == [4.0, 2.0]


@pytest.mark.parametrize(
    ("file", "label"),
    [
        ("...py", "f"),
        (".py", "py.f"),
        (".hidden.py", "hidden.f"),
        ("-rf.py", "rf.f"),
        ("my rate.py", "my_rate.f"),
        ('it\'s "mine".py', "it_s__mine_.f"),
        ("a:b\\c$(x)*.py", "a_b_c__x__.f"),
        ("two\nlines.py", "two_lines.f"),
        ("v1.2.py", "v1.2.f"),
        ("скорость.py", "скорость.f"),
    ],
)
def test_a_label_is_one_safe_path_component_whatever_the_file_is_called(own, file, label):
    assert named(own("def f(epoch, lr): return lr\n", file))[0] == label


def test_a_label_leaves_the_directory_out(own, monkeypatch, tmp_path):
    own("def f(epoch, lr): return lr\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert named("../mine.py:f")[0] == "mine.f"


@pytest.mark.parametrize("path", ["no_such.py", "no/such.py", "..py", "no\nsuch.py"])
def test_a_missing_file_is_refused(path):
    assert refusal(named, f"{path}:f") == f"{' '.join(path.split())}: no such file; --schedule wants FILE.py:FUNCTION"


def test_a_directory_is_not_a_schedule_file(tmp_path):
    (tmp_path / "folder.py").mkdir()
    assert "folder.py: no such file" in refusal(named, f"{tmp_path}/folder.py:f")


@pytest.mark.parametrize("function", ["g", "", "F", "number", "f.g", "../f", "f()"])
def test_a_missing_function_is_refused(own, function):
    name = own("number = 1\ndef f(epoch, lr): return lr\n", function=function)
    assert refusal(named, name).endswith(f"mine.py has no function {function!r}")


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("x = 1\ndef f(:\n", "SyntaxError: invalid syntax (mine.py, line 2)"),
        ("raise SyntaxError('of no file')\n", "SyntaxError: of no file"),
        (b'x = "\xff"\n', "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte (mine.py, line 1)"),
        ("\n1 / 0\n", "ZeroDivisionError: division by zero (mine.py, line 2)"),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module' (mine.py, line 1)"),
        ("assert False\n", "AssertionError: (mine.py, line 1)"),
        ("raise ValueError('two\\nlines')\n", "ValueError: two lines (mine.py, line 1)"),
        ("import sys\nsys.exit()\n", "SystemExit: (mine.py, line 2)"),
        ("import sys\nsys.exit('bye')\n", "SystemExit: bye (mine.py, line 2)"),
    ],
    ids=["syntax", "no_file", "encoding", "zero", "import", "assert", "lines", "exit", "exit_message"],
)
def test_a_file_that_cannot_be_loaded_is_refused_with_the_reason_and_the_line(own, code, shown):
    message = refusal(named, own(code))
    assert "mine.py cannot be loaded: " in message
    assert message.endswith(f" {shown}")


# ---- jumps and preview ----


@pytest.mark.parametrize(
    ("rates", "found"),
    [
        ([1.0], []),
        ([1.0, 2.0, 1.0], []),
        ([1.0, 2.001], [(1, 1.0, 2.001)]),
        ([1.0, 1.0, 0.499], [(2, 1.0, 0.499)]),
        ([0.0, 0.0, 1e-9, 0.0], [(2, 0.0, 1e-9), (3, 1e-9, 0.0)]),
    ],
)
def test_a_jump_is_a_change_by_more_than_a_factor_of_two(rates, found):
    assert jumps(rates) == found


def test_preview_lines_up_long_labels_and_leaves_finished_runs_blank():
    assert preview({"a_rather_long_label": [1.0], "b": [1.0, 4.0]}).splitlines() == [
        "epoch  a_rather_long_label                    b",
        "    0           1.0000e+00           1.0000e+00",
        "    1                                4.0000e+00",
        "",
        "a_rather_long_label: no jumps",
        "b: jumps by more than 2x in epoch 1: 1 -> 4",
    ]


def test_the_command_prints_four_columns_and_names_the_jumps():
    done = run_python("schedulers.py")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["epoch", "exp", "linear", "exp_warmup", "linear_warmup"]
    assert lines[1].split() == ["0", "3.6193e-05", "4.0000e-05", "0.0000e+00", "0.0000e+00"]
    assert lines[70].split() == ["69", "4.0000e-06"]
    assert lines[71:] == [
        "",
        "exp: no jumps",
        "linear: jumps by more than 2x in epoch 30: 4e-05 -> 4e-06",
        "exp_warmup: jumps by more than 2x in epoch 1: 0 -> 4e-05",
        "linear_warmup: jumps by more than 2x in epoch 1: 0 -> 4e-05, epoch 40: 0.0004 -> 4e-05, "
        "epoch 60: 4e-05 -> 4e-06",
    ]
    assert run_python("schedulers.py", "all").stdout == done.stdout


def test_the_command_previews_the_chosen_schedules_and_a_function_that_prints(own):
    done = run_python("schedulers.py", "linear", own("def f(epoch, lr):\n    print('hello')\n    return lr\n"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:51] == ["hello"] * 50 + ["epoch         linear         mine.f"]


def test_the_command_tells_how_it_is_used():
    done = run_python("schedulers.py", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "python schedulers.py exp_warmup mine.py:own" in done.stdout
    assert run_python("schedulers.py", "--epochs").stderr == "schedulers.py: error: unrecognized arguments: --epochs\n"


def test_a_pipe_that_nobody_reads_any_more_ends_the_command_without_a_word():
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, Path(schedulers.__file__)]
    done = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, timeout=30)
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.parametrize(
    ("code", "shown"), [(None, "unknown schedule 'cosine'"), ("import sys; sys.exit()", "mine.py cannot be loaded")]
)
def test_the_command_refuses_in_one_line_with_status_2(own, code, shown):
    done = run_python("schedulers.py", "exp", own(code) if code else "cosine")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("schedulers.py: error: ")
    assert shown in line


def test_schedulers_imports_nothing_but_the_standard_library():
    code = """
import sys
before = set(sys.modules)
import schedulers
schedulers.unroll(schedulers.named("exp")[1], 60, 1)
new = {module.split(".")[0] for module in set(sys.modules) - before}
print(*sorted(new - set(sys.stdlib_module_names)), "tensorflow" in sys.modules, "numpy" in sys.modules)
"""
    done = run_python("-c", code)
    assert (done.stdout, done.stderr) == ("schedulers False False\n", "")
