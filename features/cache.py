"""Every image passes the frozen backbone once; the 1,280 numbers are cached and verified when read.

    CACHE/KEY/features.f32       float32 (N, 1280), row by row; KEY is the hash from `key`
    CACHE/KEY/shard-00000.json   sha256 of 256 rows, damaged images of them
    CACHE/KEY/damaged.txt        all damaged images, where they are too many to be printed

A shard counts only if its record exists and the checksum of its rows is right; the record is
written after the rows. So extraction can be killed at any moment and continues from there, and two
processes that need the same features at once write the same bytes to the same places.
"""

import contextlib
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data
import model
from features.engines import ENGINES, Images, engine, versions
from model import Recipe
from runtime import files, tasks
from runtime.messages import NAMED, Refusal, describe, problem_list
from sources import decoding
from sources.source import Source, digest

FORMAT = 6  # raise it when what is stored, or how it is computed, changes
SHARD = 256  # rows; at the end a core waits for another's last shard, about a second
# Each task costs Ray's driver milliseconds, so of a large data set it takes several shards.
SHARDS_A_TASK = 32  # at most
TASKS_A_WORKER = 50  # at least; with fewer, workers would wait long for the last ones
ROWS, DAMAGED = "features.f32", "damaged.txt"
LARGE = 1e9  # bytes of a cache that are worth a note before they are written


@dataclass(frozen=True)
class Store:
    """Where the rows of all images are that a recipe makes."""

    directory: Path
    row_shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """The size of a row, float32."""
        return 4 * math.prod(self.row_shape)


@dataclass(frozen=True)
class Features:
    """Where the features of all N images of a data set are."""

    stores: list[Store]  # of `recipe.outputs`
    damaged: dict[int, str]  # row -> reason; the features of these rows are zeros
    remarks: dict[int, str]  # row -> what the user should know of the image
    computed: int  # images passed now; the others came from the cache


class Rows:
    """The rows of a store in one open file, which stays whole if its name is removed."""

    def __init__(self, store: Store, count: int):
        """Open the file of so many rows; raises OSError, or Refusal if it is too small."""
        self.store, self._count = store, count
        self._path = store.directory / ROWS
        self._file = open(self._path, "rb")  # noqa: SIM115
        # Copy-on-write: DLPack, by which TensorFlow shares the memory, takes no read-only array.
        self._require_whole()
        self._map = np.memmap(self._file, np.float32, "c", shape=(count, *store.row_shape))

    def __reduce__(self) -> tuple:
        """Pickle the place: whoever gets it opens and verifies the file anew."""
        return open_rows, (self.store, self._count)

    def map(self) -> np.memmap:
        """Return the rows, float32 (N, *row_shape); raises Refusal if the file was cut."""
        self._require_whole()
        return self._map

    def _require_whole(self) -> None:
        # To touch what is no longer there would kill the process.
        if os.fstat(self._file.fileno()).st_size < self._count * self.store.row_bytes:
            raise Refusal(f"{self._path} was cut by another process; repeat the command")


def open_rows(store: Store, count: int) -> Rows:
    """Open the rows of a store and verify all checksums on this file; raises Refusal."""
    rows = Rows(store, count)
    for start in range(0, count, SHARD):
        part = range(start, min(start + SHARD, count))
        record = files.read_json(_shard_path(store, part))
        if record.get("sha256") != hashlib.sha256(rows.map()[part.start : part.stop]).hexdigest():
            changed = "was changed by another process while it was used; repeat the command"
            raise Refusal(f"{store.directory} {changed}")
    return rows


@dataclass(frozen=True)
class Samples:
    """Cached features with their labels and sides; N images."""

    rows: Rows
    labels: np.ndarray  # (N,) int32, -1: left out
    classes: int
    train: np.ndarray  # rows that are trained on
    validation: np.ndarray


@dataclass(frozen=True)
class ShardTask:
    """All that it takes to compute the features of some shards anywhere; picklable."""

    source: Source  # of these images only
    rows: range  # of the data set, and of the cache; the first one begins a shard
    names: list[str]  # of the images, for messages
    digests: list[bytes]  # sha256 of each encoded image
    stores: list[Store]  # of `recipe.outputs`
    engine: str
    recipe: Recipe
    check_only: bool = False  # decode the images, but pass none

    @property
    def needs_gpu(self) -> bool:
        """Whether Keras passes the images, on a GPU if its node has one."""
        return self.engine.startswith("keras")

    def split(self, size: int) -> Iterator["ShardTask"]:
        """Yield tasks for so many rows each."""
        for start in range(0, len(self.rows), size):
            part = slice(start, start + size)
            lists = {"names": self.names[part], "digests": self.digests[part]}
            source = self.source.subset(range(len(self.rows))[part])
            yield replace(self, source=source, rows=self.rows[part], **lists)


@dataclass(frozen=True)
class Shard:
    """What a task tells of a shard; the first three are also stored in the cache, as JSON."""

    images: int
    damaged: list[tuple[int, str]]  # row and reason
    remarks: list[tuple[int, str]]  # row and what the user should know of the image
    computed: int = 0  # images that passed the backbone now
    note: str | None = None  # for standard error


def decoder() -> str:
    """Return what decodes images, with its version."""
    return versions("pillow", "simplejpeg")


def key(dataset: data.Dataset, recipe: Recipe) -> str:
    """Return a hash of all that features depend on; raises Refusal."""
    images, arrays = dataset.images_fingerprint, model.weights_key(recipe.weights)
    # TensorFlow and Keras make LiteRT's graphs and the random weights.
    packages = engine(), tasks.processor(), decoder(), versions("tensorflow", "keras")
    parts = [FORMAT, images, recipe.image_size, recipe.preprocessing, arrays, *packages]
    parts += [recipe.cut] if recipe.cut else []
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def extract(
    dataset: data.Dataset,
    recipe: Recipe,
    cache: str | Path,
    skip_damaged: bool,
    executor: Executor,
) -> Features:
    """Return the features of every image of a data set from which none is left out.

    Once a damaged image is found and `skip_damaged` is false, later tasks only decode theirs.
    Raises Refusal where images are damaged or changed, or weights or cache cannot be used.
    """
    count = len(dataset.names)
    stores = [Store(Path(cache) / key(dataset, one), one.row_shape) for one in recipe.outputs]
    size = sum(count * store.row_bytes for store in stores if not store.directory.exists())
    if size > LARGE:
        print(f"note: features will take {size / 1e9:.1f} GB in {cache}")
    images = dataset.source, range(count), dataset.names, dataset.digests
    plan = plan_tasks(ShardTask(*images, stores, engine(), recipe), executor.workers)
    computed, damaged, remarks = 0, {}, {}
    # Tasks are created lazily, because each depends on the damage that was found before.
    plan = (replace(task, check_only=bool(damaged) and not skip_damaged) for task in plan)
    try:
        with tqdm(total=count, desc="features", unit=" images", disable=None) as bar:
            for shards in tasks.run_tasks(executor, provide_shards, plan):
                for shard in shards:
                    bar.update(shard.images)
                    if shard.note:
                        bar.write(shard.note, file=sys.stderr)
                    damaged |= shard.damaged
                    remarks |= shard.remarks
                    computed += shard.computed
    except OSError as error:
        raise Refusal(f"{describe(error, cache)}; see --cache-dir") from None
    finally:
        ENGINES.close()
    if damaged and not skip_damaged:
        problems = [f"{dataset.names[row]}: {damaged[row]}" for row in sorted(damaged)]
        advice = "; fix or remove them, or leave them out with --skip-damaged"
        if len(problems) > NAMED:
            path = stores[0].directory / DAMAGED
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_atomically(path, "\n".join([*problems, ""]))
            advice += f"; all are in {path}"
        raise Refusal(problem_list(dataset.name, problems, "images cannot be used", advice))
    return Features(stores, damaged, remarks, computed)


def plan_tasks(whole: ShardTask, workers: int) -> Iterator[ShardTask]:
    """Yield the tasks for all shards of a data set, several a task where there are many."""
    shards = 1 + len(whole.rows) // (SHARD * TASKS_A_WORKER * workers)
    return whole.split(SHARD * min(shards, SHARDS_A_TASK))


def provide_shards(task: ShardTask) -> list[Shard]:
    """Return shards from the cache, or compute them and write them to it; for an executor."""
    return list(map(_provide_shard, task.split(SHARD)))


def _provide_shard(task: ShardTask) -> Shard:
    records, notes = zip(*(_read_shard(store, task.rows) for store in task.stores), strict=True)
    note = next(filter(None, notes), None)
    if None not in records:
        return Shard(**records[0])
    count, damaged, remarks = len(task.rows), [], []
    images = _decode_images(task, damaged, remarks)
    if task.check_only:
        for _ in images:
            pass
        return Shard(count, damaged, remarks, note=note)
    arrays = [np.zeros((count, *store.row_shape), np.float32) for store in task.stores]
    for row, outputs in ENGINES.find(task.engine, task.recipe).pass_images(images):
        for array, output in zip(arrays, outputs, strict=True):
            array[row - task.rows.start] = output
    record = {"images": count, "damaged": damaged, "remarks": remarks}
    for store, array, known in zip(task.stores, arrays, records, strict=True):
        if known is None:
            write_shard(store, task.rows, array, record)
    return Shard(**record, computed=count - len(damaged), note=note)


def _shard_path(store: Store, rows: range) -> Path:
    return store.directory / f"shard-{rows.start // SHARD:05}.json"


def _read_shard(store: Store, rows: range) -> tuple[dict | None, str | None]:
    """Return the record of a shard, or None; and a note if it is damaged."""
    path, (begin, size) = _shard_path(store, rows), _extent(store, rows)
    if not path.exists():
        return None, None
    with contextlib.suppress(Refusal, OSError):
        record = files.read_json(path)
        content = np.fromfile(store.directory / ROWS, np.uint8, size, offset=begin)
        if record.pop("sha256", None) == hashlib.sha256(content).hexdigest() and _is_record(
            record, rows
        ):
            return record, None
    return None, f"cache: {path} is damaged and is made again"


def _is_record(record: dict, rows: range) -> bool:
    """Whether the record of a shard holds what a Shard has of it."""
    if record.keys() != {"images", "damaged", "remarks"} or record["images"] != len(rows):
        return False
    lists = record["damaged"], record["remarks"]
    if not all(isinstance(some, list) for some in lists):
        return False
    pairs = [pair for some in lists for pair in some]
    return all(
        isinstance(pair, list) and [type(part) for part in pair] == [int, str] and pair[0] in rows
        for pair in pairs
    )


def write_shard(store: Store, rows: range, array: np.ndarray, record: dict) -> None:
    """Write the rows of a shard, then its record."""
    rows_path, (begin, _) = store.directory / ROWS, _extent(store, rows)
    store.directory.mkdir(parents=True, exist_ok=True)
    rows_path.touch()
    # Not through a mapping, where a full disk would kill the process.
    with open(rows_path, "r+b") as file:
        file.seek(begin)
        file.write(array)
    checksum = hashlib.sha256(array).hexdigest()
    files.write_json(_shard_path(store, rows), record | {"sha256": checksum})


def _extent(store: Store, rows: range) -> tuple[int, int]:
    """Return where rows begin in the file, and their size, in bytes."""
    return rows.start * store.row_bytes, len(rows) * store.row_bytes


def _decode_images(task: ShardTask, damaged: list, remarks: list) -> Images:
    """Yield row and pixels of each whole image; add rows and texts to the two lists."""
    images = task.source.read(range(len(task.rows)))
    for row, name, known, image in zip(task.rows, task.names, task.digests, images, strict=True):
        if digest(image) != known:
            reason = f" ({image})" if isinstance(image, OSError) else ""
            change = f"changed or vanished while it was being used{reason}"
            raise Refusal(f"{name} {change}; start again")
        found = []
        try:
            pixels = decoding.decode(image, found)
        except decoding.DamagedImage as error:
            damaged.append((row, str(error)))
            continue
        if found:
            remarks.append((row, "; ".join(found)))
        yield row, pixels


def describe_node(images: Source, weights: str) -> dict[str, str]:
    """Return what features depend on as this process finds it, to compare nodes of a cluster."""
    found = {"weights": model.weights_key(weights)[:12], "engine": engine(), "decoder": decoder()}
    encoded = images.read(range(len(images.places)))
    return found | {f"image {i}": digest(one).hex()[:12] for i, one in enumerate(encoded)}
