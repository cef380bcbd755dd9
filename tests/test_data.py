"""Data: every kind of image file, damage at every place, folders, splits, TFRecords, and a TFDS data set made here."""

import contextlib
import io
import os
import random
import resource
import shutil
import socket
import struct
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import quiet
from PIL import Image

import data

NOBODY = 65534  # the user id without any rights
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def encode(image, kind="PNG", **options):
    """The bytes of an image file; `image` is an array or a Pillow image."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def picture(number):
    """A small PNG that differs from number to number."""
    return encode(np.full((4, 4, 3), (number % 256, number // 256 % 256, 7), np.uint8))


def write(root, files):
    """Make `{path below root: bytes}`; a path that ends in / is an empty folder."""
    for path, content in files.items():
        target = Path(root, path)
        (target if path.endswith("/") else target.parent).mkdir(parents=True, exist_ok=True)
        if not path.endswith("/"):
            target.write_bytes(content)
    return str(root)


def classes(*counts, prefix="", names="abcdefgh"):
    """`{path: bytes}` of classes a, b, ... with these numbers of images, all different and different from prefix to
    prefix."""
    first = zlib.crc32(prefix.encode()) % 30_000
    return {
        f"{prefix}{name}/{i}.png": picture(first + 1000 * number + i)
        for number, (name, count) in enumerate(zip(names, counts))
        for i in range(count)
    }


def refusal(*arguments, **options):
    """The message with which data.load refuses."""
    with pytest.raises(data.DataError) as caught:
        data.load(*map(str, arguments), **options)
    message = str(caught.value)
    assert message.replace("\n", "").isprintable(), message
    return message


def damage(encoded):
    """The message with which data.decode refuses; one printable line."""
    with pytest.raises(data.DamagedImage) as caught:
        data.decode(encoded)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400
    return str(caught.value)


def sides(dataset):
    """`{file name with its class: is it for validation}`."""
    return {"/".join(Path(name).parts[-2:]): bool(side) for name, side in zip(dataset.names, dataset.validation)}


# --- Decoding --------------------------------------------------------------------------------------------------------


def palette(transparency=None):
    image = Image.fromarray(PIXELS).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    return encode(image, **({} if transparency is None else {"transparency": transparency})), expected


ALPHA = np.arange(24 * 40, dtype=np.uint8).reshape(24, 40)
GREY = PIXELS[..., 0]
THREE_GREY = np.repeat(GREY[..., None], 3, axis=-1)
DEEP = (np.arange(24 * 40, dtype=np.uint32) * 65535 // (24 * 40 - 1)).astype(np.uint16).reshape(24, 40)
EXACT = {
    "rgb": (encode(PIXELS), PIXELS),
    "grey": (encode(GREY), THREE_GREY),
    "grey with alpha": (encode(np.dstack([GREY, ALPHA])), THREE_GREY),
    "rgb with alpha": (encode(np.dstack([PIXELS, ALPHA])), PIXELS),
    "palette": palette(),
    "palette with one transparent colour": palette(3),
    "palette with a transparency for each colour": palette(bytes(range(0, 160, 10))),
    "one bit": (encode(Image.fromarray(GREY > 127)), np.repeat(np.where(GREY > 127, 255, 0)[..., None], 3, -1)),
    "16 bits of grey": (encode(DEEP), np.repeat((DEEP // 256).astype(np.uint8)[..., None], 3, -1)),
    "bmp": (encode(PIXELS, "BMP"), PIXELS),
    "grey bmp": (encode(GREY, "BMP"), THREE_GREY),
    "gif": (encode(GREY, "GIF"), THREE_GREY),
    "gif, first frame of two": (
        encode(Image.new("RGB", (5, 3), RED), "GIF", save_all=True, append_images=[Image.new("RGB", (5, 3), BLUE)]),
        np.full((3, 5, 3), RED),
    ),
    "webp": (encode(PIXELS, "WEBP", lossless=True), PIXELS),
    "webp, first frame of two": (
        encode(Image.new("RGB", (5, 3), RED), "WEBP", save_all=True, lossless=True,
               append_images=[Image.new("RGB", (5, 3), BLUE)]),
        np.full((3, 5, 3), RED),
    ),
    "one pixel": (encode(np.full((1, 1, 3), 200, np.uint8)), np.full((1, 1, 3), 200)),
    "one column": (encode(PIXELS[:, :1]), PIXELS[:, :1]),
    "turned by EXIF": (encode(PIXELS, exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"), PIXELS),
}  # fmt: skip


@pytest.mark.parametrize("encoded, expected", EXACT.values(), ids=EXACT)
def test_images_of_any_kind_become_uint8_rgb(encoded, expected):
    decoded = data.decode(encoded)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


def test_16_bits_of_grey_are_scaled_and_not_clipped():
    decoded = data.decode(encode(DEEP))
    assert decoded.min() == 0 and decoded.max() == 255 and len(np.unique(decoded)) == 256


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_jpeg_of_each_mode_is_near_what_was_saved(mode, options):
    smooth = np.add.outer(np.arange(24), np.arange(40)).astype(np.uint8)[..., None] * np.uint8([1, 2, 3])
    image = Image.fromarray(smooth).convert(mode)
    decoded = data.decode(encode(image, "JPEG", quality=98, subsampling=0, **options))
    assert decoded.shape == (24, 40, 3)
    assert np.abs(decoded.astype(int) - np.asarray(image.convert("RGB"))).max() < 12


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=lambda chosen: "".join(chosen))
def test_jpeg_is_decoded_as_tensorflow_does_to_the_last_bit(mode, options):
    tf = quiet.tensorflow()
    encoded = encode(Image.fromarray(PIXELS).convert(mode), "JPEG", quality=70, **options)
    np.testing.assert_array_equal(data.decode(encoded), tf.io.decode_jpeg(encoded, channels=3))


def test_a_phones_jpeg_of_several_pictures_is_read():
    one, two = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), BLUE)
    decoded = data.decode(encode(one, "MPO", save_all=True, append_images=[two]))
    assert np.abs(decoded.astype(int) - RED).max() < 3


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
    pixels = data.decode(encoded)
    for length in [*range(0, len(encoded) - 40, 37), *range(len(encoded) - 40, len(encoded))]:
        with contextlib.suppress(data.DamagedImage):
            np.testing.assert_array_equal(data.decode(encoded[:length]), pixels)
            assert length >= len(encoded) - 20, "what is missing may only be the mark of the end"


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
    assert noticed >= len(WHOLE["png"]) - 24  # the others are checksums of data that has its own, and the end


@pytest.mark.parametrize(
    "encoded, reason",
    [
        (b"", "empty"),
        (b"not an image, but named so", "no JPEG, PNG, BMP, GIF, WEBP image"),
        (encode(PIXELS, "TIFF"), "no JPEG, PNG, BMP, GIF, WEBP image"),
        (WHOLE["png"][:30], "damaged"),
        (b"\0" * 5000, "no JPEG"),
        (PermissionError(13, "Permission denied"), "cannot be read: Permission denied"),
    ],
    ids=["empty", "text", "tiff", "header", "zeros", "unreadable"],
)
def test_what_is_no_image_is_told_apart(encoded, reason):
    assert reason in damage(encoded)


def claiming(kind, width, height):
    """A file whose header claims this size, and nothing behind it."""
    if kind == "PNG":
        header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        begin = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
        return begin + struct.pack(">I", 9) + b"IDAT"
    encoded = bytearray(encode(np.zeros((16, 16), np.uint8), kind))
    place, layout = {"JPEG": (encoded.find(b"\xff\xc0") + 5, ">HH"), "GIF": (6, "<HH"), "BMP": (18, "<ii")}[kind]
    struct.pack_into(layout, encoded, place, width, height)
    return bytes(encoded)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
@pytest.mark.parametrize("size", [(60_000, 60_000), (10_000, 5_001)], ids=["huge", "just too large"])
def test_a_decompression_bomb_is_refused_before_it_takes_memory(kind, size):
    bomb = claiming(kind, *size)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    assert "more than 50,000,000 pixels" in damage(bomb)
    assert time.monotonic() - began < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_a_webp_bomb_is_refused():
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    bomb = bytearray(encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    place = bomb.index(b"VP8X") + 12
    bomb[place : place + 6] = (16_382).to_bytes(3, "little") * 2
    assert "more than 50,000,000 pixels" in damage(bytes(bomb))


# --- Folders ---------------------------------------------------------------------------------------------------------


def test_classes_without_a_split_are_split_and_listed(tmp_path):
    root = write(tmp_path / "pets", classes(20, 30))
    dataset = data.load(root)
    assert (dataset.name, dataset.class_names, dataset.notes) == ("pets", ["a", "b"], [])
    assert {name: sum(sizes) for name, sizes in dataset.counts().items()} == {"a": 20, "b": 30}
    assert dataset.names == [f"{root}/{path}" for path in sorted(classes(20, 30))]
    assert dataset.labels.dtype == np.int32 and list(dataset.labels) == [0] * 20 + [1] * 30
    np.testing.assert_array_equal(dataset.rows, np.arange(50))


@pytest.mark.parametrize("held_out", ["validation", "val", "test"])
def test_a_validation_folder_is_the_validation_side(tmp_path, held_out):
    root = write(tmp_path, {**classes(3, 4, prefix="train/"), **classes(2, 1, prefix=f"{held_out}/")})
    dataset = data.load(root)
    assert dataset.counts() == {"a": (3, 2), "b": (4, 1)}
    for name, side in zip(dataset.names, dataset.validation):
        assert (f"/{held_out}/" in name) == side
    assert not dataset.notes


def test_a_train_folder_alone_is_split(tmp_path):
    dataset = data.load(write(tmp_path, classes(20, 20, prefix="train/")))
    assert all(0 < held_out < 20 for _, held_out in dataset.counts().values())


def test_of_val_and_test_one_is_used_and_the_other_noted(tmp_path):
    files = {**classes(3, 3, prefix="train/"), **classes(2, 2, prefix="val/"), **classes(1, 1, prefix="test/")}
    dataset = data.load(write(tmp_path, files))
    assert dataset.counts() == {"a": (3, 2), "b": (3, 2)}
    assert dataset.notes == [f"{tmp_path}/test is not used: validation images come from val"]


def test_a_validation_folder_by_another_name_is_noted(tmp_path):
    dataset = data.load(write(tmp_path, {**classes(9, 9, prefix="train/"), **classes(2, 2, prefix="valid/")}))
    assert len(dataset.names) == 18
    assert dataset.notes == [f"{tmp_path}/valid is not used: validation images come from train"]


def test_a_class_may_be_called_train(tmp_path):
    dataset = data.load(write(tmp_path, classes(4, 4, 4, names=["plane", "train", "test"])))
    assert dataset.class_names == ["plane", "test", "train"]


def test_files_that_lie_about_are_ignored_in_silence(tmp_path):
    litter = [".DS_Store", "._0.png", ".hidden.png", "Thumbs.db", "desktop.ini", "notes.txt", "README.md", "list.csv"]
    files = {f"{where}{name}": b"x" for where in ("a/", "b/", "") for name in litter}
    files |= {".git/config": b"x", "__MACOSX/a/0.png": b"x", "a/.ipynb_checkpoints/0.png": b"x"}
    dataset = data.load(write(tmp_path, {**classes(4, 4), **files}))
    assert len(dataset.names) == 8 and dataset.notes == []


def test_other_files_and_folders_are_noted(tmp_path):
    others = ["a/x.tif", "a/y.TIF", "b/z.heic", "b/noextension", "b/deep/0.png", "b/new\nline.a\tb", "stray.png"]
    dataset = data.load(write(tmp_path, {**classes(4, 4), **dict.fromkeys(others, b"x")}))
    assert len(dataset.names) == 8
    assert dataset.notes == [
        "files that are not read, by their extension: 1 .a\\tb, 1 .heic, 2 .tif, 1 no extension",
        "folders inside class folders, which are not read: 1",
        "images outside class folders, which are not read: 1",
    ]


def test_extensions_in_capitals_count(tmp_path):
    dataset = data.load(write(tmp_path, {"a/0.PNG": b"1", "a/1.Jpg": b"2", "b/0.JPEG": b"3", "b/1.WebP": b"4"}))
    assert len(dataset.names) == 4


STRANGE = [
    "ein Käfer",
    "雪 山",
    "both \"'quotes",
    "two\nlines",
    "tab\t",
    "-dash",
    "*?[x]",
    "bell\a",
    "back\\slash",
    "%s{0}",
]


def test_strange_names_of_files_and_classes_work_and_print_on_one_line(tmp_path):
    dataset = data.load(write(tmp_path, {f"{name}/{name}.{i}.png": picture(i) for name in STRANGE for i in (1, 2)}))
    assert len(dataset.class_names) == len(set(dataset.class_names)) == len(STRANGE)
    assert all(text.isprintable() for text in [*dataset.class_names, *dataset.names])
    assert "ein Käfer" in dataset.class_names and "two\\nlines" in dataset.class_names
    assert len(list(dataset.encoded(np.ones(20, bool)))) == 20


def test_names_that_are_no_unicode_work(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    for number in range(2):
        Path(os.fsdecode(folder), f"{number}.png").write_bytes(picture(number))
    dataset = data.load(write(tmp_path, classes(2)))
    assert "caf\\udce9" in dataset.class_names
    "".join(dataset.class_names + dataset.names).encode()  # can be printed


def test_names_that_look_alike_stay_different():
    assert data.shown("a\nb") != data.shown("a\\nb")


def test_links_to_files_and_folders_are_followed(tmp_path):
    write(tmp_path / "elsewhere", classes(3))
    root = tmp_path / "root"
    write(root, classes(3, names="b"))
    (root / "a").symlink_to(tmp_path / "elsewhere" / "a")
    (root / "b" / "link.png").symlink_to(tmp_path / "elsewhere" / "a" / "0.png")
    assert {name: sum(sizes) for name, sizes in data.load(root.as_posix()).counts().items()} == {"a": 3, "b": 4}


@pytest.mark.parametrize("target", ["gone.png", "link.png"], ids=["broken", "to itself"])
def test_a_link_that_leads_nowhere_is_a_damaged_image(tmp_path, target):
    write(tmp_path, classes(3, 3))
    (tmp_path / "a" / "link.png").symlink_to(tmp_path / "a" / target)
    dataset = data.load(str(tmp_path))
    row = dataset.names.index(f"{tmp_path}/a/link.png")
    assert damage(dict(dataset.encoded(np.ones(7, bool)))[row]).startswith("cannot be read: ")


def test_a_folder_that_links_to_its_parent_ends(tmp_path):
    write(tmp_path, classes(3, 3))
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    dataset = data.load(str(tmp_path))
    assert len(dataset.names) == 6 and len(dataset.notes) == 1


def test_a_pipe_that_is_named_as_an_image_does_not_hang(tmp_path):
    write(tmp_path, classes(3, 3))
    os.mkfifo(tmp_path / "a" / "pipe.png")
    dataset = data.load(str(tmp_path))
    assert len(dataset.names) == 6 and "1 .png" in dataset.notes[0]


@contextlib.contextmanager
def ordinary_user():
    """Give up root's right to read everything, for a while."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_path():
    """A folder below which an ordinary user can read; pytest's own can only be entered by who runs it."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield Path(path)


def test_folders_that_cannot_be_read_are_all_named(open_path):
    write(open_path, classes(3, 3, 3))
    for name in "ac":
        os.chmod(open_path / name, 0)
    with ordinary_user():
        message = refusal(open_path)
    for name in "ac":
        os.chmod(open_path / name, 0o755)
    denied = "cannot be read: Permission denied"
    assert message == f"{open_path}: 2 problems\n  {open_path}/a {denied}\n  {open_path}/c {denied}"


@pytest.mark.parametrize("name", ["", "train"])
def test_an_outer_folder_that_cannot_be_read_is_named_once(open_path, name):
    write(open_path, classes(3, 3, prefix="train/"))
    os.chmod(open_path / name, 0o311)
    with ordinary_user():
        message = refusal(open_path)
    os.chmod(open_path / name, 0o755)
    assert message == f"{open_path}: {open_path / name} cannot be read: Permission denied"


def test_a_file_that_cannot_be_read_is_a_damaged_image(open_path):
    write(open_path, classes(3, 3))
    os.chmod(open_path / "a" / "1.png", 0)
    with ordinary_user():
        dataset = data.load(str(open_path))
        assert damage(dict(dataset.encoded(np.ones(6, bool)))[1]) == "cannot be read: Permission denied"


ADD = "add some or remove"


@pytest.mark.parametrize(
    "files, message",
    [
        ({**classes(3, 3), "c/": b""}, f"ROOT: class c has no images; {ADD} the class"),
        (
            {**classes(3, 3), "c/x.tif": b"x"},
            f"ROOT: 2 problems\n  class c has no images; {ADD} the class\n"
            "  files that are not read, by their extension: 1 .tif",
        ),
        (classes(9), "ROOT: only one class, a; at least two are needed"),
        (classes(3, 1, 3), f"ROOT: class b has only one image; {ADD} the class"),
        (
            {**classes(3, 3, prefix="train/"), **classes(3, prefix="val/")},
            f"ROOT: class b has no validation image; {ADD} the class",
        ),
        (
            {**classes(3, prefix="train/"), **classes(3, 3, prefix="val/")},
            f"ROOT: class b has no training image; {ADD[:8]} or remove its validation images",
        ),
        (
            {**classes(3, 3, 0, 2, 1, prefix="train/"), **classes(3, 0, 4, prefix="val/"), "train/c/": b""},
            f"ROOT: 4 problems\n  class b has no validation image; {ADD} the class\n"
            "  class c has no training image; add some or remove its validation images\n"
            f"  class d has no validation image; {ADD} the class\n  class e has only one image; {ADD} the class",
        ),
        ({"two\nlines/0.png": b"x", **classes(2)}, f"ROOT: class two\\nlines has only one image; {ADD} the class"),
    ],
    ids=["empty", "other files", "one class", "one image", "not held out", "only held out", "all at once", "newline"],
)
def test_classes_that_cannot_be_compared_are_named(tmp_path, files, message):
    assert refusal(write(tmp_path / "ROOT", files)) == message


def test_what_is_no_folder_of_images_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "loose", {f"{i}.png": picture(i) for i in range(3)})
    takes = "; --data takes digits, tfds:NAME or a folder"
    assert refusal(tmp_path / "none") == f"{tmp_path}/none: no such folder{takes}"
    assert refusal("") == f"no name: no such folder{takes}"
    assert refusal("nul\0") == f"nul\\x00: no such folder{takes}"
    assert refusal(tmp_path / "file") == f"{tmp_path}/file: no folder{takes}"
    for name in ("empty", "loose"):
        looked_for = "CLASS/* with .jpg .jpeg .png .bmp .gif .webp is looked for"
        assert refusal(tmp_path / name) == f"{tmp_path}/{name} holds no images; {looked_for}"


# --- Split and fingerprint -------------------------------------------------------------------------------------------


def test_two_loads_are_equal(tmp_path):
    root = write(tmp_path, classes(40, 40))
    one, two = data.load(root), data.load(root)
    assert one.fingerprint == two.fingerprint and sides(one) == sides(two)


def test_an_image_stays_on_its_side_when_others_come_or_go(tmp_path):
    before = sides(data.load(write(tmp_path / "all", classes(100, 100))))
    chosen = random.Random(1).sample(sorted(classes(100, 100)), 120)
    fewer = sides(data.load(write(tmp_path / "fewer", {path: classes(100, 100)[path] for path in chosen})))
    more = sides(data.load(write(tmp_path / "more", classes(150, 100, 50))))
    assert all(before[name] == side for name, side in fewer.items())
    assert all(more[name] == side for name, side in before.items())
    assert len(fewer) == 120 and len(more) == 300


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_about_the_wanted_share_is_held_out_of_each_class(tmp_path, fraction):
    dataset = data.load(write(tmp_path, dict.fromkeys(classes(1000, 1000), b"x")), validation_fraction=fraction)
    for train, held_out in dataset.counts().values():
        assert train + held_out == 1000
        assert abs(held_out - 1000 * fraction) < 4 * (1000 * fraction * (1 - fraction)) ** 0.5


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.999])
def test_every_class_is_on_both_sides_however_small(tmp_path, fraction):
    root = write(tmp_path, {f"class{n}/{i}.png": b"x" for n in range(50) for i in range(2 + n % 3)})
    for train, held_out in data.load(root, validation_fraction=fraction).counts().values():
        assert train >= 1 and held_out >= 1


def test_the_fingerprint_follows_what_matters_and_nothing_else(tmp_path):
    root = tmp_path / "one"
    dataset = data.load(write(root, classes(20, 20)))
    for number, name in enumerate(dataset.names):
        os.utime(name, (number, number))
    assert data.load(str(root)).fingerprint == dataset.fingerprint

    copied = data.load(str(shutil.copytree(root, tmp_path / "elsewhere" / "two")))
    assert copied.fingerprint == dataset.fingerprint and sides(copied) == sides(dataset)

    other_side = data.load(str(root), validation_fraction=0.5)
    assert other_side.images_fingerprint == dataset.images_fingerprint
    (root / "b").rename(root / "c")
    other_class = data.load(str(root))
    assert other_class.images_fingerprint == dataset.images_fingerprint
    (root / "c" / "0.png").write_bytes(picture(99))
    other_image = data.load(str(root))
    assert other_image.images_fingerprint != dataset.images_fingerprint
    renamed, relabelled = dataset._replace(class_names=["a", "c"]), dataset._replace(labels=1 - dataset.labels)
    every = [dataset, other_side, other_class, other_image, renamed, relabelled]
    assert len({each.fingerprint for each in every}) == len(every)


# --- What changes meanwhile ------------------------------------------------------------------------------------------


def test_wanted_rows_and_only_they_are_given(tmp_path):
    root = write(tmp_path, classes(4, 4))
    wanted = np.array([True, False] * 4)
    given = dict(data.load(root).encoded(wanted))
    assert given == {row: Path(root, "ab"[row // 4], f"{row % 4}.png").read_bytes() for row in (0, 2, 4, 6)}


def test_an_image_that_changed_or_vanished_is_named(tmp_path):
    dataset = data.load(write(tmp_path, classes(4, 4)))
    every = np.ones(8, bool)
    (tmp_path / "b" / "1.png").write_bytes(picture(77))
    with pytest.raises(data.DataError, match=f"^{tmp_path}/b/1.png changed or vanished"):
        list(dataset.encoded(every))
    (tmp_path / "a" / "2.png").unlink()
    with pytest.raises(data.DataError, match=f"^{tmp_path}/a/2.png changed or vanished"):
        list(dataset.encoded(every))
    assert len(list(dataset.encoded(np.arange(8) < 2))) == 2  # the others are not asked for


# --- Messages --------------------------------------------------------------------------------------------------------


def test_one_problem_is_one_line_and_many_are_counted_and_all_listed():
    assert data.listed("pets", ["too few"]) == "pets: too few"
    assert data.listed("pets", list("ab")) == "pets: 2 problems\n  a\n  b"
    assert len(data.listed("pets", ["x"] * 5000).splitlines()) == 5001


def test_damaged_images_are_listed_with_the_ways_on(tmp_path):
    dataset = data.load(write(tmp_path / "pets", classes(30, 30)))
    ways = "mend or remove them, or leave them out with --skip-damaged"
    assert str(data.damaged_images(dataset, {3: "empty"})) == f"{dataset.names[3]}: empty; {ways}"
    lines = str(data.damaged_images(dataset, dict.fromkeys(range(40, 0, -1), "empty"))).splitlines()
    assert lines == [f"pets: 40 damaged images; {ways}"] + [f"  {dataset.names[row]}: empty" for row in range(1, 41)]


def test_leaving_images_out_keeps_the_rest_and_refuses_what_does_not_survive(tmp_path):
    dataset = data.load(write(tmp_path / "pets", classes(5, 3)), validation_fraction=0.4)
    smaller = dataset.without({0, 6})
    assert list(smaller.rows) == [1, 2, 3, 4, 5, 7]
    assert smaller.names == [dataset.names[row] for row in smaller.rows]
    assert smaller.digests == [dataset.digests[row] for row in smaller.rows]
    np.testing.assert_array_equal(smaller.validation, dataset.validation[smaller.rows])
    with pytest.raises(data.DataError, match="pets: class b has no images"):
        dataset.without({5, 6, 7})


def test_a_class_stays_on_both_sides_when_its_only_validation_image_is_left_out(tmp_path):
    dataset = data.load(write(tmp_path, classes(40, 3)))
    small = np.flatnonzero(dataset.labels == 1)
    smaller = dataset.without(small[dataset.validation[small]])
    assert min(smaller.counts()["b"]) >= 1
    large = smaller.labels == 0
    np.testing.assert_array_equal(smaller.validation[large], dataset.validation[dataset.labels == 0])


def test_a_split_of_the_users_own_is_never_changed(tmp_path):
    root = write(tmp_path, {**classes(2, 2, prefix="train/"), **classes(2, 1, prefix="val/")})
    dataset = data.load(root)
    np.testing.assert_array_equal(dataset.without({0}).validation, dataset.validation[1:])
    with pytest.raises(data.DataError, match="class b has no validation image"):
        dataset.without(dataset.rows[-1:])


def test_imbalance_is_noted(tmp_path):
    both = classes(2, 2, prefix="val/")
    strong = data.load(write(tmp_path / "strong", {**classes(21, 2, prefix="train/"), **both}))
    assert strong.notes == ["unbalanced: 21 training images of a, 2 of b"]
    assert data.load(write(tmp_path / "mild", {**classes(20, 2, prefix="train/"), **both})).notes == []


def test_images_on_both_sides_are_found_and_damaged_ones_are_not_alike(tmp_path):
    files = {**classes(2, 2, prefix="train/"), **classes(2, 2, prefix="val/")}
    dataset = data.load(write(tmp_path, files))  # rows: train a a b b, val a a b b
    pixels = ["p", "q", None, "r", "r", "s", "p", None]
    pairs = data.on_both_sides(dataset, pixels)
    assert pairs == [(dataset.names[3], dataset.names[4]), (dataset.names[0], dataset.names[6])]
    assert data.on_both_sides(dataset.without({0, 2, 7}), pixels) == pairs[:1]


# --- TFRecords -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tf():
    return quiet.tensorflow()


def feature(tf, value):
    """A tf.train.Feature of a bytes, integer or float value, or of a list of them."""
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def example(tf, image, label, **others):
    """A serialized tf.train.Example; None leaves a key out."""
    features = {data.IMAGE_KEY: image, data.LABEL_KEY: label, **others}
    filled = {key: feature(tf, value) for key, value in features.items() if value is not None}
    return tf.train.Example(features=tf.train.Features(feature=filled)).SerializeToString()


@pytest.fixture
def records(tf, tmp_path, monkeypatch):
    """Writes a TFRecord file of `(image, label)` or bytes, in the working directory, and returns its path."""
    monkeypatch.chdir(tmp_path)

    def write_records(name, content, compression=None):
        with tf.io.TFRecordWriter(name, compression) as file:
            for record in content:
                file.write(record if isinstance(record, bytes) else example(tf, *record))
        return Path(name)

    return write_records


def pairs(*labels, first=0):
    return [(picture(first + number), label) for number, label in enumerate(labels)]


@pytest.mark.parametrize(
    "labels, names",
    [([1, 2, 3, 4, 5, 6], "1 2 3 4 5 6"), ([7, 3], "3 7"), ([10, 9, 0], "0 9 10"), ([2**60, 1], f"1 {2**60}")],
    ids=["1..6", "3 and 7", "10 after 9", "large"],
)
def test_labels_are_categories_whatever_their_numbers(records, labels, names):
    records("train", pairs(*labels, *labels))
    records("test", pairs(*labels, first=50))
    dataset = data.load(train="train", test="test")
    names = names.split()
    assert dataset.class_names == names
    found = [int(names[index]) for index in dataset.labels]
    assert found == labels * 3
    assert list(dataset.validation) == [False] * 2 * len(labels) + [True] * len(labels)
    assert dataset.names[0] == "train record 0" and dataset.names[-1] == f"test record {len(labels) - 1}"


def test_several_files_plain_and_gzip_are_read_in_order(records):
    records("train-1", pairs(0, 1, 0), "GZIP")
    records("train-0", pairs(1, 1, first=10))
    records("test", pairs(0, 1, first=20))
    dataset = data.load(train="train-?", test="test")
    assert [name for name in dataset.names if "train" in name] == [
        *[f"train-0 record {number}" for number in range(2)],
        *[f"train-1 record {number}" for number in range(3)],
    ]
    given = [blob for _, blob in dataset.encoded(np.ones(7, bool))]
    assert given == [picture(number) for number in (10, 11, 0, 1, 2, 20, 21)]


@pytest.mark.parametrize("count", [3, 100])  # of one batch and of several
def test_a_subset_of_records_gives_exactly_its_rows(records, count):
    records("train", pairs(*[number % 2 for number in range(count)]))
    records("test", pairs(0, 1, first=count))
    wanted = np.arange(count + 2) % 3 == 1
    given = dict(data.load(train="train", test="test").encoded(wanted))
    assert given == {row: picture(row) for row in np.flatnonzero(wanted)}


def test_a_plain_file_that_begins_like_gzip_is_read(records, tf):
    image = picture(0)
    missing = 0x8B1F - len(example(tf, image, 0, padding=b""))
    lengths = range(missing - 20, missing + 1)
    record = next(r for r in (example(tf, image, 0, padding=b"x" * n) for n in lengths) if len(r) == 0x8B1F)
    assert records("train", [record, *pairs(1, first=1)]).read_bytes()[:2] == b"\x1f\x8b"
    records("test", pairs(0, 1, first=5))
    assert len(data.load(train="train", test="test").names) == 4


def test_a_file_with_glob_characters_in_its_name_can_be_named(records):
    records("train[1]*", pairs(0, 1))
    records("test", pairs(0, 1, first=5))
    assert len(data.load(train="train[1]*", test="test").names) == 4


def test_records_and_folder_of_the_same_images_are_the_same(records, tmp_path):
    folder = data.load(write(tmp_path / "pets", {**classes(5, 5, prefix="train/"), **classes(2, 2, prefix="val/")}))
    for side, rows in (("train", folder.rows[~folder.validation]), ("test", folder.rows[folder.validation])):
        blobs = dict(folder.encoded(np.isin(folder.rows, rows)))
        records(side, [(blobs[row], int(folder.labels[row])) for row in rows])
    both = data.load(train="train", test="test")
    assert both.images_fingerprint == folder.images_fingerprint
    np.testing.assert_array_equal(both.labels, folder.labels)
    np.testing.assert_array_equal(both.validation, folder.validation)


RECORDS = 40


def broken(records, change, compression=None):
    """The refusal of a file of RECORDS records of one length after `change(its bytes, length of one)`."""
    path = records("train", [(picture(number), number % 2) for number in range(RECORDS)], compression)
    content = bytearray(path.read_bytes())
    path.write_bytes(change(content, len(content) // RECORDS))
    records("test", pairs(0, 1, first=300))
    return refusal(train="train", test="test")


def flip(content, place):
    content[place] ^= 1
    return content


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda content, length: content[:5], "truncated from record 0"),
        (lambda content, length: content[: length // 2], "truncated from record 0"),
        (lambda content, length: content[: 35 * length + 7], "truncated from record 35"),
        (lambda content, length: content[: 35 * length + 13], "truncated from record 35"),
        (lambda content, length: content[:-1], "truncated from record 39"),
        (lambda content, length: flip(content, 3 * length), "corrupt from record 3"),
        (lambda content, length: flip(content, 33 * length + 9), "corrupt from record 33"),
        (lambda content, length: flip(content, 33 * length + 40), "corrupt from record 33"),
        (lambda content, length: flip(content, len(content) - 1), "corrupt from record 39"),
        (lambda content, length: picture(0), "corrupt from record 0"),
    ],
    ids=["in the first length", "in the first record", "in a length", "in a record", "last byte", "flipped length",
         "flipped checksum of a length", "flipped data", "flipped last checksum", "an image"],
)  # fmt: skip
def test_a_damaged_file_is_named_with_its_first_damaged_record(records, change, reason):
    assert broken(records, change) == f"TFRecords: train is {reason} on, or no TFRecord file; restore it"


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda content, _: content[:2], "truncated"),
        (lambda content, _: content[:10], "truncated"),
        (lambda content, _: content[: len(content) // 2], "truncated"),
        (lambda content, _: content[:-9], "truncated"),
        (lambda content, _: content[:-1], "truncated"),
        (lambda content, _: flip(content, len(content) // 2), "corrupt"),
        (lambda content, _: flip(content, len(content) - 6), "corrupt"),
    ],
    ids=["magic", "header", "half", "before the checksum", "last byte", "flipped data", "flipped checksum"],
)
def test_a_damaged_gzip_file_is_noticed_wherever_it_is(records, change, reason):
    assert f"TFRecords: train is {reason} from record " in broken(records, change, "GZIP")


def test_all_that_is_wrong_with_records_is_told_at_once(records, tf):
    image = picture(0)
    records("train-0", [*pairs(0, 1), example(tf, None, 1), example(tf, image, None, width=3), b"\xff" * 20])
    records("train-1", [
        *pairs(0, 1, first=5), example(tf, image, 1.0), example(tf, image, [1, 2]), example(tf, image, b"cat"),
        example(tf, image, -3), example(tf, [image, image], 1), example(tf, 5, 1), example(tf, None, None), b"",
        example(tf, image, None, **{"odd\nkey": 1}),
    ])  # fmt: skip
    records("test", [*pairs(0, 1, first=9), example(tf, image, -1)])
    records("train-2", pairs(0, 1)).write_bytes(b"nonsense, longer than a header")
    one_integer, one_image = f"{data.LABEL_KEY} must be one integer", f"{data.IMAGE_KEY} must be one encoded image"
    assert refusal(train="train-*", test="test").split("\n  ") == [
        "TFRecords: 14 problems",
        f"train-0 record 2 lacks the key {data.IMAGE_KEY}; it has {data.LABEL_KEY}",
        f"train-0 record 3 lacks the key {data.LABEL_KEY}; it has {data.IMAGE_KEY}, width",
        "train-0 record 4 is no tf.train.Example",
        f"train-1 record 2: {one_integer}",
        f"train-1 record 3: {one_integer}",
        f"train-1 record 4: {one_integer}",
        f"train-1 record 5: {data.LABEL_KEY} must not be negative, got -3",
        f"train-1 record 6: {one_image}",
        f"train-1 record 7: {one_image}",
        f"train-1 record 8 lacks the key {data.IMAGE_KEY}; it has none",
        f"train-1 record 9 lacks the key {data.IMAGE_KEY}; it has none",
        f"train-1 record 10 lacks the key {data.LABEL_KEY}; it has {data.IMAGE_KEY}, odd\\nkey",
        "train-2 is corrupt from record 0 on, or no TFRecord file; restore it",
        f"test record 2: {data.LABEL_KEY} must not be negative, got -1",
    ]


def test_an_empty_file_is_noted_and_only_empty_ones_are_refused(records, tmp_path):
    records("train", pairs(0, 1))
    records("test", pairs(0, 1, first=5))
    records("nothing-0", [])
    assert data.load(train="[tn]*", test="test").notes == ["nothing-0 is empty"]
    assert refusal(train="nothing-?", test="nothing-?") == f"{tmp_path.name} holds no images"


def test_globs_that_give_nothing_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    assert refusal(train="x*", test="file") == "--train 'x*' matches no file"
    assert refusal(train="file", test="fold*") == "--test 'fold*' matches no file"
    assert refusal(train="file", test="") == "--test '' matches no file"
    assert refusal(train="", test="") == "--train '' matches no file"  # as of an unset variable: never the digits
    assert refusal(train="nul\0*", test="file") == "--train 'nul\\x00*' matches no file"
    assert refusal(train="file") == "--test GLOB is missing; TFRecords need --train and --test"
    assert refusal(test="file") == "--train GLOB is missing; TFRecords need --train and --test"


def test_a_record_file_that_cannot_be_read_is_named(records, open_path, monkeypatch):
    records("train", pairs(0, 1))
    records("test", pairs(0, 1, first=5))
    for name in ("train", "test"):
        shutil.copy(name, open_path)
    monkeypatch.chdir(open_path)
    os.chmod("train", 0)
    with ordinary_user():
        assert refusal(train="train", test="test") == "TFRecords: train cannot be read: Permission denied"


def test_record_files_that_change_meanwhile_are_noticed(records):
    content = pairs(0, 1, 0, 1)
    records("train", content)
    test = records("test", pairs(0, 1, 0, first=20))
    dataset = data.load(train="train", test="test")
    nothing, everything = np.zeros(7, bool), np.ones(7, bool)
    changes = "images came or vanished"
    records("test", pairs(0, 1, 0, 1, 1, first=20))
    for wanted in (nothing, everything):
        with pytest.raises(data.DataError, match=changes):
            list(dataset.encoded(wanted))
    records("test", pairs(0, 1, first=20))
    for wanted in (nothing, everything):
        with pytest.raises(data.DataError, match=changes):
            list(dataset.encoded(wanted))
    records("test", pairs(0, 1, 0, first=21))
    with pytest.raises(data.DataError, match="test record 0 changed or vanished"):
        list(dataset.encoded(everything))
    test.unlink()
    with pytest.raises(data.DataError, match="test cannot be read: No such file"):
        list(dataset.encoded(everything))


# --- TFDS and digits -------------------------------------------------------------------------------------------------


def prepare(name, data_dir, features, splits, supervised_keys=None):
    """Make a real TFDS data set of `{split: [example]}` on disk and return its builder."""
    quiet.tensorflow()
    import tensorflow_datasets as tfds

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # so it is read as files alone
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            wanted = tfds.features.FeaturesDict(features(tfds))
            return tfds.core.DatasetInfo(builder=self, features=wanted, supervised_keys=supervised_keys)

        def _split_generators(self, download_manager):
            return {split: enumerate(examples) for split, examples in splits.items()}

        def _generate_examples(self):
            raise AssertionError  # the splits are given

    Tiny.name = name
    builder = Tiny(data_dir=data_dir)
    builder.download_and_prepare()
    return builder


def image_and_label(tfds):
    return {
        "image": tfds.features.Image(encoding_format="png"),
        "label": tfds.features.ClassLabel(names=["wolf", "ant"]),
    }


def tfds_examples(*labels, first=0):
    return [{"image": np.full((4, 5, 3), first + i, np.uint8), "label": label} for i, label in enumerate(labels)]


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """A TFDS data folder with data sets of several kinds."""
    folder = tmp_path_factory.mktemp("tfds")
    train, held_out = tfds_examples("ant", "wolf", "ant", "wolf", "ant"), tfds_examples("wolf", "ant", first=90)
    prepare("tiny_split", folder, image_and_label, {"train": train, "test": held_out})
    prepare("tiny_whole", folder, image_and_label, {"train": tfds_examples(*["ant", "wolf"] * 20)})
    prepare("tiny_unlabelled", folder, image_and_label, {"train": train, "test": tfds_examples(-1, first=9)})
    prepare("tiny_odd", folder, image_and_label, {"other": train})
    prepare("tiny_plain", folder, lambda tfds: {"x": tfds.features.Scalar(np.int64)}, {"train": [{"x": 1}]})
    prepare(
        "tiny_pets",
        folder,
        lambda tfds: {
            **image_and_label(tfds),
            "mask": tfds.features.Image(),
            "kind": tfds.features.ClassLabel(num_classes=9),
        },
        {"train": [{**each, "mask": np.zeros((4, 5, 3), np.uint8), "kind": 8} for each in train]},
        supervised_keys=("image", "label"),
    )
    return folder


@pytest.fixture
def tfds_name(tfds_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_dir))
    return lambda name: f"tfds:{name}"


def test_a_tfds_data_set_gives_its_images_labels_and_splits(tfds_name):
    dataset = data.load(tfds_name("tiny_split"))
    assert dataset.name == "tiny_split" and dataset.class_names == ["ant", "wolf"]
    assert dataset.counts() == {"ant": (3, 1), "wolf": (2, 1)}
    expected = {  # value of the pixels: class, validation
        **{value: ("ant" if value % 2 == 0 else "wolf", False) for value in range(5)},
        90: ("wolf", True),
        91: ("ant", True),
    }
    found = {}
    for row, blob in dataset.encoded(np.ones(7, bool)):
        image = data.decode(blob)
        assert image.shape == (4, 5, 3)
        found[int(image[0, 0, 0])] = dataset.class_names[dataset.labels[row]], bool(dataset.validation[row])
    assert found == expected
    assert {"tfds:tiny_split train example 0", "tfds:tiny_split test example 1"} < set(dataset.names)
    assert data.load(tfds_name("tiny_split")).fingerprint == dataset.fingerprint


def test_a_tfds_data_set_without_a_validation_split_is_split(tfds_name):
    dataset = data.load(tfds_name("tiny_whole"))
    assert {name: sum(sizes) for name, sizes in dataset.counts().items()} == {"ant": 20, "wolf": 20}
    assert all(min(sizes) > 0 for sizes in dataset.counts().values())


def test_of_several_images_and_labels_those_are_taken_that_tfds_calls_supervised(tfds_name):
    dataset = data.load(tfds_name("tiny_pets"))
    assert dataset.class_names == ["ant", "wolf"]
    assert sorted(data.decode(blob)[0, 0, 0] for _, blob in dataset.encoded(np.ones(5, bool))) == [0, 1, 2, 3, 4]


def test_tfds_data_sets_of_another_kind_are_refused(tfds_name):
    assert refusal(tfds_name("tiny_plain")) == (
        "tfds:tiny_plain is no image classification data set: its features are x"
    )
    assert refusal(tfds_name("tiny_odd")) == "tfds:tiny_odd has no train split, only other"
    assert refusal(tfds_name("tiny_unlabelled")) == (
        "tfds:tiny_unlabelled has no labels in its test split; use other data"
    )


@pytest.mark.parametrize("change", ["flipped", "missing"])
def test_a_damaged_tfds_data_set_is_named_with_its_folder(tfds_dir, tmp_path, monkeypatch, change):
    shutil.copytree(tfds_dir / "tiny_split", tmp_path / "tiny_split")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    file = next(tmp_path.glob("tiny_split/1.0.0/*test.*"))
    if change == "missing":
        file.unlink()
    else:
        file.write_bytes(flip(bytearray(file.read_bytes()), 50))
    message = refusal("tfds:tiny_split")
    assert message.startswith(f"tfds:tiny_split: its test split in {tmp_path}/tiny_split/1.0.0 cannot be read: ")
    assert message.endswith("; remove that folder to prepare it anew") and "\n" not in message


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No data set on disk, and every connection goes to a local address where nobody listens."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    return tmp_path


def test_without_a_network_the_way_to_a_tfds_data_set_is_told_soon(offline):
    began = time.monotonic()
    message = refusal("tfds:tf_flowers")
    assert time.monotonic() - began < 30
    assert message.startswith(f"tfds:tf_flowers is not in {offline}/tf_flowers/3.0.1 and cannot be downloaded: ")
    assert "Connection refused" in message
    assert message.endswith("; go online, or set TFDS_DATA_DIR to the folder that holds it")
    assert not list(offline.iterdir())


def test_a_network_that_never_answers_is_given_up_soon(offline, monkeypatch):
    monkeypatch.setattr(data, "ANSWER_WITHIN", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        assert "does not answer" in refusal("tfds:tf_flowers")
        assert time.monotonic() - began < 10


def test_a_tfds_data_set_that_nobody_knows_is_told_apart_from_one_not_downloaded(offline):
    began = time.monotonic()
    assert refusal("tfds:tf_flower") == (
        f"tfds:tf_flower: neither TFDS nor {offline} has it; did you mean tf_flowers or oxford_flowers102?"
    )
    assert "lists what there is" in refusal("tfds:qqqqqqqq")
    for name in ("", "two words/x", "mnist/no_such_config", "tf_flowers:9.9.9", "a\nb"):
        message = refusal(f"tfds:{name}")
        assert message.startswith(f"tfds:{data.shown(name)} is no data set that TFDS can give: ")
        assert "\n" not in message
    assert time.monotonic() - began < 30


def test_digits_are_embedded():
    dataset = data.load()
    assert (dataset.name, len(dataset.names)) == ("digits", 1797)
    assert dataset.class_names == [str(digit) for digit in range(10)]
    assert all(0.1 < held_out / (train + held_out) < 0.3 for train, held_out in dataset.counts().values())
    image = data.decode(next(dataset.encoded(dataset.rows == 0))[1])
    assert image.shape == (8, 8, 3) and image.max() == 239  # 15 of 16
