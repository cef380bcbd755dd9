"""What the commands share: refusals in one line, and quiet standard streams."""

import argparse
import faulthandler
import os
import signal
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        """Print one line to standard error and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def end_quietly() -> None:
    """Let Ctrl-C, and a pipe that its reader closed (as `| head`), end without a traceback."""
    for name in ("SIGINT", "SIGPIPE"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)


def silence_native_stderr() -> None:
    """Send what C++ code writes to standard error to /dev/null; sys.stderr still works.

    For the rest of the process, because TensorFlow and LiteRT print messages that no setting
    switches off. Tracebacks of crashes are still shown.
    """
    sys.stderr.flush()
    sys.stderr = open(os.dup(2), "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
    faulthandler.enable(sys.stderr)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
