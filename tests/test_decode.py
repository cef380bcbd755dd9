"""Decoding: every kind of image file, damage at every place, and what libjpeg warns of."""

import contextlib
import struct
import zlib

import numpy as np
import pytest
from image_files import TURN, encode
from PIL import Image

from runtime.tensorflow_setup import tf
from sources.decoding import HALVED, HARMLESS, SURPLUS, TURNED, DamagedImage, decode

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
ALPHA = np.arange(24 * 40, dtype=np.uint8).reshape(24, 40)
GREY = PIXELS[..., 0]
TWICE = {"save_all": True, "append_images": [Image.fromarray(255 - PIXELS)]}
THREE_GREY = np.repeat(GREY[..., None], 3, axis=-1)
DEEP = np.linspace(0, 65535, 24 * 40).astype(np.uint16).reshape(24, 40)


def palette(transparency=None, kind="PNG"):
    image = Image.fromarray(PIXELS).quantize(16)
    options = {} if transparency is None else {"transparency": transparency}
    return encode(image, kind, **options), np.asarray(image.convert("RGB"))


def chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def with_chunk(kind, content):
    """Return the PNG file of PIXELS with one more chunk behind its header."""
    return encode(PIXELS)[:33] + chunk(kind, content) + encode(PIXELS)[33:]


LARGE = zlib.compress(np.random.default_rng(1).integers(97, 122, 2**21, np.uint8).tobytes())
EXACT = {
    "rgb": (encode(PIXELS), PIXELS),
    "grey": (encode(GREY), THREE_GREY),
    "rgb with alpha": (encode(np.dstack([PIXELS, ALPHA])), PIXELS),
    "palette": palette(),
    "palette with a transparency for each color": palette(bytes(range(0, 160, 10))),
    "one bit": (encode(Image.fromarray(GREY > 127)), np.where(THREE_GREY > 127, 255, 0)),
    "16 bits of grey": (encode(DEEP), np.repeat((DEEP // 256)[..., None], 3, -1)),
    "png with a large profile": (with_chunk(b"iCCP", b"p\0\0" + LARGE), PIXELS),
    "png with a large text": (with_chunk(b"zTXt", b"t\0\0" + LARGE), PIXELS),
    "png with a large utf-8 text": (with_chunk(b"iTXt", b"t\0\1\0\0\0" + LARGE), PIXELS),
    "gif": (encode(GREY, "GIF"), THREE_GREY),
    "gif with a transparent color": palette(3, "GIF"),
    "gif, first frame of two": (encode(GREY, "GIF", **TWICE), THREE_GREY),
    "webp": (encode(PIXELS, "WEBP", lossless=True), PIXELS),
}


@pytest.mark.parametrize("encoded, expected", EXACT.values(), ids=EXACT)
def test_images_of_any_kind_become_uint8_rgb(encoded, expected):
    decoded = decode(encoded, remarks := [])
    assert decoded.dtype == np.uint8 and remarks == []
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids="".join)
def test_jpeg_is_decoded_as_tensorflow_does_to_the_last_bit(mode, options):
    encoded = encode(Image.fromarray(PIXELS).convert(mode), "JPEG", quality=70, **options)
    expected = tf.io.decode_jpeg(encoded, channels=3)
    np.testing.assert_array_equal(decode(encoded), expected)
    # A CMYK file of another program than Adobe's stores ink, not light.
    encoded = encoded.replace(b"Adobe", b"Other")
    np.testing.assert_array_equal(decode(encoded), tf.io.decode_jpeg(encoded, channels=3))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_ignored_with_a_remark(kind):
    turned = decode(encode(PIXELS, kind, exif=TURN), remarks := [])
    np.testing.assert_array_equal(turned, decode(encode(PIXELS, kind)))
    assert remarks == [TURNED]
    decode(encode(PIXELS, kind, exif=TURN[:6] + b"\xff" * 40), remarks := [])
    assert remarks == []


JPEG = encode(PIXELS, "JPEG", quality=90)
CMYK = encode(Image.fromarray(PIXELS).convert("CMYK"), "JPEG", quality=90)
RESTARTS = encode(PIXELS, "JPEG", quality=90, restart_marker_blocks=2)
PROGRESSIVE = encode(PIXELS, "JPEG", quality=90, progressive=True)
SCAN = JPEG.index(b"\xff\xda")
END = b"\xff\xd9"


def with_segment(marker, content):
    """Return JPEG with one more segment before its others, in place of JFIF."""
    return JPEG[:2] + marker + struct.pack(">H", len(content) + 2) + content + JPEG[20:]


def one_scan_twice(jpeg):
    first, second = (jpeg.index(b"\xff\xda", place) for place in (0, jpeg.index(b"\xff\xda") + 2))
    return jpeg[:second] + jpeg[first:]


REVISION = JPEG[:11] + b"\0\0" + JPEG[13:]
PHONE = JPEG[: SCAN + 12] + b"\0" + JPEG[SCAN + 13 :]
WITHOUT_LOSS = {
    "JFIF revision": (REVISION, HARMLESS),
    "color transform": (with_segment(b"\xff\xee", b"Adobe\0d\0\0\0\0\7"), HARMLESS),
    "color transform of CMYK": (with_segment(b"\xff\xee", b"Adobe\0d\0\0\0\0\2"), HARMLESS),
    "color profile": (with_segment(b"\xff\xe2", b"ICC_PROFILE\0\3\2profile"), HARMLESS),
    "scan parameters": (PHONE, HARMLESS),
    "bytes before the end": (JPEG[:-2] + bytes(99) + END, SURPLUS),
    "bytes between segments": (JPEG[:20] + bytes(9) + JPEG[20:], SURPLUS),
    "bytes before the end of CMYK": (CMYK[:-2] + bytes(99) + END, SURPLUS),
    "none, in a phone's file of two pictures": (encode(PIXELS, "MPO", **TWICE), None),
}
LOSS = {
    "end of file": JPEG[:-60],
    "end of file, progressive": PROGRESSIVE[:-2],
    "end of data": JPEG[:-60] + END,
    "end of CMYK data": CMYK[:-60] + END,
    "behind an unknown revision": REVISION[:-60],
    "restart marker": RESTARTS.replace(b"\xff\xd1", b"\xff\xd4"),
    "bytes before a restart marker": RESTARTS.replace(b"\xff\xd1", bytes(5) + b"\xff\xd1"),
    "order of scans": one_scan_twice(PROGRESSIVE),
    "Huffman code": JPEG[: SCAN + 40] + b"\xff\0" * 60 + JPEG[SCAN + 160 :],
}


@pytest.mark.parametrize("encoded, remark", WITHOUT_LOSS.values(), ids=WITHOUT_LOSS)
def test_a_warning_that_costs_no_pixels_is_a_remark(encoded, remark):
    # A remark on another image does not count.
    pixels = decode(encoded, remarks := ["another"])
    expected = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
    np.testing.assert_allclose(pixels, expected, atol=0 if remark else 4)
    assert remarks == (["another", remark] if remark else ["another"])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_an_image_cut_anywhere_is_damaged_unless_all_its_pixels_are_there(kind):
    encoded = encode(PIXELS, kind)
    pixels, end = decode(encoded), len(encoded)
    for length in [*range(0, end - 40, 37), *range(end - 40, end)]:
        with contextlib.suppress(DamagedImage):
            np.testing.assert_array_equal(decode(encoded[:length]), pixels)
            assert length >= end - 20, "what is missing may only be the mark of the end"


PNG = encode(PIXELS)
ROWS_END = PNG.index(b"IEND") - 4
STORED = encode(PIXELS, compress_level=0)
BROKEN = {
    "zeros at the end": PNG[:-200] + bytes(200),
    "zeros at the end of rows that are not compressed": STORED[:99] + bytes(len(STORED) - 99),
    "zeros for the checksum of the rows": PNG[: ROWS_END - 4] + bytes(4) + PNG[ROWS_END:],
    "a bit of the last checksum": PNG[:-1] + bytes([PNG[-1] ^ 1]),
    "no end": PNG[:ROWS_END],
    "another text at the end": PNG[:ROWS_END]
    + chunk(b"tEXt", b"a\0b").replace(b"b", b"c")
    + PNG[ROWS_END:],
}


@pytest.mark.parametrize("encoded", BROKEN.values(), ids=BROKEN)
def test_every_checksum_of_a_png_counts_up_to_its_end(encoded):
    with pytest.raises(DamagedImage, match="damaged: "):
        decode(encoded)
    # What lies behind the end is not the image's.
    np.testing.assert_array_equal(decode(PNG + b"more"), PIXELS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "surplus"])
def test_photographs_above_fifty_megapixels_are_decoded_at_half_their_size(kind):
    shades = np.arange(8001, dtype=np.uint16)[None] // 100 * np.ones((6301, 1), np.uint16)
    encoded = encode(Image.fromarray(shades.astype(np.uint8)), "PNG" if kind == "PNG" else "JPEG")
    encoded = encoded[:-2] + bytes(99) + encoded[-2:] if kind == "surplus" else encoded
    pixels = decode(encoded, remarks := [])
    assert pixels.shape == (3151, 4001, 3) and remarks[0] == HALVED
    np.testing.assert_allclose(pixels[::500, 5::50, 0], shades[:6001:1000, 10::100], atol=2)


def with_palette(count):
    """Return a PNG file that uses 16 colors, with so many in its palette."""
    png = palette()[0]
    place = png.index(b"PLTE") - 4
    kept = chunk(b"PLTE", png[place + 8 :][: 3 * count]) if count else b""
    return png[:place] + kept + png[place + 12 + 3 * 16 :]


GIF = bytearray(encode(GREY, "GIF"))
GIF[10] &= 0x7F


def large(width, height):
    """Return a PNG file of which only the header says how large it is: nothing is decoded."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return encode(PIXELS)[:8] + header + struct.pack(">I", 9) + b"IDAT"


BAD = {
    "empty": (b"", "empty"),
    "text": (b"not an image, but named so", "not a JPEG, PNG, BMP, GIF, WEBP image"),
    "tiff": (encode(PIXELS, "TIFF"), "not a JPEG, PNG, BMP, GIF, WEBP image"),
    "header": (encode(PIXELS)[:30], "damaged"),
    "unreadable": (PermissionError(13, "Permission denied"), "cannot be read: Permission denied"),
    "no palette": (with_palette(0), "damaged: color 15 of a palette of 0"),
    "short palette": (with_palette(9), "damaged: color 15 of a palette of 9"),
    "gif without a palette": (bytes(GIF[:13] + GIF[13 + 768 :]), "damaged: no global palette"),
    "too large": (large(20_000, 10_001), "too large: 20000 x 10001 pixels; scale it down to 200,"),
    "decompression bomb": (large(60_000, 60_000), "too large: 60000 x 60000 pixels; scale it down"),
    "long side": (
        large(65_536, 1),
        "too large: 65536 x 1 pixels; scale it down to 200,000,000, and",
    ),
}


BAD |= {f"lost {name}": (encoded, "damaged: ") for name, encoded in LOSS.items()}


@pytest.mark.parametrize("encoded, reason", BAD.values(), ids=BAD)
def test_what_cannot_be_used_says_why_on_one_line(encoded, reason):
    with pytest.raises(DamagedImage) as caught:
        decode(encoded, ["another"])
    assert reason in str(caught.value) and str(caught.value).isprintable()
