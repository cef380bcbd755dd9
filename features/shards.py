"""Rows on disk in shards with checksums, opened once, and the samples that are trained on.

    CACHE/KEY/features.f32       float32 (N, ...), row by row
    CACHE/KEY/shard-00000.json   sha256 of 256 rows, damaged images of them

A shard counts only if its record exists and the checksum of its rows is right; the record is
written after the rows.
"""

import contextlib
import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime import files
from runtime.messages import Refusal

SHARD = 256  # rows; at the end a core waits for another's last shard, about a second
ROWS = "features.f32"


@dataclass(frozen=True)
class Store:
    """Where the rows of all images are that a recipe makes."""

    directory: Path
    row_shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """The size of a row, float32."""
        return 4 * math.prod(self.row_shape)


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
        record = files.read_json(shard_path(store, part))
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


def shard_path(store: Store, rows: range) -> Path:
    """Return where the record of a shard is."""
    return store.directory / f"shard-{rows.start // SHARD:05}.json"


def read_shard(store: Store, rows: range) -> tuple[dict | None, str | None]:
    """Return the record of a shard, or None; and a note if it is damaged."""
    path, (begin, size) = shard_path(store, rows), _extent(store, rows)
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
    files.write_json(shard_path(store, rows), record | {"sha256": checksum})


def _extent(store: Store, rows: range) -> tuple[int, int]:
    """Return where rows begin in the file, and their size, in bytes."""
    return rows.start * store.row_bytes, len(rows) * store.row_bytes
