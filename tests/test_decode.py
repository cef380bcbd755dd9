"""Decoding: every kind of image file, and damage at every place."""

import contextlib
import struct
import time
import zlib

import numpy as np
import pytest
from image_files import encode
from PIL import Image

import data
from tensorflow_setup import tf

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
RED, BLUE = (255, 0, 0), (0, 0, 255)
ALPHA = np.arange(24 * 40, dtype=np.uint8).reshape(24, 40)
GREY = PIXELS[..., 0]
THREE_GREY = np.repeat(GREY[..., None], 3, axis=-1)
RAMP = np.arange(24 * 40, dtype=np.uint32) * 65535 // (24 * 40 - 1)
DEEP = RAMP.astype(np.uint16).reshape(24, 40)


def damage(encoded):
    """Return the message with which data.decode refuses; one printable line."""
    with pytest.raises(data.DamagedImage) as caught:
        data.decode(encoded)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400
    return str(caught.value)


def palette(transparency=None):
    image = Image.fromarray(PIXELS).quantize(16)
    options = {} if transparency is None else {"transparency": transparency}
    return encode(image, **options), np.asarray(image.convert("RGB"))


def two_frames(kind, **options):
    red, blue = Image.new("RGB", (5, 3), RED), Image.new("RGB", (5, 3), BLUE)
    return encode(red, kind, save_all=True, append_images=[blue], **options)


TURNED = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
EXACT = {
    "rgb": (encode(PIXELS), PIXELS),
    "grey": (encode(GREY), THREE_GREY),
    "grey with alpha": (encode(np.dstack([GREY, ALPHA])), THREE_GREY),
    "rgb with alpha": (encode(np.dstack([PIXELS, ALPHA])), PIXELS),
    "palette": palette(),
    "palette with one transparent colour": palette(3),
    "palette with a transparency for each colour": palette(bytes(range(0, 160, 10))),
    "one bit": (encode(Image.fromarray(GREY > 127)), np.where(THREE_GREY > 127, 255, 0)),
    "16 bits of grey": (encode(DEEP), np.repeat((DEEP // 256)[..., None], 3, -1)),
    "bmp": (encode(PIXELS, "BMP"), PIXELS),
    "grey bmp": (encode(GREY, "BMP"), THREE_GREY),
    "gif": (encode(GREY, "GIF"), THREE_GREY),
    "gif, first frame of two": (two_frames("GIF"), np.full((3, 5, 3), RED)),
    "webp": (encode(PIXELS, "WEBP", lossless=True), PIXELS),
    "webp, first frame of two": (two_frames("WEBP", lossless=True), np.full((3, 5, 3), RED)),
    "one pixel": (encode(np.full((1, 1, 3), 200, np.uint8)), np.full((1, 1, 3), 200)),
    "one column": (encode(PIXELS[:, :1]), PIXELS[:, :1]),
    "turned by EXIF": (encode(PIXELS, exif=TURNED), PIXELS),
}


@pytest.mark.parametrize("encoded, expected", EXACT.values(), ids=EXACT)
def test_images_of_any_kind_become_uint8_rgb(encoded, expected):
    decoded = data.decode(encoded)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_jpeg_of_each_mode_is_near_what_was_saved(mode, options):
    smooth = np.add.outer(np.arange(24), np.arange(40)).astype(np.uint8)
    image = Image.fromarray(smooth[..., None] * np.uint8([1, 2, 3])).convert(mode)
    decoded = data.decode(encode(image, "JPEG", quality=98, subsampling=0, **options))
    assert decoded.shape == (24, 40, 3)
    assert np.abs(decoded.astype(int) - np.asarray(image.convert("RGB"))).max() < 12


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids="".join)
def test_jpeg_is_decoded_as_tensorflow_does_to_the_last_bit(mode, options):
    encoded = encode(Image.fromarray(PIXELS).convert(mode), "JPEG", quality=70, **options)
    np.testing.assert_array_equal(data.decode(encoded), tf.io.decode_jpeg(encoded, channels=3))


def test_a_phones_jpeg_of_several_pictures_is_read():
    decoded = data.decode(two_frames("MPO"))
    assert np.abs(decoded.astype(int) - RED).max() < 3


# --- Damage ---------------------------------------------------------------------------------------

WHOLE = {
    "jpeg": encode(PIXELS, "JPEG"),
    "progressive jpeg": encode(PIXELS, "JPEG", progressive=True),
    "png": encode(PIXELS),
    "gif": encode(GREY, "GIF"),
    "bmp": encode(PIXELS, "BMP"),
    "webp": encode(PIXELS, "WEBP"),
}


@pytest.mark.parametrize("encoded", WHOLE.values(), ids=WHOLE)
def test_an_image_cut_anywhere_is_damaged_unless_all_its_pixels_are_there(encoded):
    pixels, end = data.decode(encoded), len(encoded)
    for length in [*range(0, end - 40, 37), *range(end - 40, end)]:
        with contextlib.suppress(data.DamagedImage):
            np.testing.assert_array_equal(data.decode(encoded[:length]), pixels)
            assert length >= end - 20, "what is missing may only be the mark of the end"


@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg", "bmp", "webp"])
def test_one_missing_byte_is_damage(kind):
    assert damage(WHOLE[kind][:-1]).startswith("damaged")


def test_a_flipped_bit_in_a_png_changes_no_pixel_unnoticed():
    pixels, noticed = data.decode(WHOLE["png"]), 0
    for place in range(len(WHOLE["png"])):
        flipped = bytearray(WHOLE["png"])
        flipped[place] ^= 4
        try:
            np.testing.assert_array_equal(data.decode(bytes(flipped)), pixels)
        except data.DamagedImage:
            noticed += 1
    # The others are checksums of data that have their own, and the end.
    assert noticed >= len(WHOLE["png"]) - 24


NOT_IMAGES = {
    "empty": (b"", "empty"),
    "text": (b"not an image, but named so", "not a JPEG, PNG, BMP, GIF, WEBP image"),
    "tiff": (encode(PIXELS, "TIFF"), "not a JPEG, PNG, BMP, GIF, WEBP image"),
    "header": (WHOLE["png"][:30], "damaged"),
    "zeros": (b"\0" * 5000, "not a JPEG"),
    "unreadable": (PermissionError(13, "Permission denied"), "cannot be read: Permission denied"),
}


@pytest.mark.parametrize("encoded, reason", NOT_IMAGES.values(), ids=NOT_IMAGES)
def test_what_is_not_an_image_is_told_apart(encoded, reason):
    assert reason in damage(encoded)


def claiming(kind, width, height):
    """Return a file whose header claims this size, with nothing behind it."""
    if kind == "PNG":
        header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
        return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT"
    if kind == "WEBP":
        encoded = bytearray(two_frames("WEBP"))
        place = encoded.index(b"VP8X") + 12
        encoded[place : place + 6] = (16_382).to_bytes(3, "little") * 2
        return bytes(encoded)
    encoded = bytearray(encode(np.zeros((16, 16), np.uint8), kind))
    frame = encoded.find(b"\xff\xc0")
    place, layout = {"JPEG": (frame + 5, ">HH"), "GIF": (6, "<HH"), "BMP": (18, "<ii")}[kind]
    struct.pack_into(layout, encoded, place, width, height)
    return bytes(encoded)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("size", [(60_000, 60_000), (10_000, 5_001)], ids=["huge", "too large"])
def test_a_decompression_bomb_is_refused_at_once(kind, size):
    bomb, began = claiming(kind, *size), time.monotonic()
    assert "more than 50,000,000 pixels" in damage(bomb)
    assert time.monotonic() - began < 1
