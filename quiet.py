"""Keeps the start-up chatter of TensorFlow's and LiteRT's C++ code off the terminal: no setting silences all of it."""

import contextlib
import gc
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
    """Return the module tensorflow, imported in silence and with Keras; the first call in a process takes seconds."""
    if "keras" in sys.modules:
        return sys.modules["tensorflow"]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what goes wrong still comes as an exception
    # Keras imports these for utilities that nothing here uses, if they can be imported; it is a third of the time.
    hidden = [name for name in ("sklearn", "matplotlib") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))
    try:
        with stderr(), _no_garbage():
            import keras  # noqa: F401
            import tensorflow as tf
    finally:
        for name in hidden:
            del sys.modules[name]
    return tf


@contextlib.contextmanager
def _no_garbage():
    """Spare Python looking for garbage among what is made in this block: modules, which stay until the end."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # it would look again whenever it looks at all, and at the end for longest
        if enabled:
            gc.enable()
