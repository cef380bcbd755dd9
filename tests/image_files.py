"""Small image files, folders and refusals, shared by the tests of data."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data
from runtime.messages import Refusal

# EXIF data that tell of a picture turned by 90 degrees.
TURN = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"


def encode(image, kind="PNG", **options):
    """Return the bytes of an image file; `image` is an array or a Pillow image."""
    file = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, kind, **options)
    return file.getvalue()


def picture(number):
    """Return a small PNG that differs from number to number."""
    return encode(np.full((4, 4, 3), (number % 256, number // 256 % 256, 7), np.uint8))


def write(root, files):
    """Write {path below root: bytes} and return the root as a string."""
    for path, content in files.items():
        Path(root, path).parent.mkdir(parents=True, exist_ok=True)
        Path(root, path).write_bytes(content)
    return str(root)


def classes(*counts, prefix="", names="abcdefgh"):
    """Return {path: bytes} of classes a, b, ... with these numbers of images, all different."""
    first = zlib.crc32(prefix.encode()) % 30_000
    return {
        f"{prefix}{name}/{i}.png": picture(first + 1000 * number + i)
        for number, (name, count) in enumerate(zip(names, counts, strict=False))
        for i in range(count)
    }


def refusal(*arguments, **options):
    """Return the message with which data.load refuses."""
    with pytest.raises(Refusal) as caught:
        data.load(*map(str, arguments), **options)
    message = str(caught.value)
    assert message.replace("\n", "").isprintable(), message
    return message


def read_all(dataset):
    """Return the encoded images of a data set."""
    return list(dataset.source.read(dataset.rows))
