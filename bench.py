"""Measure every speed and memory figure of this project, side by side in one run on the same images.

python bench.py                                            # generated JPEGs, reduced, a few minutes
python bench.py --data flowers/                            # images of your own
python bench.py --train 'rec/train*' --test 'rec/test*'    # TFRecords
python bench.py --full --train ... --test ...              # all images, as in the report; half an hour
python bench.py --output README.md                         # put the table between the README's two markers

What is compared takes turns, so that noise of the machine hits all alike, and each turn is a process of its own, which
nothing has warmed. All of them read the same TFRecords, to which the images are copied first. Needs Linux, whose /proc
tells how much memory a process took.
"""

import argparse
import concurrent.futures
import importlib.metadata
import io
import itertools
import math
import multiprocessing
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import commands
import logs
import numpy as np
import quiet
import run
from PIL import Image

import data
import features
import model
import schedulers
import train

DEFAULTS = train.options_from(["--schedule", "all"])
PREPROCESSING, WEIGHTS, BATCH, DROPOUT = (
    DEFAULTS.preprocessing,
    DEFAULTS.weights,
    DEFAULTS.batch_size,
    DEFAULTS.dropout,
)
TRAIN = str(Path(train.__file__))  # the command
MARKERS = "<!-- bench -->", "<!-- /bench -->"  # what is between them in a Markdown file is replaced
PARTS = 4  # files on each side, so that a quarter, a half and the whole of the images can be used
CLASSES, SIDE, HELD_OUT = 6, 150, 3000 / 17039  # of generated images: as in the report
POLL = 0.2  # seconds between two looks at the memory of processes
STARTS = 5  # of a command that takes less than a second; the median counts


class Sizes(NamedTuple):
    """How much is measured in one repeat."""

    images: int | None = 1024  # None: all there are
    keras: int = (
        256  # training images that pass the backbone in Keras; and a fifth as many for validation
    )
    rows: int = 17039  # of features in an epoch: as many as the report has images
    rounds: int = 6  # epochs on features
    epochs: int | None = None  # of the four runs; None: the report's
    image_size: int = 224


FULL = Sizes(images=None, keras=2048)


class Images(NamedTuple):
    """TFRecords and the LiteRT graph for them, in a temporary folder."""

    name: str  # "generated" or "given"
    folder: Path
    count: int
    classes: int
    image_size: int

    def globs(self, parts=PARTS):
        """The --train and --test globs of the first `parts` quarters of the images."""
        files = f"[{''.join(map(str, range(parts)))}]"
        return f"{self.folder}/train-{files}", f"{self.folder}/test-{files}"

    def dataset(self):
        """Return the images as a data.Dataset."""
        return data.load(None, *self.globs())


class Usage(NamedTuple):
    """What a command took."""

    seconds: float
    peak: float  # MiB, of its largest process
    anonymous: float  # MiB, likewise, without what is mapped from files


class Row(NamedTuple):
    """A line of the table; values repeat by repeat."""

    what: str
    ours: list
    compared: str
    theirs: list
    unit: str


# --- Images ----------------------------------------------------------------------------------------------------------


def jpeg(random, label):
    """Return a JPEG of the size of the report's images, in pixels and in bytes (13 KB): noise on every scale."""
    pixels = np.full((SIDE, SIDE, 3), 100.0 + 10 * label)
    for size in (2, 4, 8, 16, 32, 64, SIDE):
        noise = Image.fromarray(random.integers(0, 256, (size, size, 3), np.uint8)).resize(
            (SIDE, SIDE)
        )
        pixels += (np.asarray(noise, np.float32) - 128) * (0.08 if size == SIDE else size**-0.5)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


def generated(count):
    """Yield `(JPEG, label, whether for validation)`, all classes on both sides."""
    random = np.random.default_rng(0)
    held_out = max(PARTS * CLASSES, round(count * HELD_OUT))
    for number in range(count):
        yield jpeg(random, number % CLASSES), number % CLASSES, number < held_out


def spread(dataset, count):
    """Return the rows of `count` images, evenly spread over classes and sides, but at least PARTS of each."""
    chosen = []
    for side, label in itertools.product((False, True), range(len(dataset.class_names))):
        rows = np.flatnonzero((dataset.validation == side) & (dataset.labels == label))
        share = max(PARTS, round(count * len(rows) / len(dataset.rows)))
        chosen.append(rows[np.linspace(0, len(rows) - 1, min(share, len(rows))).astype(int)])
    return np.unique(np.concatenate(chosen))


def taken(source, count):
    """Iterate over `(encoded, label, whether for validation)` of a data set's images; `count` None: all."""
    dataset = data.load(*source)
    wanted = np.ones(len(dataset.rows), bool)
    if count is not None:
        wanted[:] = False
        wanted[spread(dataset, count)] = True
    pairs = dataset.encoded(wanted)
    return (
        (encoded, int(dataset.labels[row]), bool(dataset.validation[row])) for row, encoded in pairs
    )


def written_records(images, folder):
    """Write images to TFRecords, classes evenly over PARTS files on each side; returns the number of both."""
    tf = quiet.tensorflow()
    files = {(side, part): tf.io.TFRecordWriter(f"{folder}/{side}-{part}") for side in ("train", "test")
             for part in range(PARTS)}  # fmt: skip
    seen = {}
    for encoded, label, validation in images:
        number = seen[validation, label] = seen.get((validation, label), -1) + 1
        example = tf.train.Example()
        example.features.feature[data.IMAGE_KEY].bytes_list.value.append(encoded)
        example.features.feature[data.LABEL_KEY].int64_list.value.append(label)
        files["test" if validation else "train", number % PARTS].write(example.SerializeToString())
    for file in files.values():
        file.close()
    return sum(seen.values()) + len(seen), len({label for _, label in seen})


def prepared(source, folder, sizes):
    """Write TFRecords, the backbone's graph, and preprocessed images for its bare pass to a folder; returns Images.

    `source`: the arguments of data.load, or None for generated images.
    """
    if source is None:
        name, images = "generated", generated(sizes.images or FULL.rows)
    else:
        name, images = "given", taken(source, sizes.images)
    written = Images(name, Path(folder), *written_records(images, folder), sizes.image_size)
    _, backbone = model.litert_graphs(sizes.image_size, PREPROCESSING, WEIGHTS)
    (written.folder / "backbone.tflite").write_bytes(backbone)
    dataset, prepare = written.dataset(), model.preprocessing(sizes.image_size, PREPROCESSING)
    some = np.arange(len(dataset.rows)) < 2 * BATCH
    pixels = [prepare(data.decode(encoded)[None]).numpy() for _, encoded in dataset.encoded(some)]
    np.save(written.folder / "pixels.npy", np.stack(pixels))
    return written


# --- What is compared: each of these runs in a process of its own ---------------------------------------------------


def fresh(function, *arguments):
    """Return what a function returns in a new process."""
    with concurrent.futures.ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn")
    ) as executor:
        return executor.submit(function, *arguments).result()


def keras_rate(images, limit):
    """Return images/s of the original way: Keras passes every image through the frozen backbone, in every epoch."""
    tf = quiet.tensorflow()
    import keras

    warnings.simplefilter(
        "ignore"
    )  # Keras' about the end of a data set whose length it does not know
    size = images.image_size
    keys = {
        data.IMAGE_KEY: tf.io.FixedLenFeature([], tf.string),
        data.LABEL_KEY: tf.io.FixedLenFeature([], tf.int64),
    }

    def example(record):
        parsed = tf.io.parse_single_example(record, keys)
        image = tf.io.decode_image(parsed[data.IMAGE_KEY], channels=3, expand_animations=False)
        return tf.image.resize(image, (size, size)) / 127.5 - 1, parsed[data.LABEL_KEY]

    # Autotuning could make it wait for minutes in the end, which has nothing to do with what is compared.
    records = [
        data.untuned(tf.data.TFRecordDataset(tf.io.gfile.glob(pattern)))
        for pattern in images.globs()
    ]
    records = records[0].take(limit), records[1].take(limit // 5)
    count = sum(1 for side in records for _ in side)
    training, validation = (
        side.shuffle(1000).map(example, tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)
        for side in records
    )
    base = model.backbone(size, WEIGHTS)
    classifier = keras.Sequential([base, *model.head_layers(images.classes, DROPOUT, seed=0)])
    classifier.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    classifier.fit(
        training.take(1), validation_data=validation.take(1), verbose=0
    )  # traces both steps
    begun = time.perf_counter()
    classifier.fit(training, validation_data=validation, verbose=0)
    return count / (time.perf_counter() - begun)


def bare_rate(images):
    """Return images/s of LiteRT alone: preprocessed images, one thread with an interpreter on every core."""
    from ai_edge_litert.interpreter import Interpreter

    pixels = np.load(images.folder / "pixels.npy")
    with quiet.stderr():
        graph = str(images.folder / "backbone.tflite")
        interpreters = [Interpreter(graph, num_threads=1) for _ in range(features.cores())]
        for interpreter in interpreters:
            interpreter.allocate_tensors()
    passes = itertools.count()  # shared: its `next` is atomic

    def work(interpreter):
        into, out = (
            interpreter.get_input_details()[0]["index"],
            interpreter.get_output_details()[0]["index"],
        )
        while (number := next(passes)) < images.count:
            interpreter.set_tensor(into, pixels[number % len(pixels)])
            interpreter.invoke()
            interpreter.get_tensor(out)

    threads = [threading.Thread(target=work, args=(interpreter,)) for interpreter in interpreters]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return images.count / (time.perf_counter() - begun)


class Extraction(NamedTuple):
    """Our way from files to features on disk, in its steps."""

    imports: float  # seconds to import TensorFlow
    first_look: float  # seconds in which every record is read, checked and hashed
    conversion: float  # seconds in which Keras' backbone becomes LiteRT's
    rate: float  # images/s of the rest


def extraction(images):
    """Return the Extraction of images into an empty cache."""
    begun = time.perf_counter()
    quiet.tensorflow()
    imported = time.perf_counter()
    dataset = images.dataset()
    looked = time.perf_counter()
    conversion = 0

    def graphs(*arguments):
        nonlocal conversion
        started = time.perf_counter()
        converted = model.litert_graphs(*arguments)
        conversion = time.perf_counter() - started
        return converted

    with tempfile.TemporaryDirectory(dir=images.folder) as cache:
        computed = features.extract(
            dataset, images.image_size, PREPROCESSING, WEIGHTS, cache, graphs=graphs
        )
    seconds = time.perf_counter() - looked
    assert computed.computed == images.count
    return Extraction(
        imported - begun, looked - imported, conversion, images.count / (seconds - conversion)
    )


def random_features(rows):
    """Return features (N, 1280), labels (N,), and the rows of both sides: the cost of an epoch depends on N alone."""
    random = np.random.default_rng(0)
    values = np.maximum(random.standard_normal((rows, model.FEATURES), np.float32), 0)
    held_out = round(rows * HELD_OUT)
    return (
        values,
        random.integers(0, CLASSES, rows, np.int32),
        np.arange(held_out, rows),
        np.arange(held_out),
    )


def plain_epoch(sizes):
    """Return seconds of an epoch of Keras' `fit` on arrays in memory, the median without the first."""
    quiet.tensorflow()
    import keras

    values, labels, training, held_out = random_features(sizes.rows)
    head = keras.Sequential(
        [keras.Input((model.FEATURES,)), *model.head_layers(CLASSES, DROPOUT, seed=0)]
    )
    head.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    ends = []
    head.fit(
        values[training],
        labels[training],
        batch_size=BATCH,
        epochs=sizes.rounds,
        validation_data=(values[held_out], labels[held_out]),
        verbose=0,
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
        ],
    )
    return statistics.median(np.diff(ends))


def _our_epoch(one):
    """What `our_epoch` does in the worker."""
    ends = []
    run.train(one, lambda *_: ends.append(time.perf_counter()))
    return statistics.median(np.diff(ends))


def our_epoch(sizes):
    """Return seconds of an epoch of a run as train.py does it, in a worker and with its logs: likewise."""
    values, labels, training, held_out = random_features(sizes.rows)
    with tempfile.TemporaryDirectory() as folder:
        values.tofile(Path(folder) / "features.f32")
        rates = [schedulers.LR] * sizes.rounds
        sides = {"train": training, "validation": held_out}
        one = run.Run(f"{folder}/run", "exp", 0, rates, folder, values.shape, labels, **sides, classes=CLASSES,
                      batch_size=BATCH, dropout=DROPOUT, conditions={})  # fmt: skip
        with run.workers(1) as (executor, _):
            return executor.submit(_our_epoch, one).result()


# --- Commands --------------------------------------------------------------------------------------------------------


def memory():
    """Return `{process: (parent, peak, anonymous)}` of all processes, memory in MiB; without those that just ended."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(
                re.findall(r"^(PPid|VmHWM|RssAnon):\s*(\d+)", path.read_text(), re.MULTILINE)
            )
        except OSError:
            continue
        if len(lines) == 3:
            found[int(path.parent.name)] = (
                int(lines["PPid"]),
                *(int(lines[key]) / 1024 for key in ("VmHWM", "RssAnon")),
            )
    return found


def descends(process, ancestor, parents):
    """Whether a process is `ancestor`, its child, its child's child, and so on."""
    while process in parents and process != ancestor:
        process = parents[process][0]
    return process == ancestor


def used(command):
    """Run a command of this project and return its Usage; raises RuntimeError where it fails."""
    peak = anonymous = 0
    with tempfile.TemporaryFile() as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=errors
        )
        while True:
            try:
                process.wait(POLL)
                break
            except subprocess.TimeoutExpired:
                now = memory()
                for one, (_, its_peak, its_anonymous) in now.items():
                    if descends(one, process.pid, now):
                        peak, anonymous = max(peak, its_peak), max(anonymous, its_anonymous)
        seconds = time.perf_counter() - begun
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{Path(command[0]).name} failed: {errors.read().decode().strip()}")
    return Usage(seconds, peak, anonymous)


def four_runs(images, parts, sizes, cold=True):
    """Return the Usage of `train.py --schedule all` on some quarters of the images; `cold`: with an empty cache."""
    training, test = images.globs(parts)
    cache = images.folder / f"cache-{parts}"
    if cold:
        shutil.rmtree(cache, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=images.folder) as logdir:
        command = [
            TRAIN,
            "--schedule",
            "all",
            "--train",
            training,
            "--test",
            test,
            "--cache-dir",
            str(cache),
        ]
        command += [
            "--logdir",
            logdir,
            "--image-size",
            str(images.image_size),
            "--preprocessing",
            PREPROCESSING,
        ]
        return used(command + (["--epochs", str(sizes.epochs)] if sizes.epochs else []))


def start_seconds(*command):
    """Return the seconds, median of STARTS, that Python takes for a command, however it ends."""
    seconds = []
    for _ in range(STARTS):
        begun = time.perf_counter()
        subprocess.run([sys.executable, *command], capture_output=True, check=False)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


# --- One repeat, and the table ---------------------------------------------------------------------------------------


def measurements(images, sizes):
    """Return `{name: function}` of everything that is measured, in order."""
    return {
        "Keras": lambda: fresh(keras_rate, images, sizes.keras),
        "bare": lambda: fresh(bare_rate, images),
        "extraction": lambda: fresh(extraction, images),
        "plain epoch": lambda: fresh(plain_epoch, sizes),
        "our epoch": lambda: our_epoch(sizes),
        "1x": lambda: four_runs(images, 1, sizes),
        "2x": lambda: four_runs(images, 2, sizes),
        "4x": lambda: four_runs(images, 4, sizes),
        "warm": lambda: four_runs(images, 4, sizes, cold=False),
        "python": lambda: start_seconds("-c", "pass"),
        "help": lambda: start_seconds(TRAIN, "--help"),
        "typo": lambda: start_seconds(TRAIN, "--schedule", "exq"),
    }


def total_epochs(sizes):
    """Return the epochs of the four runs together."""
    return sum(sizes.epochs or epochs for _, epochs in schedulers.SCHEDULES.values())


def rows_of(repeats, images, sizes):
    """Return the Rows of the table from a list of `{name: value}`, one for each repeat; names as of `measurements`."""

    def each(name, field=None):
        return [getattr(repeat[name], field) if field else repeat[name] for repeat in repeats]

    rate, bare, keras = each("extraction", "rate"), each("bare"), each("Keras")
    bare_pass = [images.count / each_rate for each_rate in bare]
    original = [total_epochs(sizes) * images.count / each_rate for each_rate in keras]
    cold = each("4x", "seconds")
    the_pass = f"bare LiteRT pass of {images.count:,} images"
    extrapolated = f"Keras, extrapolated to {total_epochs(sizes)} epochs of {images.count:,} images"
    rows = [
        Row("extraction, files to features on disk", rate, "bare LiteRT pass", bare, "images/s"),
        Row(
            "extraction, files to features on disk",
            rate,
            "Keras, backbone in every step",
            keras,
            "images/s",
        ),
        Row(
            "bare LiteRT pass, the limit", bare, "Keras, backbone in every step", keras, "images/s"
        ),
        Row("once: import of TensorFlow", each("extraction", "imports"), the_pass, bare_pass, "s"),
        Row(
            "once: first look at all images",
            each("extraction", "first_look"),
            the_pass,
            bare_pass,
            "s",
        ),
        Row(
            "once: conversion to LiteRT", each("extraction", "conversion"), the_pass, bare_pass, "s"
        ),
        Row(
            f"epoch on {sizes.rows:,} features",
            each("our epoch"),
            "Keras `fit` on arrays",
            each("plain epoch"),
            "s",
        ),
        Row("four runs, cold cache", cold, the_pass, bare_pass, "s"),
        Row("four runs, cold cache", cold, extrapolated, original, "s"),
        Row("four runs, warm cache", each("warm", "seconds"), "four runs, cold cache", cold, "s"),
    ]
    for what, field, unit in (
        ("time", "seconds", "s"),
        ("peak memory of the largest process", "peak", "MiB"),
        ("the same without mapped files", "anonymous", "MiB"),
    ):
        for times in ("2x", "4x"):
            growth = each(times, field), "1x images", each("1x", field)
            rows.append(Row(f"four runs, cold, {times} images: {what}", *growth, unit))
    bare_python = '`python -c "pass"`', each("python")
    rows.append(Row("`train.py --help`", each("help"), *bare_python, "s"))
    rows.append(Row("`train.py --schedule exq`, a typing error", each("typo"), *bare_python, "s"))
    return rows


def shown(value):
    """A positive number with three significant digits, or all before the point."""
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:,.{digits}f}"


def shown_ratio(value):
    """A ratio; a small one as a fraction of 1."""
    return shown(value) if value >= 0.1 else f"1/{shown(1 / value)}"


def table_line(row):
    """Return a Row as a line of Markdown: medians, their quotient, and the range of quotients over repeats."""
    ours, theirs = statistics.median(row.ours), statistics.median(row.theirs)
    ratios = [our / their for our, their in zip(row.ours, row.theirs)]
    span = f" ({shown_ratio(min(ratios))} to {shown_ratio(max(ratios))})" if len(ratios) > 1 else ""
    compared = f"{row.compared}: {shown(theirs)} {row.unit}"
    return f"| {row.what} | {shown(ours)} {row.unit} | {compared} | {shown_ratio(ours / theirs)}{span} |"


def machine():
    """Return processor, cores and versions in one line."""
    info = Path("/proc/cpuinfo")
    names = (
        re.findall(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        if info.exists()
        else []
    )
    packages = {"TensorFlow": "tensorflow", "Keras": "keras", "LiteRT": "ai-edge-litert"}
    versions = ", ".join(
        f"{name} {importlib.metadata.version(package)}" for name, package in packages.items()
    )
    return f"{names[0] if names else 'unknown processor'}, {features.cores()} cores; {versions}."


def markdown(rows, images, repeats, sizes):
    """Return the table with what one has to know to read it."""
    heads = ("what", "ours", "compared with", "ratio")
    return "\n".join(
        [
            machine(),
            f"{images.count:,} {images.name} images, resized to {images.image_size} x {images.image_size}, "
            f"{total_epochs(sizes)} epochs in the four runs. 1x images are a quarter of them.",
            f"Medians of {repeats}; the ratio is ours by the other, in brackets its range over the repeats."
            if repeats > 1
            else "Measured once; the ratio is ours by the other.",
            "",
            f"| {' | '.join(heads)} |",
            "|---|--:|---|--:|",
            *map(table_line, rows),
        ]
    )


def bench(source=None, sizes=Sizes(), repeats=3):  # noqa: B008 - a NamedTuple does not change
    """Measure everything and return `(rows, Markdown)`; `source` as for `prepared`."""
    from tqdm import tqdm

    with tempfile.TemporaryDirectory() as folder:
        images = fresh(prepared, source, folder, sizes)
        if source is not None and sizes.images is None:
            sizes = sizes._replace(rows=images.count)
        steps = measurements(images, sizes)
        measured = [{} for _ in range(repeats)]
        with tqdm(total=repeats * len(steps), disable=None) as bar:
            for repeat, (name, step) in itertools.product(measured, steps.items()):
                bar.set_description(name)
                repeat[name] = step()
                bar.update()
    rows = rows_of(measured, images, sizes)
    return rows, markdown(rows, images, repeats, sizes)


def around(path):
    """Return what comes before and after the markers of a file, or of a new one; raises ValueError without markers."""
    path = Path(path)
    if not path.exists():
        return "", "\n"
    content = path.read_text(encoding="utf-8")
    if not all(content.count(marker) == 1 for marker in MARKERS):
        raise ValueError(f"{path} has not one line {MARKERS[0]} and one {MARKERS[1]}; add them")
    return content.split(MARKERS[0])[0], content.split(MARKERS[1])[1]


def put(text, path):
    """Write text between the markers of a file, or to a new file with them; raises ValueError without markers."""
    before, after = around(path)
    logs.write_whole(path, f"{before}{MARKERS[0]}\n{text}\n{MARKERS[1]}{after}")


def main(arguments=None):
    """Run the command line."""
    about, _, examples = __doc__.partition("\n\n")
    parser = commands.Parser("bench.py", description=about, epilog=examples)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--data",
        help="a folder of images, digits or tfds:NAME, as for train.py (default: generated)",
    )
    parser.add_argument("--train", metavar="GLOB", help="TFRecords to train on, instead of --data")
    parser.add_argument("--test", metavar="GLOB", help="TFRecords to validate on, with --train")
    parser.add_argument("--full", action="store_true",
        help=f"all images, or as many as the report's, {FULL.rows:,}; not just {Sizes().images:,}")  # fmt: skip
    parser.add_argument(
        "--repeats", type=train.whole, default=3, metavar="N", help="of everything (default: 3)"
    )
    parser.add_argument(
        "--output",
        metavar="FILE.md",
        help="write there too; what is between its markers is replaced",
    )
    options = parser.parse_args(arguments)
    source = (
        (options.data, options.train, options.test)
        if options.data or options.train or options.test
        else None
    )
    try:
        if options.output:
            around(options.output)  # before the measurements, not after them
        text = bench(source, FULL if options.full else Sizes(), options.repeats)[1]
        print(text)
        if options.output:
            put(text, options.output)
    except (data.DataError, model.WeightsError, RuntimeError, ValueError) as error:
        parser.error(error)


if __name__ == "__main__":
    main()
