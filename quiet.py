"""Keeps the start-up chatter of TensorFlow's and LiteRT's C++ code off the terminal: no setting silences all of it."""

import contextlib
import os
import sys


@contextlib.contextmanager
def stderr():
    """Send what C++ code writes to standard error nowhere; exceptions pass as always."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def tensorflow():
    """Return the module tensorflow, imported in silence; the first call in a process takes seconds."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what goes wrong still comes as an exception
    with stderr():
        import tensorflow as tf
    return tf
