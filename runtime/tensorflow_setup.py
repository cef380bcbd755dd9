"""Imports TensorFlow and Keras once, without their messages, and sets what holds for the process.

    from runtime.tensorflow_setup import keras, tf

Import it before anything else that loads TensorFlow: threads and GPU memory can only be set before
the first operation.
"""

import gc
import os
import sys

os.environ["KERAS_BACKEND"] = "tensorflow"  # The user's own choice would change what is measured.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Errors still arrive as exceptions.

# Keras imports these if they are installed, for utilities that are not used here: a third of the
# import's time.
_unused = [name for name in ("sklearn", "matplotlib") if name not in sys.modules]
sys.modules.update(dict.fromkeys(_unused))
# The modules stay until the end, so looking for garbage among them costs 0.45 of 2.1 s for nothing.
gc.disable()
try:
    import keras
    import tensorflow as tf
finally:
    gc.enable()
    gc.freeze()
    for _name in _unused:
        del sys.modules[_name]

# The user's ~/.keras/keras.json must not change the numbers.
keras.config.set_floatx("float32")
keras.config.set_image_data_format("channels_last")
# Tasks are spread over the cores as a whole and each computes in one thread, so no sum depends on
# how it was divided.
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(os.cpu_count() or 1)
tf.get_logger().setLevel("ERROR")
for _gpu in tf.config.list_physical_devices("GPU"):
    tf.config.experimental.set_memory_growth(_gpu, True)
