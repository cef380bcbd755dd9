"""TensorFlow comes without messages, and with settings that the user's own do not change."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tasks

IMPORT = """
import gc, sys
import cli; cli.silence_native_stderr()
from tensorflow_setup import keras, tf
import matplotlib, sklearn
assert gc.isenabled() and gc.get_freeze_count() > 100_000
threading = tf.config.threading
print(threading.get_intra_op_parallelism_threads(), threading.get_inter_op_parallelism_threads())
print(keras.config.backend(), keras.config.floatx(), keras.config.image_data_format())
print(keras.ops.matmul([[1.0]], [[2.0]]).dtype.name)
print("after", file=sys.stderr)
"""
KERAS_JSON = '{"floatx": "float16", "backend": "jax", "image_data_format": "channels_first"}'


@pytest.mark.parametrize("user", ["without settings", "with settings"])
def test_import_is_silent_and_sets_threads_and_keras_whatever_the_user_has(tmp_path, user):
    environment = {**os.environ, "KERAS_HOME": str(tmp_path)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    if user == "with settings":
        environment |= {"KERAS_BACKEND": "torch", "TF_USE_LEGACY_KERAS": "1"}
        (tmp_path / "keras.json").write_text(KERAS_JSON)
    line = [sys.executable, "-c", IMPORT]
    folder = Path(tasks.__file__).parent
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.stderr == "after\n"
    expected = f"1 {os.cpu_count()}\ntensorflow float32 channels_last\nfloat32\n"
    assert done.stdout == expected
