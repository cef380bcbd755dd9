"""What the commands share: refusals in one line, and quiet standard streams."""

import argparse
import faulthandler
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        """Print one line to standard error and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def end_quietly() -> None:
    """Let Ctrl-C, and a pipe that its reader closed (as `| head`), end without a traceback."""
    for name in ("SIGINT", "SIGPIPE"):  # Windows has no SIGPIPE.
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)


def print_lines_at_once() -> None:
    """Let a pipe show each line when it is printed, and replace what a terminal cannot show."""
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")


def silence_native_stderr() -> None:
    """Send what C++ code writes to standard error to /dev/null; sys.stderr still works.

    For the rest of the process, because TensorFlow and LiteRT print messages that no setting
    switches off. Tracebacks of crashes are still shown.
    """
    sys.stderr.flush()
    sys.stderr = open(os.dup(2), "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
    faulthandler.enable(sys.stderr)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def refuse(program: str, message: object) -> int:
    """Print why a command cannot do what it was asked to; returns the exit status 2."""
    print(f"{program}: error: {message}", file=sys.stderr)
    return 2


def is_folder_name(name: str) -> bool:
    """Whether a name is that of a folder and nothing else: a path could lead anywhere."""
    return name == Path(name).name != "" and not name.startswith(".") and name.isprintable()
