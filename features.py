"""Every image passes the frozen backbone once; the 1,280 numbers are cached and verified when read.

    CACHE/KEY/preprocessing.tflite, backbone.tflite   what passes the images; KEY is `key`'s hash
    CACHE/KEY/features.f32                            float32 (N, 1280), row by row
    CACHE/KEY/shard-00000.json                        sha256 of 256 rows, damaged images of them

A shard counts only if its record exists and the checksum of its rows is right; the record is
written after the rows. So extraction can be killed at any moment and continues from there, and two
processes that need the same features at once write the same bytes to the same places.
"""

import hashlib
import itertools
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data
import files
import model
import tasks
from engines import Recipe, decoder, drop_engines, engine, make_graphs, thread_engine, versions

FORMAT = 3  # raise it when what is stored, or how it is computed, changes
SHARD = 256  # rows; at the end a core waits for another's last shard, about a second
ROWS, ROW_BYTES = "features.f32", 4 * model.FEATURES


class CacheError(Exception):
    """The cache cannot be used; the message says what, where, and what to do."""


@dataclass(frozen=True)
class Features:
    """Where the features of all N images of a data set are."""

    directory: Path
    shape: tuple[int, int]  # (N, 1280)
    damaged: dict[int, str]  # row -> reason; the features of these rows are zeros
    remarks: dict[int, str]  # row -> what the user should know of the image
    engine: str
    computed: int  # images passed now; the others came from the cache


@dataclass(frozen=True)
class ShardTask:
    """All that it takes to compute the features of one shard anywhere; picklable."""

    source: data.Source
    rows: range  # of the source, and of the cache
    names: list[str]  # of the images, for messages
    digests: list[bytes]  # sha256 of each encoded image
    recipe: Recipe  # its directory is CACHE/KEY
    check_only: bool = False  # decode the images, but pass none
    encoded: list[bytes | OSError] | None = None  # the images, if they are read already

    @property
    def record_path(self) -> Path:
        return Path(self.recipe.directory) / f"shard-{self.rows.start // SHARD:05}.json"


@dataclass(frozen=True)
class ShardRecord:
    """What is known of a shard; kept in the cache as JSON."""

    images: int
    damaged: dict[int, str]  # row -> reason
    remarks: dict[int, str]  # row -> what the user should know of the image
    sha256: str | None = None  # of its rows in the cache; None if they were not computed


def mapped(directory: str | Path, shape: tuple[int, int]) -> np.memmap:
    """Return cached features, float32 (N, 1280), mapped from their file."""
    # Copy-on-write: DLPack, by which TensorFlow shares the memory, takes no read-only array.
    return np.memmap(Path(directory) / ROWS, np.float32, "c", shape=shape)


def key(dataset: data.Dataset, image_size: int, preprocessing: str, weights: str) -> dict:
    """Return, as strings and numbers, all that features depend on; raises model.WeightsError."""
    return {
        "format": FORMAT,
        "images": dataset.images_fingerprint,
        "image_size": image_size,
        "preprocessing": preprocessing,
        "weights": model.weights_key(weights),
        "engine": engine(),
        "decoder": decoder(),
        # They make LiteRT's graphs and the random weights.
        "converter": versions("tensorflow", "keras"),
    }


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

    Only what is not in the cache is computed. Once a damaged image is found and `skip_damaged` is
    false, the others are only decoded, to find all damaged ones soon. Raises data.DataError that
    names them, model.WeightsError and CacheError.
    """
    wanted = key(dataset, image_size, preprocessing, weights)
    directory = Path(cache) / files.hash_json(wanted)[:16]
    recipe = Recipe(wanted["engine"], image_size, preprocessing, weights, str(directory))
    shards = list(_shards(dataset, recipe))
    shape = (len(dataset.names), model.FEATURES)
    damaged, remarks, computed = {}, {}, 0
    try:
        records = list(executor.map(read_record, shards))
        missing = [shard for shard, record in zip(shards, records, strict=True) if record is None]
        for record in filter(None, records):
            damaged |= record.damaged
            remarks |= record.remarks
        if missing and (skip_damaged or not damaged):
            _prepare_cache(recipe)
        with tqdm(total=shape[0], desc="features", unit=" images", disable=None) as bar:
            bar.update(shape[0] - sum(len(shard.rows) for shard in missing))
            pending = _pending(dataset.source, missing, {} if skip_damaged else damaged)
            for record in tasks.run_tasks(executor, extract_shard, pending):
                bar.update(record.images)
                damaged |= record.damaged
                remarks |= record.remarks
                computed += record.images - len(record.damaged)
    except OSError as error:
        raise CacheError(f"{error.filename or cache}: {error.strerror}; see --cache-dir") from None
    finally:
        drop_engines()
    if damaged and not skip_damaged:
        raise data.damaged_images(dataset, damaged)
    return Features(directory, shape, damaged, remarks, recipe.name, computed)


def _prepare_cache(recipe: Recipe) -> None:
    """Write what all tasks need."""
    # First, because wrong weights must leave nothing behind.
    graphs = make_graphs(recipe)
    directory = Path(recipe.directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, graph in graphs.items():
        files.write_atomically(directory / name, graph)
    (directory / ROWS).touch()


def _shards(dataset: data.Dataset, recipe: Recipe) -> Iterator[ShardTask]:
    for start in range(0, len(dataset.names), SHARD):
        part = slice(start, start + SHARD)
        rows = range(len(dataset.names))[part]
        yield ShardTask(dataset.source, rows, dataset.names[part], dataset.digests[part], recipe)


def _pending(
    source: data.Source, missing: list[ShardTask], damaged: dict[int, str]
) -> Iterator[ShardTask]:
    """Yield the tasks of missing shards; they only check once there is a row in `damaged`."""
    # A source that can only be read from its beginning is read here, once.
    stream = source.read(row for shard in missing for row in shard.rows)
    for shard in missing:
        encoded = list(itertools.islice(stream, len(shard.rows))) if source.sequential else None
        yield replace(shard, check_only=bool(damaged), encoded=encoded)


def read_record(task: ShardTask) -> ShardRecord | None:
    """Return the record of a cached shard; None, and a line on standard error if it is damaged."""
    if not (path := task.record_path).exists():
        return None
    try:
        value = files.read_json(path)
        for name in ("damaged", "remarks"):
            value[name] = {int(row): text for row, text in value[name].items()}
        record = ShardRecord(**value)
        with open(path.with_name(ROWS), "rb") as file:
            file.seek(task.rows.start * ROW_BYTES)
            digest = hashlib.sha256(file.read(len(task.rows) * ROW_BYTES)).hexdigest()
        if (record.images, record.sha256) == (len(task.rows), digest):
            return record
        reason = "its checksum is wrong"
    except (files.FileError, OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        reason = str(error)
    print(f"cache: {path} is damaged ({reason}); its images are passed again", file=sys.stderr)
    return None


def extract_shard(task: ShardTask) -> ShardRecord:
    """Compute a shard's features, write them and then its record to the cache, and return this.

    Raises data.DataError if an image is not what the data set was loaded with, and OSError if the
    cache cannot be used.
    """
    damaged, remarks = {}, {}
    images = _decode_images(task, damaged, remarks)
    if task.check_only:
        for _ in images:
            pass
        return ShardRecord(len(task.rows), damaged, remarks)
    vectors = np.zeros((len(task.rows), model.FEATURES), np.float32)
    for position, vector in thread_engine(task.recipe)(images):
        vectors[position] = vector
    record = ShardRecord(len(task.rows), damaged, remarks, hashlib.sha256(vectors).hexdigest())
    # Not through a mapping, where a full disk would kill the process.
    with open(Path(task.recipe.directory) / ROWS, "r+b") as file:
        file.seek(task.rows.start * ROW_BYTES)
        file.write(vectors)
        file.flush()
        os.fsync(file.fileno())
    files.write_json(task.record_path, asdict(record))
    return record


def _decode_images(
    task: ShardTask, damaged: dict[int, str], remarks: dict[int, str]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield position and pixels of each whole image; fill `damaged` and `remarks`."""
    encoded_images = task.encoded or task.source.read(task.rows)
    images = zip(task.rows, task.names, task.digests, encoded_images, strict=True)
    for position, (row, name, digest, encoded) in enumerate(images):
        if data.digest(encoded) != digest:
            reason = f" ({encoded})" if isinstance(encoded, OSError) else ""
            change = "changed or vanished while it was being used"
            raise data.DataError(f"{name} {change}{reason}; start again")
        try:
            pixels, remark = data.decode_with_remarks(encoded)
        except data.DamagedImage as error:
            damaged[row] = str(error)
            continue
        if remark:
            remarks[row] = remark
        yield position, pixels
