"""Encoded images become pixels: `decode`. Anything that is not a whole image is a DamagedImage."""

import io
import warnings

import numpy as np
import simplejpeg
from PIL import Image

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
# 150 MB once decoded. A phone's largest photograph has 48 million pixels.
MAX_PIXELS = 50_000_000

# Pillow's warnings do not name the file, and what matters arrives as an exception.
warnings.filterwarnings("ignore", module=r"PIL\.")


class DamagedImage(Exception):
    """One image cannot be decoded; the message says why."""


def decode(encoded: bytes | OSError) -> np.ndarray:
    """Return an encoded image as uint8 (height, width, 3); of an animation the first frame.

    Transparency and EXIF orientation are ignored, as by TensorFlow. Raises DamagedImage for what is
    not a whole image in one of FORMATS with at most MAX_PIXELS pixels, and for an OSError, which
    stands for a file that could not be read.
    """
    return decode_with_remarks(encoded)[0]


def decode_with_remarks(encoded: bytes | OSError) -> tuple[np.ndarray, str | None]:
    """Return what `decode` returns, and what the user should know about the image, or None."""
    if isinstance(encoded, OSError):
        raise DamagedImage(f"cannot be read: {encoded.strerror or encoded}")
    if not encoded:
        raise DamagedImage("empty")
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Image.DecompressionBombError:
        raise DamagedImage(f"more than {MAX_PIXELS:,} pixels") from None
    # Pillow's readers raise anything from OSError to SyntaxError.
    except Exception:
        raise DamagedImage(f"damaged, or not a {', '.join(FORMATS)} image") from None
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        raise DamagedImage(f"{size} is more than {MAX_PIXELS:,} pixels")
    try:
        return _pixels(image, encoded), None
    # Lack of memory says nothing about the image.
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DamagedImage(f"damaged: {reason}") from None


def _pixels(image: Image.Image, encoded: bytes) -> np.ndarray:
    """Decode an opened image; raises anything where it is damaged."""
    if image.mode.startswith("I"):
        # Pillow would clip 16 bits of grey instead of scaling them.
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
        # The fast transform is tf.io.decode_jpeg's default. Pillow has the exact one only, and
        # validation accuracies of equal runs differ by up to 0.004 between the two.
        return simplejpeg.decode_jpeg(encoded, "RGB", fastdct=True)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))
