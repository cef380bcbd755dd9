"""TensorFlow comes without messages, and with settings that the user's own do not change."""

import os
import subprocess
import sys

from conftest import PROJECT

IMPORT = """
import gc, sys
import cli; cli.set_up_streams()
from tensorflow_setup import keras, tf
import matplotlib, sklearn
assert gc.isenabled() and gc.get_freeze_count() > 100_000
print(tf.config.threading.get_intra_op_parallelism_threads())
print(keras.config.backend(), keras.config.floatx(), keras.config.image_data_format())
print("after", file=sys.stderr)
"""
KERAS_JSON = '{"floatx": "float16", "backend": "jax", "image_data_format": "channels_first"}'


def test_import_is_silent_and_sets_threads_and_keras_whatever_the_user_has(tmp_path):
    (tmp_path / "keras.json").write_text(KERAS_JSON)
    users = {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "torch", "TF_USE_LEGACY_KERAS": "1"}
    line = [sys.executable, "-c", IMPORT]
    done = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, env=os.environ | users)
    assert done.stderr == "after\n"
    assert done.stdout == "1\ntensorflow float32 channels_last\n"
