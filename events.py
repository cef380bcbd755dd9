"""TensorBoard's event files: scalars, written epoch by epoch and read back, and HParams."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.errors import OpError, OutOfRangeError
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import (
    HParamsPluginData,
    SessionEndInfo,
    SessionStartInfo,
)
from tensorboard.summary.writer.record_writer import RecordWriter

from files import FileError

# Tags as Keras' TensorBoard callback names them.
ACCURACY, LOSS, RATE = "epoch_categorical_accuracy", "epoch_loss", "epoch_learning_rate"
FILE = (
    "events.out.tfevents.v2"  # TensorBoard wants "tfevents" in it; the usual name holds the host's.
)


def append_scalars(directory: Path, epoch: int, values: Mapping[str, float], time: float) -> None:
    """Append the scalars `{tag: value}` of an epoch to the event file of a directory.

    The file has its final name from the start, so that a live TensorBoard does not read it twice.
    """
    summary = Summary()
    for tag, value in values.items():
        summary.value.add(tag=tag, simple_value=value)
    _append(directory, Event(step=epoch, wall_time=time, summary=summary))


def append_hyperparameters(
    directory: Path, name: str, values: Mapping[str, float | str], start: float, end: float
) -> None:
    """Append what TensorBoard's HParams page shows of a finished run: name and hyperparameters.

    Built by hand, because the functions that TensorBoard has for this import TensorFlow.
    """
    begin = SessionStartInfo(group_name=name, start_time_secs=start)
    for key, value in values.items():
        kind = "string_value" if isinstance(value, str) else "number_value"
        setattr(begin.hparams[key], kind, value)
    finish = SessionEndInfo(status=STATUS_SUCCESS, end_time_secs=end)
    for tag, content in (
        (metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=begin)),
        (metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=finish)),
    ):
        summary = Summary()
        about = metadata.create_summary_metadata(content)
        summary.value.add(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)
        _append(directory, Event(wall_time=end, summary=summary))


def _append(directory: Path, event: Event) -> None:
    path = directory / FILE
    with path.open("ab") as file:
        writer = RecordWriter(file)
        if not file.tell():
            first = Event(wall_time=event.wall_time, file_version="brain.Event:2")
            writer.write(first.SerializeToString())
        writer.write(event.SerializeToString())


def read_scalars(directory: Path) -> dict[str, np.ndarray]:
    """Return `{tag: float32 (epochs,)}` of the event files in a directory.

    Raises FileError where there is no event file, or one is damaged, or a tag has an epoch twice or
    not at all.
    """
    found: dict[str, dict[int, float]] = {}
    files = sorted(directory.glob("*tfevents*"))
    if not files:
        raise FileError(f"{directory} does not hold an event file")
    for file in files:
        reader = PyRecordReader_New(str(file))
        while True:
            try:
                reader.GetNext()
            except OutOfRangeError:
                break
            except OpError as error:
                raise FileError(f"{file} is damaged: {error.message}") from None
            event = Event.FromString(reader.record())
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    if event.step in found.setdefault(value.tag, {}):
                        raise FileError(f"{file}: {value.tag} has epoch {event.step} twice")
                    found[value.tag][event.step] = value.simple_value
    for tag, values in found.items():
        if missing := set(range(max(values) + 1)) - set(values):
            raise FileError(f"{directory}: {tag} lacks epoch {min(missing)}")
    return {
        tag: np.float32([values[step] for step in sorted(values)]) for tag, values in found.items()
    }
