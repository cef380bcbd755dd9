"""What the commands of this project have in common: no mistake and no end of theirs costs more than one line."""

import argparse
import signal


class Parser(argparse.ArgumentParser):
    """argparse, with mistakes told in one line."""

    source = ""  # of the arguments, where it is not the command line

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {self.source}{message}\n")


def end_quietly():
    """Let Ctrl-C, and a pipe that nobody reads any more, as of `| head`, end this process without a traceback."""
    for number in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
