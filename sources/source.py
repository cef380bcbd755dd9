"""What all sources of images share: a listing made once, and a `Source` that reads images again."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Source:
    """Where encoded images can be read again; picklable. Here the places are the images."""

    places: Sequence  # one for each row

    def read(self, rows: Iterable[int]) -> Iterator[bytes | OSError]:
        """Yield the encoded image of each row; an OSError if it cannot be read."""
        return (self.places[row] for row in rows)

    def subset(self, rows: Iterable[int]) -> "Source":
        """Return a source of these rows only, which are then counted from 0."""
        return replace(self, places=[self.places[row] for row in rows])


class FileParts(Source):
    """Images in files; a place is the file's path, an offset and a size (-1: to the end)."""

    def read(self, rows: Iterable[int]) -> Iterator[bytes | OSError]:
        for path, offset, size in super().read(rows):
            try:
                # A named pipe would wait for ever.
                if not stat.S_ISREG(os.stat(path).st_mode):
                    raise OSError(errno.EINVAL, "not a regular file")
                with open(path, "rb") as file:
                    file.seek(offset)
                    encoded = file.read(size)
            except OSError as error:
                encoded = error
            yield encoded


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
    """All images of a source; entry i is row i."""

    name: str
    source: Source
    entries: list[Entry]
    classes: dict[int | str, str]  # {label: name}
    notes: list[str]  # what the user should know

    @property
    def has_split(self) -> bool:
        """Whether the source says of its images on which side they are."""
        return all(entry.validation is not None for entry in self.entries)


def digest(encoded: bytes | OSError) -> bytes:
    """Return the sha256 of an encoded image; one that cannot be read counts as empty."""
    return hashlib.sha256(b"" if isinstance(encoded, OSError) else encoded).digest()
