"""What the commands share: flags with bounds, refusals in one line, and their standard streams."""

import argparse
import builtins
import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from runtime.messages import describe, printable


class Parser(argparse.ArgumentParser):
    """argparse for a command with a docstring, whose errors are one line without the usage."""

    def __init__(self, program: str, docstring: str, **options: Any):
        title, _, examples = docstring.partition("\n\n")
        options["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(program, description=title, epilog=examples, **options)

    def error(self, message: str) -> NoReturn:
        """Print one line to standard error and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def bounded(kind: type, least: float, most: float) -> Callable[[str], Any]:
    """Return an argparse type: an int or a float from `least` to `most`."""

    def parse(text: str) -> Any:
        number = kind(text)
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"must be from {least:,} to {most:,}, got {text}")
        return number

    parse.__name__ = kind.__name__  # as argparse calls it where the text is not a number
    return parse


def in_notebook() -> bool:
    """Whether the process is IPython's, as with `%run` in Jupyter and Colab, and must live on."""
    return hasattr(builtins, "get_ipython")


def set_up_streams() -> None:
    """Let pipes show each line at once, terminals lack letters, and Ctrl-C and `| head` end it.

    What C++ code writes to standard error goes to /dev/null, because TensorFlow and LiteRT print
    messages that no setting switches off; sys.stderr and tracebacks of crashes are still shown.
    The streams and signals of a notebook are its own.
    """
    if in_notebook():
        return
    # A stream that was closed (`>&-`) is None: what it would show is lost, and the work is done.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    for name in ("SIGINT", "SIGPIPE"):  # Windows has no SIGPIPE.
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    if sys.stderr is None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    else:
        sys.stderr.flush()
    sys.stderr = open(os.dup(2), "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
    faulthandler.enable(sys.stderr)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def refuse(program: str, error: object) -> int:
    """Print in one line why a command cannot do what it was asked to; returns exit status 2."""
    print(printable(f"{program}: error: {describe(error)}"), file=sys.stderr)
    return 2
