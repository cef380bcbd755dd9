"""TensorBoard's event files: the curves of a run, written epoch by epoch and read back."""

import contextlib
from collections import defaultdict
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.errors import OpError, OutOfRangeError
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New
from tensorboard.summary.writer.record_writer import RecordWriter

from runtime.messages import Refusal

# TensorBoard wants "tfevents" in a file's name; the usual name holds that of the host, too.
FILE = "events.out.tfevents.v2"
SIDES = ("train", "validation")


def _curve(side: str, tag: str) -> Any:
    return field(metadata={"side": side, "tag": tag})


@dataclass(frozen=True)
class Epoch:
    """What is logged of a run after an epoch, with the tags of Keras' callback: all curves."""

    rate: float = _curve("train", "epoch_learning_rate")  # as the optimizer used it
    # On the training images, while they were trained on.
    accuracy: float = _curve("train", "epoch_categorical_accuracy")
    loss: float = _curve("train", "epoch_loss")
    val_accuracy: float = _curve("validation", "epoch_categorical_accuracy")
    val_loss: float = _curve("validation", "epoch_loss")


# Name of a curve -> the side on which it is logged, and its tag.
CURVES = {one.name: (one.metadata["side"], one.metadata["tag"]) for one in fields(Epoch)}


def append_epoch(run: Path, number: int, epoch: Epoch, time: float) -> None:
    """Append an epoch of all CURVES to the event files of a run; its directories must exist.

    Files have their final names from the start, so that a live TensorBoard does not read twice.
    """
    summaries = {side: Summary() for side in SIDES}
    for name, (side, tag) in CURVES.items():
        summaries[side].value.add(tag=tag, simple_value=getattr(epoch, name))
    for side, summary in summaries.items():
        append(run / side, Event(step=number, wall_time=time, summary=summary))


def append(directory: Path, event: Event) -> None:
    """Append an event to the event file of a directory."""
    with (directory / FILE).open("ab") as file:
        writer = RecordWriter(file)
        if not file.tell():
            first = Event(wall_time=event.wall_time, file_version="brain.Event:2")
            writer.write(first.SerializeToString())
        writer.write(event.SerializeToString())


def read_curves(run: Path) -> dict[str, np.ndarray]:
    """Return the CURVES in the event files of a run, float32 (epochs,) each; raises Refusal."""
    scalars, curves = {side: read_scalars(run / side) for side in SIDES}, {}
    for name, (side, tag) in CURVES.items():
        values = scalars[side].get(tag, [])
        if [epoch for epoch, _ in values] != list(range(len(values))):
            raise Refusal(f"{run / side}: {tag} is not logged once for every epoch")
        curves[name] = np.float32([value for _, value in values])
    return curves


def read_scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Return `{tag: [(epoch, value), ...]}` of a directory's event files; raises Refusal."""
    scalars = defaultdict(list)
    for path in sorted(directory.glob("*tfevents*")):
        reader = PyRecordReader_New(str(path))
        try:
            with contextlib.suppress(OutOfRangeError):
                while True:
                    reader.GetNext()
                    event = Event.FromString(reader.record())
                    for value in event.summary.value:
                        if value.HasField("simple_value"):
                            scalars[value.tag].append((event.step, value.simple_value))
        except OpError as error:
            raise Refusal(f"{path} is damaged: {error.message}") from None
    return scalars
