"""Every image passes the frozen backbone once; its numbers are cached and verified when read.

    CACHE/KEY/                shards as shards.py describes them; KEY is the hash from `key`
    CACHE/KEY/damaged.txt     all damaged images, where they are too many to be printed

A shard is there or not. So extraction can be killed at any moment and continues from there, and two
processes that need the same features at once write the same bytes to the same places.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data
import model
from features import shards
from features.engines import ENGINES, Images, engine, versions
from features.shards import Store
from model import Recipe
from runtime import files, tasks
from runtime.messages import NAMED, Refusal, describe, problem_list
from sources import decoding
from sources.source import Source, digest

FORMAT = 6  # raise it when what is stored, or how it is computed, changes
# Each task costs Ray's driver milliseconds, so of a large data set it takes several shards.
SHARDS_A_TASK = 32  # at most
TASKS_A_WORKER = 50  # at least; with fewer, workers would wait long for the last ones
DAMAGED = "damaged.txt"
LARGE = 1e9  # bytes of a cache that are worth a note before they are written


@dataclass(frozen=True)
class Features:
    """Where the features of all N images of a data set are."""

    stores: list[Store]  # of `recipe.outputs`
    damaged: dict[int, str]  # row -> reason; the features of these rows are zeros
    remarks: dict[int, str]  # row -> what the user should know of the image
    computed: int  # images passed now; the others came from the cache


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
            for provided in tasks.run_tasks(executor, provide_shards, plan):
                for shard in provided:
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
    several = 1 + len(whole.rows) // (shards.SHARD * TASKS_A_WORKER * workers)
    return whole.split(shards.SHARD * min(several, SHARDS_A_TASK))


def provide_shards(task: ShardTask) -> list[Shard]:
    """Return shards from the cache, or compute them and write them to it; for an executor."""
    return list(map(_provide_shard, task.split(shards.SHARD)))


def _provide_shard(task: ShardTask) -> Shard:
    found = [shards.read_shard(store, task.rows) for store in task.stores]
    records, notes = zip(*found, strict=True)
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
            shards.write_shard(store, task.rows, array, record)
    return Shard(**record, computed=count - len(damaged), note=note)


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
