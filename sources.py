"""What all sources of images share, and the smallest source, the embedded digits.

A source is listed once, in folders.py, records.py or tfds_source.py: the `Listing` names every
image. The images stay where they are; the listing's `Source` reads them again.
"""

import gzip
import hashlib
import io
import itertools
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO

import numpy as np
from PIL import Image

# A note names so many images and counts the others.
NAMED = 10
# A plain TFRecord file begins so only if its first record has 559,903 bytes, or 2**24 n more.
GZIP_MAGIC = b"\x1f\x8b\x08"


class DataError(Exception):
    """The data cannot be used as they are; the message says what, where, and what to do."""


@dataclass(frozen=True)
class Source:
    """Where encoded images can be read again, here as parts of files; picklable."""

    places: Sequence  # of each row: path, offset in the unpacked file, bytes (-1: all)
    # True if a file is gzip. To read a row is to read all rows before it: ask for all in one call.
    sequential: bool = False

    def read(self, rows: Iterable[int]) -> Iterator[bytes | OSError]:
        """Yield the encoded image of each row, in ascending order; an OSError if unreadable."""
        places = (self.places[row] for row in rows)
        for path, group in itertools.groupby(places, lambda place: place[0]):
            remaining = list(group)
            try:
                with open_unpacked(path) if self.sequential else open(path, "rb") as file:
                    while remaining:
                        _, offset, size = remaining[0]
                        file.seek(offset)
                        encoded = file.read(size)
                        del remaining[0]
                        yield encoded
            except OSError as error:
                yield from [error] * len(remaining)
            except (EOFError, zlib.error) as error:
                yield from [OSError(str(error))] * len(remaining)

    def subset(self, rows: Iterable[int]) -> "Source":
        """Return a source of these rows only, which are then counted from 0."""
        return replace(self, places=[self.places[row] for row in rows])


@dataclass(frozen=True)
class Entry:
    """One image as its source lists it."""

    name: str  # for messages, on one line
    label: int | str  # one of the source's classes
    digest: bytes  # sha256 of the encoded image
    validation: bool | None = None  # None: the source has no split, for none of its images
    key: bytes | None = None  # decides the side where there is no split; None: the digest does


@dataclass(frozen=True)
class Listing:
    """What there is: row i of the source is entry i."""

    name: str
    source: Source
    entries: list[Entry]
    classes: dict[int | str, str]  # {label: name}
    notes: list[str]  # what the user should know


def digest(encoded: bytes | OSError) -> bytes:
    """Return the sha256 of an encoded image; one that cannot be read counts as empty."""
    return hashlib.sha256(b"" if isinstance(encoded, OSError) else encoded).digest()


def is_gzip(path: str) -> bool:
    """Tell whether a file is packed."""
    with open(path, "rb") as file:
        return file.read(3) == GZIP_MAGIC


def open_unpacked(path: str) -> IO[bytes]:
    """Open a file for reading what is in it once unpacked."""
    return gzip.open(path) if is_gzip(path) else open(path, "rb")


def one_line(text: str | os.PathLike) -> str:
    """Return a text or path for messages: on one line, and the same under every locale."""
    text = os.fsencode(text).decode(errors="surrogateescape")
    return text if text.isprintable() else repr(text)[1:-1]


def join_some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def problem_list(name: str, problems: Sequence[str]) -> str:
    """Return one line for one problem; for more, their number and then one line each."""
    if len(problems) == 1:
        return f"{name}: {problems[0]}"
    return "\n  ".join([f"{name}: {len(problems)} problems", *problems])


@dataclass(frozen=True)
class Digits(Source):
    """scikit-learn's 1,797 handwritten digits, 8 x 8 grey; the places are BMP files in memory."""

    def read(self, rows: Iterable[int]) -> Iterator[bytes]:
        """Yield each digit."""
        return (self.places[row] for row in rows)


def list_digits() -> Listing:
    """Return the digits, with a note if there is a folder of that name."""
    # Only this source needs scikit-learn, whose import takes a second.
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    encoded, entries = [], []
    # The pixels are 0 to 16.
    for pixels in (images.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "BMP")
        encoded.append(file.getvalue())
    for row, (label, image) in enumerate(zip(labels.tolist(), encoded, strict=True)):
        entries.append(Entry(f"digit {row}", label, digest(image), key=b"%d" % row))
    note = "the embedded digits are used; for the folder digits give ./digits"
    notes = [note] if os.path.isdir("digits") else []
    return Listing("digits", Digits(encoded), entries, {i: str(i) for i in range(10)}, notes)
