"""Every image passes the frozen backbone once; the 1,280 numbers it becomes are kept on disk and checked when read.

    python features.py --list       # what is kept, and how large it is
    python features.py --prune      # remove it

    CACHE/KEY/key.json              what the features depend on; KEY is its hash
    CACHE/KEY/features.f32          float32 (N, 1280), row by row, mapped into memory when read
    CACHE/KEY/shard-00000.json      sha256 of 512 rows, digests of their pixels, damaged images: those rows are there

A row counts only when the record of its shard is there and its checksum holds; the record is written after the rows,
whole. So extraction can be killed at any moment and goes on where it was, and two processes that need the same
features at once write the same bytes to the same places.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import queue
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import commands
import logs
import numpy as np
import quiet

import data
import model

CACHE = ".cache/features"
FORMAT = 2  # raise it when what is stored, or how it is computed, changes
SHARD = 512  # rows; a kill costs at most this many images, three seconds of two cores
LITERT_BATCH, KERAS_BATCH = (
    8,
    64,
)  # images handed over at once; LiteRT still passes them one by one, its fastest way
GPU_DEVICES = (
    "/dev/nvidiactl",
    "/dev/kfd",
    "/dev/dxg",
)  # without one of them there is no GPU to ask TensorFlow for


class CacheError(Exception):
    """Features cannot be kept; the message says what, where, and what to do."""


class Features(NamedTuple):
    """The features of all images of a data set, rows as in the data set."""

    directory: Path
    shape: tuple  # (N, 1280)
    pixels: list  # (N,) digest of each image's decoded pixels, None where it is damaged
    damaged: dict  # {row: reason}
    engine: str
    computed: int  # images that passed the backbone now; the others came from the cache


def mapped(directory, shape):
    """Return the features in a directory as an array (N, 1280) mapped from the file, which never changes by it."""
    # Copy-on-write: DLPack, by which TensorFlow shares the mapping, takes no read-only array.
    return np.memmap(Path(directory) / "features.f32", np.float32, "c", shape=shape)


def engine():
    """Return what passes images here, with its version: LiteRT, or Keras where there is a GPU or no LiteRT."""
    if importlib.util.find_spec("ai_edge_litert") is None or _gpu_is_visible():
        return f"keras, tensorflow {importlib.metadata.version('tensorflow')}"
    return f"litert {importlib.metadata.version('ai-edge-litert')}"


def _gpu_is_visible():
    return any(map(os.path.exists, GPU_DEVICES)) and bool(
        quiet.tensorflow().config.list_physical_devices("GPU")
    )


def key(dataset, image_size, preprocessing, weights):
    """Return all that features depend on, as a dict of strings and numbers."""
    return {
        "format": FORMAT,
        "images": dataset.images_fingerprint,
        "image_size": image_size,
        "preprocessing": preprocessing,
        "weights": model.weights_key(weights),
        "engine": engine(),
        "decoder": ", ".join(
            f"{name} {importlib.metadata.version(name)}" for name in ("pillow", "simplejpeg")
        ),
    }


def extract(
    dataset,
    image_size,
    preprocessing,
    weights,
    cache=CACHE,
    skip_damaged=False,
    graphs=model.litert_graphs,
):
    """Return the Features of every image of a data set, from the cache as far as they are there.

    `graphs` is called as model.litert_graphs, and only if an image has to pass the backbone. Once a damaged image is
    found and `skip_damaged` is false, the remaining ones are decoded but pass no more, to find all damaged ones soon.
    Raises data.DataError for damaged images, model.WeightsError, and CacheError where the cache cannot be written.
    """
    wanted = key(dataset, image_size, preprocessing, weights)
    directory = Path(cache) / _name(wanted)
    shape = (len(dataset.rows), model.FEATURES)
    logs.remove_leftovers(directory)
    shards = {start: _checked_shard(directory, start, shape) for start in range(0, shape[0], SHARD)}
    missing = np.repeat([shards[start] is None for start in shards], SHARD)[: shape[0]]
    damaged = {row: reason for shard in shards.values() if shard for row, reason in _damaged(shard)}
    if missing.any() and (skip_damaged or not damaged):
        # First: then wrong weights leave nothing behind.
        engines = _engines(wanted["engine"], image_size, preprocessing, weights, graphs)
        with _reporting_full_disk(cache):
            directory.mkdir(parents=True, exist_ok=True)
            logs.write_json(directory / "key.json", {"data": dataset.name, **wanted})
        _fill(dataset, missing, engines, directory, shape, shards, damaged, skip_damaged, cache)
    if damaged and not skip_damaged:
        raise data.damaged_images(dataset, damaged)
    pixels = [digest for shard in shards.values() for digest in shard["pixels"]]
    return Features(directory, shape, pixels, damaged, wanted["engine"], int(missing.sum()))


def _fill(dataset, missing, engines, directory, shape, shards, damaged, skip_damaged, cache):
    """Pass the missing images; add their shards to the directory and to `shards`, and what is damaged to `damaged`."""
    from tqdm import tqdm

    free = queue.SimpleQueue()
    for embed in engines:
        free.put(embed)

    def passed(batch):
        """`[(row, digest of pixels, features or reason)]` of a batch `[(row, encoded)]`."""
        images, done = [], []
        for row, encoded in batch:
            try:
                image = data.decode(encoded)
            except data.DamagedImage as error:
                done.append((row, None, str(error)))
                continue
            digest = hashlib.sha256(repr(image.shape).encode())
            digest.update(np.ascontiguousarray(image))
            images.append((row, digest.hexdigest()[:32], image))
        if damaged and not skip_damaged:
            return done
        embed = free.get()
        try:
            vectors = embed([image for _, _, image in images])
        finally:
            free.put(embed)
        return done + [(row, digest, vector) for (row, digest, _), vector in zip(images, vectors)]

    shard, rows = {}, np.empty((SHARD, shape[1]), np.float32)
    with (
        _open_for_writing(directory / "features.f32", cache) as file,
        concurrent.futures.ThreadPoolExecutor(len(engines)) as threads,
        tqdm(
            total=len(missing),
            initial=int((~missing).sum()),
            desc="features",
            unit=" images",
            disable=None,
        ) as bar,
    ):
        batches = _batches(dataset.encoded(missing), engines[0].batch)
        for results in _in_order(threads, passed, batches, ahead=2 * len(engines)):
            for row, digest, outcome in results:
                bar.update()
                start = row - row % SHARD
                if digest is None:
                    damaged[row] = outcome
                    outcome = 0
                rows[row - start] = outcome
                shard[row] = digest
                if len(shard) == min(SHARD, shape[0] - start) and (skip_damaged or not damaged):
                    whole = rows[: len(shard)]
                    record = _shard_record(whole, [shard[r] for r in sorted(shard)], start, damaged)
                    with _reporting_full_disk(cache):
                        _write_at(file, whole, start)
                        logs.write_json(directory / _shard_name(start), record)
                    shards[start] = record
                    shard = {}


def _batches(pairs, size):
    """Group an iterable into lists of `size`; the last one may be shorter. (itertools.batched needs Python 3.12.)"""
    batch = []
    for pair in pairs:
        batch.append(pair)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _in_order(threads, function, items, ahead):
    """Yield function(item) for every item, computed by threads, in order; at most `ahead` items are read in advance."""
    waiting = collections.deque()
    try:
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


# --- What is on disk -------------------------------------------------------------------------------------------------


def _name(wanted):
    """What the directory is called of the features that `key` returned this for."""
    return logs.json_sha256(wanted)[:16]


def _shard_name(start):
    return f"shard-{start // SHARD:05}.json"


def _shard_record(rows, pixels, start, damaged):
    """What is kept about the shard that begins at row `start`."""
    here = {str(row): reason for row, reason in damaged.items() if start <= row < start + len(rows)}
    return {"sha256": hashlib.sha256(rows).hexdigest(), "pixels": pixels, "damaged": here}


def _damaged(shard):
    return [(int(row), reason) for row, reason in shard["damaged"].items()]


def _checked_shard(directory, start, shape):
    """The record of a shard whose rows are there and have its checksum; None, and a word about it, where not."""
    path = directory / _shard_name(start)
    if not path.exists():
        return None
    length = min(SHARD, shape[0] - start)
    try:
        record = logs.read_json(path)
        with open(directory / "features.f32", "rb") as file:
            file.seek(start * shape[1] * 4)
            rows = file.read(length * shape[1] * 4)
        if record["sha256"] == hashlib.sha256(rows).hexdigest() and len(record["pixels"]) == length:
            _damaged(record)
            return record
        reason = "its checksum does not hold"
    except (
        OSError,
        logs.ExperimentError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        reason = " ".join(str(error).split())
    print(f"cache: {path} is damaged ({reason}); its images are passed again", file=sys.stderr)
    return None


def _open_for_writing(path, cache):
    """The file of rows, made if it is not there; what is in it stays."""
    with _reporting_full_disk(cache):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        return open(descriptor, "r+b", buffering=0)


def _write_at(file, rows, start):
    """Write rows to their place and wait until the disk has them."""
    # Not through a mapping: a full disk would kill the process there, here it raises.
    block = memoryview(rows).cast("B")
    offset = start * rows.shape[1] * rows.itemsize
    while block:
        written = os.pwrite(file.fileno(), block, offset)
        block, offset = block[written:], offset + written
    os.fsync(file.fileno())


@contextlib.contextmanager
def _reporting_full_disk(cache):
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"{cache}: features cannot be kept there: {error.strerror}; see --cache-dir"
        ) from error


# --- Engines: functions from a list of uint8 images to their features ------------------------------------------------


def _engines(name, image_size, preprocessing, weights, graphs):
    """A list of engines that may be called at the same time: LiteRT's one for each core, or Keras' single one."""
    if not name.startswith("litert"):
        return [_keras_engine(image_size, preprocessing, weights)]
    first, second = graphs(image_size, preprocessing, weights)
    with quiet.stderr():
        return [_litert_engine(first, second) for _ in range(cores())]


def cores():
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _litert_engine(first, second):
    """One core's engine; `invoke` releases Python's lock, so several run side by side in threads."""
    from ai_edge_litert.interpreter import Interpreter

    pixels, backbone = (
        Interpreter(model_content=graph, num_threads=1) for graph in (first, second)
    )
    backbone.allocate_tensors()
    image_in, image_out = (
        pixels.get_input_details()[0]["index"],
        pixels.get_output_details()[0]["index"],
    )
    pixels_in, vector_out = (
        backbone.get_input_details()[0]["index"],
        backbone.get_output_details()[0]["index"],
    )
    allocated = None

    def embed(images):
        nonlocal allocated
        vectors = np.empty((len(images), model.FEATURES), np.float32)
        for vector, image in zip(vectors, images):
            if image.shape != allocated:
                pixels.resize_tensor_input(image_in, (1, *image.shape))
                pixels.allocate_tensors()
                allocated = image.shape
            pixels.set_tensor(image_in, image[None])
            pixels.invoke()
            backbone.set_tensor(
                pixels_in, pixels.tensor(image_out)()
            )  # a view; get_tensor would copy once more
            backbone.invoke()
            vector[:] = backbone.get_tensor(vector_out)[0]
        return vectors

    embed.batch = LITERT_BATCH
    return embed


def _keras_engine(image_size, preprocessing, weights):
    """The engine of a GPU, or of a machine without LiteRT."""
    tf = quiet.tensorflow()
    prepare, backbone = (
        model.preprocessing(image_size, preprocessing),
        model.backbone(image_size, weights),
    )
    passed = tf.function(lambda pixels: backbone(pixels, training=False), reduce_retracing=True)

    def embed(images):
        if not images:
            return np.empty((0, model.FEATURES), np.float32)
        return passed(tf.concat([prepare(image[None]) for image in images], 0)).numpy()

    embed.batch = KERAS_BATCH
    return embed


# --- Command line ----------------------------------------------------------------------------------------------------


def kept(cache):
    """List `(directory, key, bytes)` of the feature sets in a cache, oldest first; what else is there is not ours."""
    sets = []
    for path in Path(cache).glob("*/key.json"):
        with contextlib.suppress(logs.ExperimentError, OSError):
            about = logs.read_json(path)
            if path.parent.name == _name(
                {name: value for name, value in about.items() if name != "data"}
            ):
                size = sum(file.lstat().st_blocks * 512 for file in path.parent.iterdir())
                sets.append((path.stat().st_mtime, path.parent, about, size))
    return [entry[1:] for entry in sorted(sets, key=lambda entry: entry[0])]


def main(arguments=None):
    """List or remove what is kept."""
    parser = commands.Parser(description="Show or remove kept features.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--list", action="store_true", help="show every kept set of features")
    action.add_argument("--prune", action="store_true", help="remove every kept set of features")
    parser.add_argument(
        "--cache-dir", default=CACHE, help="where they are kept (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    total = 0
    for directory, about, size in kept(options.cache_dir):
        total += size
        if options.prune:
            shutil.rmtree(directory)
        described = ", ".join(
            f"{name} {about.get(name)}"
            for name in ("data", "image_size", "preprocessing", "engine")
        )
        print(
            f"{'removed ' if options.prune else ''}{directory}  {size / 2**20:.1f} MiB  {described}"
        )
    print(f"{total / 2**20:.1f} MiB in {options.cache_dir}{' removed' if options.prune else ''}")


if __name__ == "__main__":
    commands.end_quietly()
    main()
