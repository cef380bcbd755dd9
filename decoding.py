"""Encoded images become pixels: `decode`. Anything that is not a whole image is a DamagedImage."""

import io
import re
import warnings

import numpy as np
import simplejpeg
from PIL import Image

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
# 150 MB once decoded. A phone's largest photograph has 48 million pixels.
MAX_PIXELS, MAX_SIDE = 50_000_000, 65_535
EXIF_ORIENTATION = 0x0112
TURNED = "are turned by their EXIF orientation, which is ignored as by TensorFlow"
HARMLESS = "have faults that cost no pixels"
SURPLUS = "have surplus bytes and may be damaged"

# Pillow's warnings do not name the file, and what matters arrives as an exception.
warnings.filterwarnings("ignore", module=r"PIL\.")


class DamagedImage(Exception):
    """One image cannot be decoded; the message says why."""


def decode(encoded: bytes | OSError) -> np.ndarray:
    """Return an encoded image as uint8 (height, width, 3); of an animation the first frame.

    EXIF orientation is ignored, as by TensorFlow. A transparent pixel has the color stored for it,
    as in TensorFlow (which makes it black only in GIF). Raises DamagedImage for what is not a whole
    image in one of FORMATS of at most MAX_PIXELS pixels and MAX_SIDE pixels a side, and for an
    OSError, which stands for a file that could not be read.
    """
    return decode_with_remarks(encoded)[0]


def decode_with_remarks(encoded: bytes | OSError) -> tuple[np.ndarray, str | None]:
    """Return what `decode` returns, and remarks on the image joined by "; ", or None."""
    if isinstance(encoded, OSError):
        raise DamagedImage(f"cannot be read: {encoded.strerror or encoded}")
    if not encoded:
        raise DamagedImage("empty")
    # Pillow refuses more than 1 MB of compressed text or color profile, which change no pixel.
    encoded = _without_metadata(encoded) if encoded.startswith(b"\x89PNG") else encoded
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Image.DecompressionBombError:
        raise DamagedImage(f"more than {MAX_PIXELS:,} pixels") from None
    # Pillow's readers raise anything from OSError to SyntaxError.
    except Exception:
        raise DamagedImage(f"damaged, or not a {', '.join(FORMATS)} image") from None
    size = f"{image.width} x {image.height}"
    if image.width * image.height > MAX_PIXELS:
        raise DamagedImage(f"{size} is more than {MAX_PIXELS:,} pixels")
    if max(image.size) > MAX_SIDE:
        raise DamagedImage(f"{size} pixels: a side is longer than {MAX_SIDE:,}")
    try:
        pixels, remark = _pixels(image, encoded)
    # Lack of memory says nothing about the image.
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DamagedImage(f"damaged: {reason}") from None
    remarks = [remark] if remark else []
    return pixels, "; ".join(remarks + [TURNED] * _is_turned(image)) or None


def _pixels(image: Image.Image, encoded: bytes) -> tuple[np.ndarray, str | None]:
    """Decode an opened image; raises anything where it is damaged."""
    if image.mode.startswith("I"):
        # Pillow would clip 16 bits of grey instead of scaling them.
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1), None
    if image.format in ("JPEG", "MPO"):
        pixels, remark = _decode_jpeg(encoded, image.mode)
        if image.mode == "CMYK":
            # As tf.io.decode_jpeg does. Adobe stores light instead of ink.
            light = (pixels if "adobe" in image.info else 255 - pixels).astype(np.uint16)
            pixels = (light[..., :3] * light[..., 3:] // 255).astype(np.uint8)
        return pixels, remark
    if image.mode == "P":
        highest = np.asarray(image).max()
        colors = len(image.palette.palette) // 3 if image.palette else 0
        if highest >= colors:
            raise ValueError(f"color {highest} of a palette of {colors}")
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.format == "GIF" and not encoded[10] & 0x80:
        raise ValueError("no global palette")
    return np.asarray(image.convert("RGB")), None


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(EXIF_ORIENTATION) in range(2, 9)
    # Pillow raises anything for damaged EXIF data, which turn nothing.
    except Exception:
        return False


def _without_metadata(png: bytes) -> bytes:
    """Return a PNG file without its texts and color profile."""
    kept, place = [png[:8]], 8
    while place < len(png):
        end = place + 12 + int.from_bytes(png[place : place + 4], "big")
        if png[place + 4 : place + 8] not in (b"iCCP", b"iTXt", b"tEXt", b"zTXt"):
            kept.append(png[place:end])
        place = end
    return b"".join(kept)


def _decode_jpeg(jpeg: bytes, mode: str) -> tuple[np.ndarray, str | None]:
    """Return pixels and a remark; raises ValueError for a warning of libjpeg that may cost pixels.

    The fast transform is tf.io.decode_jpeg's default. Pillow has the exact one only, and validation
    accuracies of equal runs differ by up to 0.004 between the two. Pillow also hides warnings.
    """
    colors = "CMYK" if mode == "CMYK" else "RGB"
    try:
        return simplejpeg.decode_jpeg(jpeg, colors, fastdct=True), None
    # libjpeg tells only the first warning. Without its cause a second one would show.
    except ValueError as error:
        first = str(error)
    mended = _mend_jpeg(jpeg, color_transform=2 if mode == "CMYK" else 1)
    try:
        pixels = simplejpeg.decode_jpeg(mended, colors, fastdct=True)
    except ValueError as error:
        # Nothing follows the end marker, so this warning hides no other.
        if "extraneous bytes before marker 0xd9" not in str(error):
            raise
        return simplejpeg.decode_jpeg(mended, colors, fastdct=True, strict=False), SURPLUS
    return pixels, SURPLUS if "extraneous" in first else HARMLESS


def _mend_jpeg(jpeg: bytes, color_transform: int) -> bytes:
    """Return a JPEG file without faults that libjpeg warns of but that cost no pixels.

    These are bytes between the segments of the header, a damaged color profile, an unknown JFIF
    revision or Adobe color transform (libjpeg takes it for `color_transform`), parameters of a
    sequential scan, which mean nothing there, and a missing end marker after the only scan.
    """
    header, place, components = [b"\xff\xd8"], 2, 0
    while True:
        place = jpeg.index(b"\xff", place)
        marker = jpeg[place + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:
            place += 1
            continue
        if marker == 0xDA:
            break
        end = place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
        segment = bytearray(jpeg[place:end])
        if segment[4:9] == b"JFIF\0":
            segment[9:11] = b"\1\1"
        elif segment[4:9] == b"Adobe" and segment[15]:
            segment[15] = color_transform
        elif segment[4:15] == b"ICC_PROFILE":
            segment.clear()
        elif marker in (0xC0, 0xC1):
            # Frames of this kind are sequential; only they ignore a scan's parameters.
            components = segment[9]
        header.append(segment)
        place = end
    scans = bytearray(jpeg[place:])
    starts = [match.start() for match in re.finditer(b"\xff\xda", scans)] if components else []
    for start in starts:
        end = start + 2 + int.from_bytes(scans[start + 2 : start + 4], "big")
        scans[end - 3 : end] = bytes((0, 63, 0))
    if len(starts) == 1 and scans[4] == components and b"\xff\xd9" not in scans:
        scans += b"\xff\xd9"
    return b"".join((*header, scans))
