"""Encoded images become pixels: `decode`. Anything that is not a whole image is a DamagedImage."""

import contextlib
import io
import re
import struct
import warnings
import zlib

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
# The largest photographs of phones have nearly as many pixels.
MAX_PIXELS, MAX_SIDE = 200_000_000, 65_535
# Larger images are decoded at half their size: resizing needs 26 bytes a pixel in each thread.
WHOLE_PIXELS = 50_000_000
TURNED = "are turned by their EXIF orientation, which is ignored as by TensorFlow"
HARMLESS = "have faults that cost no pixels"
HALVED = f"are decoded at half their size, as all above {WHOLE_PIXELS:,} pixels"
SURPLUS = "have surplus bytes and may be damaged"
# Warnings of libjpeg's jerror.h that do not tell of lost pixels. Bytes before a restart marker do.
WARNINGS = {
    "Unknown Adobe color|bad ICC|unknown JFIF|Invalid SOS parameters for sequential": HARMLESS,
    "extraneous bytes before marker 0x(?!d[0-7])": SURPLUS,
}

# The size is compared with MAX_PIXELS before anything is decoded.
Image.MAX_IMAGE_PIXELS = None
# Pillow refuses more than 1 MB of compressed text or color profile, which change no pixel.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**28
# Pillow's warnings do not name the file, and what matters arrives as an exception.
warnings.filterwarnings("ignore", module=r"PIL\.")


class DamagedImage(Exception):
    """One image cannot be used; the message says why."""


def decode(encoded: bytes | OSError, remarks: list[str] | None = None) -> np.ndarray:
    """Return an encoded image as uint8 (height, width, 3); of an animation the first frame.

    EXIF orientation and transparency are ignored. An OSError stands for a file that could not be
    read. What the user should know of the image is added to `remarks`. Raises DamagedImage.
    """
    remarks = [] if remarks is None else remarks
    if isinstance(encoded, OSError):
        raise DamagedImage(f"cannot be read: {encoded.strerror}")
    if not encoded:
        raise DamagedImage("empty")
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
            most = f"scale it down to {MAX_PIXELS:,}, and {MAX_SIDE:,} a side"
            raise DamagedImage(f"too large: {image.width} x {image.height} pixels; {most}")
        if is_large := image.width * image.height > WHOLE_PIXELS:
            remarks.append(HALVED)
        if image.format in ("JPEG", "MPO"):
            pixels = _decode_jpeg(image, encoded, is_large, remarks)
        else:
            pixels = _decode_other(image, encoded, is_large)
    # Lack of memory says nothing about the image.
    except (DamagedImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise DamagedImage(f"damaged, or not a {', '.join(FORMATS)} image") from None
    # Pillow's readers raise anything from OSError to SyntaxError.
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DamagedImage(f"damaged: {reason}") from None
    # Damaged EXIF data raise anything, and turn nothing.
    with contextlib.suppress(Exception):
        if image.getexif().get(ExifTags.Base.Orientation) in range(2, 9):
            remarks.append(TURNED)
    return pixels


def _decode_jpeg(
    image: Image.Image, encoded: bytes, is_halved: bool, remarks: list[str]
) -> np.ndarray:
    """Return pixels and add remarks; raises ValueError or OSError if pixels are lost.

    The fast transform is tf.io.decode_jpeg's default. Pillow has the exact one only, and validation
    accuracies of equal runs differ by up to 0.004 between the two. Pillow also hides warnings.
    """
    colors = "CMYK" if image.mode == "CMYK" else "RGB"
    least = {"min_width": -(-image.width // 2), "min_height": -(-image.height // 2)}
    try:
        size = least if is_halved else {}
        pixels = simplejpeg.decode_jpeg(encoded, colors, fastdct=True, **size)
    except ValueError as error:
        harmless = [kind for text, kind in WARNINGS.items() if re.search(text, str(error))]
        if not harmless:
            raise
        remarks += harmless
        # simplejpeg stops at warnings of the header. Pillow goes on, with the exact transform, and
        # sees where a file is cut. Other faults behind a harmless first warning are not seen.
        converted = image.convert(colors)
        pixels = np.asarray(converted.reduce(2) if is_halved else converted)
        # Pillow inverts CMYK.
        pixels = 255 - pixels if colors == "CMYK" else pixels
    if colors == "CMYK":
        # As tf.io.decode_jpeg does. Adobe stores light instead of ink.
        light = (pixels if "adobe" in image.info else 255 - pixels).astype(np.uint16)
        pixels = (light[..., :3] * light[..., 3:] // 255).astype(np.uint8)
    return pixels


def _decode_other(image: Image.Image, encoded: bytes, is_halved: bool) -> np.ndarray:
    """Return the pixels of what is not a JPEG; raises anything if it is damaged."""
    if image.format == "PNG":
        _verify_chunks(encoded)
    if image.mode.startswith("I"):
        # Pillow would clip 16 bits of grey instead of scaling them.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "P":
        highest = np.asarray(image).max()
        colors = len(image.palette.palette) // 3 if image.palette else 0
        if highest >= colors:
            raise ValueError(f"color {highest} of a palette of {colors}")
        # Pillow would warn of transparency that RGB lacks.
        image = image.convert("RGBA")
    # Pillow names a background where there is a global palette.
    elif image.format == "GIF" and "background" not in image.info:
        raise ValueError("no global palette")
    image = image.convert("RGB")
    return np.asarray(image.reduce(2) if is_halved else image)


def _verify_chunks(png: bytes) -> None:
    """Compare the checksums of a PNG file's chunks up to the last; raises ValueError.

    Pillow stops where it has all rows, even if the rest of the file is zeros.
    """
    place, kind = len(SIGNATURE), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", png.ljust(place + 8, b"\0"), place)
        end = place + 8 + length
        if png[end : end + 4] != struct.pack(">I", zlib.crc32(png[place + 4 : end])):
            raise ValueError(f"wrong checksum, or no end, of the part at byte {place:,}")
        place = end + 4
