"""Adds to a LiteRT model what phones read in it: the image size, and TensorFlow Lite's metadata.

MediaPipe, ML Kit and Android's helpers take the size from the input's shape, and from the metadata
which file holds the class names. The numbers of `_table` are the fields of
https://github.com/google-ai-edge/mediapipe/blob/master/mediapipe/tasks/metadata/metadata_schema.fbs
"""

import flatbuffers
import numpy as np

from runtime.tensorflow_setup import tf  # noqa: F401, before anything else that loads TensorFlow

# isort: split
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

LABELS = "labels.txt"  # in the ZIP archive that follows the model
FEATURES, IMAGE = 1, 2  # kinds of content: numbers, or an image
RGB = 1
AXIS_LABELS = 2  # a file that names the outputs


def prepare_for_phones(content: bytes, image_size: int) -> bytes:
    """Return a model of images whose input has the shape (1, S, S, 3), with metadata.

    The converter writes (1, 1, 1, 3) for sides of any length, and readers that take the shape for
    the size, as MediaPipe does, shrink each image to one pixel. The signature stays (1, -1, -1, 3).
    """
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].shape = np.array([1, image_size, image_size, 3], np.int32)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(describe_model(), np.uint8)
    entry.name, entry.buffer = "TFLITE_METADATA", len(model.buffers)
    model.buffers.append(buffer)
    model.metadata.append(entry)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def describe_model() -> bytes:
    """Return metadata that say: an RGB image from 0 to 255 in, a probability for each label out.

    An input of uint8 is given as it is: without normalization, nothing is scaled twice.
    """
    builder = flatbuffers.Builder()
    least, most = (builder.CreateNumpyVector(np.float32([value])) for value in (0, 255))
    pixels = _table(builder, {}, {0: RGB})
    stated = {
        0: builder.CreateString("image"),
        3: _table(builder, {1: pixels}, {0: IMAGE}),
        5: _table(builder, {0: most, 1: least}),
    }
    image = _table(builder, stated)
    labels = _table(builder, {0: builder.CreateString(LABELS)}, {2: AXIS_LABELS})
    stated = {
        0: builder.CreateString("probabilities"),
        3: _table(builder, {1: _table(builder, {})}, {0: FEATURES}),
        6: _vector(builder, labels),
    }
    probabilities = _table(builder, stated)
    graph = _table(builder, {2: _vector(builder, image), 3: _vector(builder, probabilities)})
    parser = builder.CreateString("1.0.0")
    builder.Finish(_table(builder, {3: _vector(builder, graph), 7: parser}), b"M001")
    return bytes(builder.Output())


def _table(builder: flatbuffers.Builder, parts: dict[int, int], kinds: dict[int, int] = {}) -> int:  # noqa: B006
    """Write a table: other parts by field, and fields of one byte; returns where it is."""
    builder.StartObject(8)  # no table here has more fields
    for field, part in parts.items():
        builder.PrependUOffsetTRelativeSlot(field, part, 0)
    for field, kind in kinds.items():
        builder.PrependInt8Slot(field, kind, 0)
    return builder.EndObject()


def _vector(builder: flatbuffers.Builder, part: int) -> int:
    """Write a vector of one part; returns where it is."""
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(part)
    return builder.EndVector()
