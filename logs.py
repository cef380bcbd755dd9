"""An experiment on disk: what is in its directory, written so that it is whole or absent, and read back.

    NAME/config.json                    arguments, versions, data, weights: what the runs have in common
    NAME/reference.json                 the logistic regression on the same features
    NAME/SCHEDULE/seed-K/train/         event files of TensorBoard
    NAME/SCHEDULE/seed-K/validation/
    NAME/SCHEDULE/seed-K/result.json    written last: a run without it is not finished

Nothing here imports TensorFlow: event files are read by TensorBoard's own reader.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np

ACCURACY, LOSS, RATE = "epoch_categorical_accuracy", "epoch_loss", "epoch_learning_rate"  # tags, as Keras names them


class ExperimentError(Exception):
    """An experiment directory cannot be used as it is; the message says what, where, and what to do."""


def write_whole(path, content):
    """Write `content` (str or bytes) to `path` so that a reader finds the old file or the new one, never a part.

    An OSError names `path`, not the temporary file.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with open(descriptor, "wb") as file:
            _lock(file, fcntl.LOCK_SH)  # for remove_leftovers: somebody is at work on it
            file.write(data)
            file.flush()
            os.fsync(descriptor)
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:
            error.filename, error.filename2 = str(path), None
        raise


def remove_leftovers(directory, pattern=".*.tmp*"):
    """Remove the temporary files in a directory whose process was killed, and leave those another one is writing.

    The kernel tells them apart: it drops the lock of a process with its end.
    """
    for path in Path(directory).glob(pattern):
        # Also where nothing can be removed: a leftover does no harm.
        with contextlib.suppress(OSError), path.open("rb") as file:
            if _lock(file, fcntl.LOCK_EX):
                path.unlink()


@contextlib.contextmanager
def held(directory):
    """Hold a directory, against other processes that would, to the end of the block or of this process.

    Raises ExperimentError where another one holds it. On a file system that locks no directories nobody is kept out.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            _lock(descriptor, fcntl.LOCK_EX)
        except BlockingIOError:
            reason = "another process is at work on it; wait until it has ended"
            raise ExperimentError(f"{directory}: {reason}") from None
        yield
    finally:
        os.close(descriptor)


def _lock(file, kind):
    """Lock a file without waiting; False where locks are not known. Raises BlockingIOError if another has it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _umask():
    """The umask of this process, which mkstemp ignores (it makes files private)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path, value):
    """Write `value` as indented JSON, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, text.encode(errors="backslashreplace"))  # for paths that are no UTF-8: an escape of JSON too


def json_sha256(value):
    """Return the sha256 of a value as JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_json(path):
    """Return the value in a JSON file; raises ExperimentError where it is missing, unreadable or no JSON object."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExperimentError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ExperimentError(f"{path} holds no JSON object")
    return value


def run_directories(experiment):
    """List the directories of the finished runs of an experiment, sorted by schedule and seed."""
    runs = [result.parent for result in Path(experiment).glob("*/seed-*/result.json")]
    runs = [run for run in runs if run.name[5:].isdecimal()]  # seed-0-old is no run
    return sorted(runs, key=lambda run: (run.parent.name, int(run.name[5:])))


def scalars(directory):
    """Return the scalars in the event files of one directory: `{tag: [value of step 0, of step 1, ...]}`, float32.

    Raises ExperimentError where there is no event file, where one is damaged, or where a tag lacks a step or holds
    one twice.
    """
    # Imported here: TensorBoard's modules take 0.3 s to load, and only those who read logs should pay for it.
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.errors import OpError
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New
    from tensorboard.util.tensor_util import make_ndarray

    files = sorted(Path(directory).glob("*tfevents*"))
    if not files:
        raise ExperimentError(f"{directory} holds no event file; run the experiment again, or --resume it")
    steps = {}
    for file in files:
        reader = PyRecordReader_New(str(file))
        while True:
            try:
                reader.GetNext()
            except OpError as error:
                if type(error).__name__ == "OutOfRangeError":
                    break
                raise ExperimentError(f"{file} is damaged: {error.message}") from error
            event = Event.FromString(reader.record())
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name not in ("", "scalars"):
                    continue
                number = make_ndarray(value.tensor) if value.HasField("tensor") else np.float32(value.simple_value)
                found = steps.setdefault(value.tag, {})
                if event.step in found:
                    raise ExperimentError(f"{file}: {value.tag} is logged twice for epoch {event.step}")
                found[event.step] = np.float32(number)
    for tag, values in steps.items():
        if tag.startswith("epoch_") and sorted(values) != list(range(len(values))):
            missing = min(set(range(len(values))) - set(values))
            raise ExperimentError(f"{directory}: {tag} is missing for epoch {missing}")
    return {tag: [values[step] for step in sorted(values)] for tag, values in steps.items()}


def check_rates(run, train, rates):
    """Raise ExperimentError, naming the run, unless the rates among the scalars of its training are `rates`.

    The optimizer holds its rate in float32, so float32 is what is compared, exactly.
    """
    logged = train.get(RATE, [])
    if len(logged) != len(rates):
        raise ExperimentError(f"{run}: {len(logged)} epochs are logged, the schedule has {len(rates)}")
    for epoch, (found, wanted) in enumerate(zip(logged, rates)):
        if found != np.float32(wanted):
            raise ExperimentError(
                f"{run}: epoch {epoch} was logged with rate {found:.6g}, the schedule says {wanted:.6g}"
            )
