"""TensorBoard's event files: the curves of a run, written epoch by epoch and read back."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.errors import OpError, OutOfRangeError
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New
from tensorboard.summary.writer.record_writer import RecordWriter

from files import FileError

# TensorBoard wants "tfevents" in a file's name; the usual name holds that of the host, too.
FILE = "events.out.tfevents.v2"
SIDES = ("train", "validation")
# Name of a curve -> the side on which it is logged, and its tag as Keras' callback names it.
CURVES = {
    "rate": ("train", "epoch_learning_rate"),
    "accuracy": ("train", "epoch_categorical_accuracy"),
    "loss": ("train", "epoch_loss"),
    "val_accuracy": ("validation", "epoch_categorical_accuracy"),
    "val_loss": ("validation", "epoch_loss"),
}


def append_epoch(run: Path, epoch: int, metrics: Mapping[str, float], time: float) -> None:
    """Append an epoch of all CURVES to the event files of a run; its directories must exist.

    Files have their final names from the start, so that a live TensorBoard does not read twice.
    """
    for side in SIDES:
        summary = Summary()
        for name, (where, tag) in CURVES.items():
            if where == side:
                summary.value.add(tag=tag, simple_value=metrics[name])
        append(run / side, Event(step=epoch, wall_time=time, summary=summary))


def append(directory: Path, event: Event) -> None:
    """Append an event to the event file of a directory."""
    with (directory / FILE).open("ab") as file:
        writer = RecordWriter(file)
        if not file.tell():
            first = Event(wall_time=event.wall_time, file_version="brain.Event:2")
            writer.write(first.SerializeToString())
        writer.write(event.SerializeToString())


def read_curves(run: Path) -> dict[str, np.ndarray]:
    """Return the CURVES in the event files of a run, float32 (epochs,) each; raises FileError."""
    scalars = {side: read_scalars(run / side) for side in SIDES}
    curves = {}
    for name, (side, tag) in CURVES.items():
        steps = scalars[side].get(tag, {})
        if sorted(steps) != list(range(len(steps))) or not steps:
            raise FileError(f"{run / side}: {tag} is not logged for every epoch")
        curves[name] = np.float32([steps[epoch] for epoch in sorted(steps)])
    return curves


def read_scalars(directory: Path) -> dict[str, dict[int, float]]:
    """Return `{tag: {epoch: value}}` of all event files of a directory; raises FileError."""
    found: dict[str, dict[int, float]] = {}
    for file in sorted(directory.glob("*tfevents*")):
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
    return found
