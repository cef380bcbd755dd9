"""Every image passes the frozen backbone once; the 1,280 numbers are cached and verified when read.

    CACHE/KEY/features.f32       float32 (N, 1280), row by row; KEY is the hash from `key`
    CACHE/KEY/shard-00000.json   sha256 of 256 rows, damaged images of them

A shard counts only if its record exists and the checksum of its rows is right; the record is
written after the rows. So extraction can be killed at any moment and continues from there, and two
processes that need the same features at once write the same bytes to the same places.
The images pass LiteRT, an interpreter for each thread, or Keras where there is a GPU.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data
import files
import litert
import model
import tasks
from cli import Refusal
from tensorflow_setup import tf

FORMAT = 5  # raise it when what is stored, or how it is computed, changes
SHARD = 256  # rows; at the end a core waits for another's last shard, about a second
KERAS_BATCH = 64  # images that Keras passes at once; LiteRT is fastest with one
ROWS, ROW_BYTES = "features.f32", 4 * model.FEATURES

Rows = Iterator[tuple[int, np.ndarray]]  # number of a row, and its image (H, W, 3) or features
Engine = Callable[[Rows], Rows]  # uint8 images to float32 features


class CacheError(Refusal):
    """The cache cannot be used; the message says what, where, and what to do."""


@dataclass(frozen=True)
class Features:
    """Where the features of all N images of a data set are."""

    directory: Path
    shape: tuple[int, int]  # (N, 1280)
    damaged: dict[int, str]  # row -> reason; the features of these rows are zeros
    remarks: dict[int, str]  # row -> what the user should know of the image
    computed: int  # images passed now; the others came from the cache


@dataclass(frozen=True)
class Samples:
    """Cached features with their labels and sides; N images."""

    directory: Path  # of the features
    labels: np.ndarray  # (N,) int32, -1: left out
    classes: int
    train: np.ndarray  # rows that are trained on
    validation: np.ndarray

    def map(self) -> np.memmap:
        """Return the features, float32 (N, 1280), mapped from their file."""
        return map_features(self.directory, (len(self.labels), model.FEATURES))


@dataclass(frozen=True)
class ShardTask:
    """All that it takes to compute the features of one shard anywhere; picklable."""

    source: data.Source  # of these images only
    rows: range  # of the data set, and of the cache
    names: list[str]  # of the images, for messages
    digests: list[bytes]  # sha256 of each encoded image
    record_path: Path  # beside the file of all rows
    engine: str
    image_size: int
    preprocessing: str
    weights: str
    check_only: bool = False  # decode the images, but pass none


@dataclass(frozen=True)
class ShardRecord:
    """What is known of a shard; kept in the cache as JSON."""

    images: int
    damaged: list[tuple[int, str]]  # row and reason
    remarks: list[tuple[int, str]]  # row and what the user should know of the image
    sha256: str | None = None  # of its rows in the cache; None if they were not computed


@dataclass(frozen=True)
class Shard:
    """What a task tells of its shard."""

    record: ShardRecord
    passed: int  # images that passed the backbone now
    note: str | None = None  # for standard error


def map_features(directory: str | Path, shape: tuple[int, int]) -> np.memmap:
    """Return cached features, float32 (N, 1280), mapped from their file."""
    # Copy-on-write: DLPack, by which TensorFlow shares the memory, takes no read-only array.
    return np.memmap(Path(directory) / ROWS, np.float32, "c", shape=shape)


def engine() -> str:
    """Return what passes images, with its version: Keras with a GPU or without LiteRT."""
    if not tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"litert, {_versions('ai-edge-litert')}"
    return f"keras, {_versions('keras', 'tensorflow')}"


def decoder() -> str:
    """Return what decodes images, with its version."""
    return _versions("pillow", "simplejpeg")


def _versions(*packages: str) -> str:
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)


def key(dataset: data.Dataset, image_size: int, preprocessing: str, weights: str) -> str:
    """Return a hash of all that features depend on; raises model.WeightsError."""
    images, arrays = dataset.images_fingerprint, model.weights_key(weights)
    # TensorFlow and Keras make LiteRT's graphs and the random weights.
    packages = engine(), tasks.processor(), decoder(), _versions("tensorflow", "keras")
    return files.hash_json([FORMAT, images, image_size, preprocessing, arrays, *packages])[:16]


def extract(
    dataset: data.Dataset,
    image_size: int,
    preprocessing: str,
    weights: str,
    cache: str | Path,
    skip_damaged: bool,
    executor: Executor,
) -> Features:
    """Return the features of every image of a data set from which none is left out.

    Once a damaged image is found and `skip_damaged` is false, the others are only decoded. Raises
    data.DataError that names damaged or changed images, model.WeightsError and CacheError.
    """
    count = len(dataset.names)
    passed, damaged, remarks = 0, {}, {}
    recipe = engine(), image_size, preprocessing, weights
    directory = Path(cache) / key(dataset, image_size, preprocessing, weights)

    def shards() -> Iterator[ShardTask]:
        """Make each task when it is its turn: it depends on the damage that was found before."""
        for number, start in enumerate(range(0, count, SHARD)):
            part, path = slice(start, start + SHARD), directory / f"shard-{number:05}.json"
            images = range(count)[part], dataset.names[part], dataset.digests[part]
            check_only = bool(damaged and not skip_damaged)
            source = dataset.source.subset(images[0])
            yield ShardTask(source, *images, path, *recipe, check_only=check_only)

    try:
        with tqdm(total=count, desc="features", unit=" images", disable=None) as bar:
            for shard in tasks.run_tasks(executor, provide_shard, shards()):
                bar.update(shard.record.images)
                if shard.note:
                    bar.write(shard.note, file=sys.stderr)
                damaged |= shard.record.damaged
                remarks |= shard.record.remarks
                passed += shard.passed
    except OSError as error:
        raise CacheError(f"{error.filename or cache}: {error.strerror}; see --cache-dir") from None
    finally:
        # Training needs the memory of the engines.
        for function in (_litert_graphs, _litert_engine, _keras_engine):
            function.cache_clear()
    if damaged and not skip_damaged:
        raise data.damaged_images(dataset, damaged)
    return Features(directory, (count, model.FEATURES), damaged, remarks, passed)


def provide_shard(task: ShardTask) -> Shard:
    """Return a shard's record from the cache, or compute the shard; a task for an executor."""
    note = None
    if task.record_path.exists():
        if record := _read_record(task):
            return Shard(record, 0)
        note = f"cache: {task.record_path} is damaged and is made again"
    record = extract_shard(task)
    return Shard(record, record.images - len(record.damaged), note)


def _read_record(task: ShardTask) -> ShardRecord | None:
    """Return the record of a cached shard; None if it, or the shard, is damaged."""
    with contextlib.suppress(Refusal, OSError):
        record = ShardRecord(**files.read_json(task.record_path))
        begin, size = task.rows.start * ROW_BYTES, len(task.rows) * ROW_BYTES
        rows = np.fromfile(task.record_path.with_name(ROWS), np.uint8, size, offset=begin)
        if record.sha256 == hashlib.sha256(rows).hexdigest():
            return record
    return None


def extract_shard(task: ShardTask) -> ShardRecord:
    """Compute a shard's features, write them and then its record to the cache, and return this."""
    record = ShardRecord(len(task.rows), [], [])
    images = _decode_images(task, record)
    if task.check_only:
        for _ in images:
            pass
        return record
    vectors = np.zeros((len(task.rows), model.FEATURES), np.float32)
    for row, vector in _thread_engine(task)(images):
        vectors[row - task.rows.start] = vector
    record = replace(record, sha256=hashlib.sha256(vectors).hexdigest())
    path = task.record_path.with_name(ROWS)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    # Not through a mapping, where a full disk would kill the process.
    with open(path, "r+b") as file:
        file.seek(task.rows.start * ROW_BYTES)
        file.write(vectors)
    files.write_json(task.record_path, asdict(record))
    return record


def _decode_images(task: ShardTask, record: ShardRecord) -> Rows:
    """Yield row and pixels of each whole image; add damaged ones and remarks to the record."""
    images = task.source.read(range(len(task.rows)))
    for row, name, digest, image in zip(task.rows, task.names, task.digests, images, strict=True):
        if data.digest(image) != digest:
            reason = f" ({image})" if isinstance(image, OSError) else ""
            change = f"changed or vanished while it was being used{reason}"
            raise data.DataError(f"{name} {change}; start again")
        try:
            pixels, remark = data.decode_with_remarks(image)
        except data.DamagedImage as error:
            record.damaged.append((row, str(error)))
            continue
        if remark:
            record.remarks.append((row, remark))
        yield row, pixels


_building = threading.Lock()
_litert_graphs = functools.cache(model.litert_graphs)


def _thread_engine(task: ShardTask) -> Engine:
    """Return the engine of this thread, built at its first call."""
    recipe = task.image_size, task.preprocessing, task.weights
    # One thread at a time: the first makes for all what takes seconds.
    with _building:
        if task.engine.startswith("litert"):
            return _litert_engine(*recipe, threading.get_ident())
        return _keras_engine(*recipe)


@functools.cache
def _litert_engine(image_size: int, preprocessing: str, weights: str, thread: int) -> Engine:
    """Return an engine for one core."""
    prepare, backbone = map(litert.Graph, _litert_graphs(image_size, preprocessing, weights))

    def pass_images(images: Rows) -> Rows:
        for row, image in images:
            yield row, backbone.run(prepare.run(image[None]))[0].copy()

    return pass_images


@functools.cache
def _keras_engine(image_size: int, preprocessing: str, weights: str) -> Engine:
    """Return an engine that all threads share."""
    prepare = model.preprocessing(image_size, preprocessing)
    backbone = model.backbone(image_size, weights)
    run = tf.function(lambda pixels: backbone(pixels, training=False), reduce_retracing=True)

    def pass_images(images: Rows) -> Rows:
        prepared = ((row, prepare(image[None])) for row, image in images)
        while batch := list(itertools.islice(prepared, KERAS_BATCH)):
            rows, pixels = zip(*batch, strict=True)
            yield from zip(rows, run(tf.concat(pixels, 0)).numpy(), strict=True)

    return pass_images
