"""Measure what the README says of speed and memory, side by side in one run on the same images.

python bench.py                                            # generated JPEGs, some minutes
python bench.py --train 'rec/train*' --test 'rec/test*'    # TFRecords; or --data, as for train.py

What is compared takes turns, so that noise of the machine meets both sides, and each turn is a
process of its own, which nothing has warmed up. Linux only: /proc tells the memory of a process.
"""

import argparse
import contextlib
import functools
import itertools
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired

import numpy as np
import simplejpeg
from ai_edge_litert.interpreter import Interpreter
from tqdm import tqdm

import data
import model
import train
from features import cache, shards
from model import Recipe
from runtime import cli
from runtime.messages import Refusal
from runtime.tasks import Threads, cores
from runtime.tensorflow_setup import keras, tf
from schedulers import LR
from storage.settings import Settings
from training.heads import Heads
from training.tail import Tail
from training.trainer import Task, Trainer
from training.trainer import train as train_task

SIZE, BATCH, DROPOUT = Settings.image_size, Settings.batch_size, Settings.dropout
RECIPE = Recipe(SIZE, Settings.preprocessing, Settings.weights)
TAIL, TAIL_IMAGES = replace(RECIPE, cut="block_16"), 512
GENERATED = 4096  # images; with fewer, what is done once weighs more
CLASSES, SHAPE, HELD_OUT = 6, (17_039, model.FEATURES), 0.18  # of an epoch, as in the report
EPOCHS = 4  # the first one traces and is not counted
GRID = 65  # heads: five schedules at 13 rates each
MARKERS = re.compile("(?<=<!-- bench -->\n).*?(?=<!-- /bench -->)", re.DOTALL)
TABLE = (  # what, ours, compared with, theirs, unit; ours and theirs as `take_turns` names them
    ("image file to features on disk", "extract", "bare LiteRT pass", "bare", "ms"),
    ("image file to features on disk", "extract", "Keras `fit`, backbone in it", "keras", "ms"),
    ("epoch of four heads side by side", "4 heads", "Keras `fit` of one head", "fit", "s"),
    ("epoch of one head alone", "1 heads", "Keras `fit` of one head", "fit", "s"),
    (f"epoch of {GRID} heads", f"{GRID} heads", f"{GRID} heads one by one", "one by one", "s"),
    (
        "image of fine-tuning block_16",
        "tail",
        "Keras `fit`, frozen blocks in it",
        "fit last block",
        "ms",
    ),
    ("image fine-tuned", "tail", "Keras `fit` on the same rows", "fit tail", "ms"),
    ("four runs, cold cache", "cold s", "bare LiteRT pass of all images", "bare pass", "s"),
    ("four runs, warm cache", "warm s", "four runs, cold cache", "cold s", "s"),
    ("peak memory without mapped files", "cold RssAnon", "1/4 images", "1/4 RssAnon", "MiB"),
    ("peak memory with mapped files", "cold VmHWM", "1/4 images", "1/4 VmHWM", "MiB"),
)


def write_images(folder: Path, options: argparse.Namespace) -> int:
    """Write images to folder/all, each fourth also to folder/quarter; raises Refusal."""
    if options.data or options.train or options.test:
        given = data.load(options.data or "digits", options.train, options.test)
        count = min(options.images or len(given.rows), len(given.rows))
        rows = np.linspace(0, len(given.rows) - 1, count).astype(int)
        labels, validation = given.labels[rows], given.validation[rows]
        images = given.source.read(given.rows[rows])
    else:
        numbers, random = np.arange(options.images or GENERATED), np.random.default_rng(0)
        labels, validation = numbers % CLASSES, numbers < max(24, HELD_OUT * len(numbers))
        # Noise of 150 x 150 pixels and 13 KB, as the report's. Each class has its colour, because
        # classes that can hardly be told apart keep the reference far longer than photographs do.
        colours = np.array(list(itertools.product((0, 99), repeat=3)), np.uint8)
        pixels = (colours[i] + random.integers(0, 156, (30, 30, 3), np.uint8) for i in labels)
        images = (simplejpeg.encode_jpeg(of.repeat(5, 0).repeat(5, 1), 75) for of in pixels)
    if np.bincount(2 * labels + validation).min() < 4:
        raise Refusal("a class has fewer than 4 images on a side; raise --images")
    # Sorted by side and class, so that the fourth part has all of them.
    quarter = set(np.lexsort((labels, validation))[::4].tolist())
    for number, image in enumerate(images):
        side = "validation" if validation[number] else "train"
        for part in ("all", "quarter") if number in quarter else ("all",):
            path = folder / part / side / f"{labels[number]}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
    return len(labels)


def extract(count: int, folder: Path) -> float:
    """Return ms an image from files to features on disk: checks, conversion, all but imports."""
    with tempfile.TemporaryDirectory(dir=folder) as empty, Threads() as executor:
        begin = time.perf_counter()
        cache.extract(data.load(str(folder / "all")), RECIPE, empty, False, executor)
        return 1000 * (time.perf_counter() - begin) / count


def pass_bare(count: int, folder: Path) -> float:
    """Return ms an image of LiteRT alone, one interpreter a core in threads, on noise in memory."""
    numbers = iter(range(count))  # shared by the threads
    pixels = np.random.default_rng(0).random((1, SIZE, SIZE, 3), np.float32)
    graph = model.convert(model.backbone(RECIPE))
    interpreters = [Interpreter(model_content=graph, num_threads=1) for _ in range(cores())]

    def work(interpreter: Interpreter) -> None:
        for _ in numbers:
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
            interpreter.invoke()

    list(map(Interpreter.allocate_tensors, interpreters))
    with Threads() as executor:
        begin = time.perf_counter()
        list(executor.map(work, interpreters))
        return 1000 * (time.perf_counter() - begin) / count


def fit_whole(count: int, folder: Path) -> float:
    """Return ms an image of the original way: the backbone in every epoch, on noise in memory."""
    pixels = np.random.default_rng(0).random((min(count, 2 * BATCH), SIZE, SIZE, 3), np.float32)
    return 1000 * fit_seconds(pixels, lambda: [model.backbone(RECIPE)]) / len(pixels)


def fit_last_block(count: int, folder: Path) -> float:
    """Return ms an image of fine-tuning with the frozen blocks in every epoch, on noise."""
    pixels = np.random.default_rng(0).random((TAIL_IMAGES // 4, SIZE, SIZE, 3), np.float32)
    return 1000 * fit_seconds(pixels, lambda: [backbone_with_trainable_tail()]) / len(pixels)


def backbone_with_trainable_tail() -> keras.Model:
    """Return the backbone as Keras' guide to fine-tuning has it."""
    backbone = model.backbone(TAIL)
    names = [layer.name for layer in backbone.layers]
    for layer in backbone.layers[names.index(f"{TAIL.cut}_expand") :]:
        layer.trainable = True
    return backbone


def fit_tail(count: int, folder: Path) -> float:
    """Return ms an image of Keras' `fit` of the last block and a head on rows in memory."""
    rows = np.random.default_rng(0).random((TAIL_IMAGES, *TAIL.row_shape), np.float32)
    return 1000 * fit_seconds(rows, lambda: [model.tail(TAIL)]) / len(rows)


def train_tail(count: int, folder: Path) -> float:
    """Return ms an image of fine-tuning as train.py does it: a run on each core, validated."""
    samples = noise_samples(folder, TAIL, TAIL_IMAGES)
    with Threads() as executor:
        options = itertools.repeat((Tail, TAIL, samples, 1), cores())
        seconds = list(executor.map(lambda some: epoch_seconds(*some), options))
    return 1000 * float(np.mean(seconds)) / (TAIL_IMAGES * cores())


def fit_head(count: int, folder: Path) -> float:
    """Return seconds of an epoch of Keras' `fit` of one head on features in memory."""
    return fit_seconds(np.random.default_rng(0).random(SHAPE, np.float32))


def fit_seconds(x: np.ndarray, build: Callable[[], list] = list) -> float:
    """Return seconds of an epoch of Keras' `fit` of a head, on what `build` returns."""
    # Several threads for each operation, as Keras has them without this project.
    tf.config.threading.set_intra_op_parallelism_threads(0)
    head = [keras.layers.Dropout(DROPOUT), keras.layers.Dense(CLASSES, activation="softmax")]
    classifier, ends = keras.Sequential([*build(), *head]), []
    classifier.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
    options = {"validation_split": HELD_OUT, "callbacks": [clock], "verbose": 0}
    classifier.fit(x, np.arange(len(x)) % CLASSES, BATCH, EPOCHS, **options)
    return float(np.median(np.diff(ends)))


def train_heads(number: int, count: int, folder: Path) -> float:
    """Return seconds of an epoch of heads side by side, as train.py trains them."""
    return epoch_seconds(Heads, RECIPE, noise_samples(folder, RECIPE, SHAPE[0]), number)


def noise_samples(folder: Path, recipe: Recipe, count: int) -> shards.Samples:
    """Return so many rows of noise in a file, as a recipe makes them."""
    store = shards.Store(folder, recipe.row_shape)
    noise = np.random.default_rng(0).random((count, *store.row_shape), np.float32)
    noise.tofile(folder / shards.ROWS)
    labels = np.arange(count, dtype=np.int32) % CLASSES
    validation, training = np.split(np.arange(count), [round(HELD_OUT * count)])
    return shards.Samples(shards.Rows(store, count), labels, CLASSES, training, validation)


def epoch_seconds(
    trainer: type[Trainer], recipe: Recipe, samples: shards.Samples, number: int
) -> float:
    """Return seconds of an epoch of so many schedules, validation included."""
    rates = {str(schedule): [LR] * EPOCHS for schedule in range(number)}
    ends, task = [], Task(trainer, samples, recipe, rates, 0, BATCH, DROPOUT)
    train_task(task, lambda *_: ends.append(time.perf_counter()))
    return float(np.median(np.diff(ends)))


TURNS = {"extract": extract, "bare": pass_bare, "keras": fit_whole, "fit": fit_head}
TURNS |= {"tail": train_tail, "fit tail": fit_tail, "fit last block": fit_last_block}
TURNS |= {f"{number} heads": functools.partial(train_heads, number) for number in (1, 4, GRID)}


def run(*command: str | Path) -> tuple[str, dict[str, float]]:
    """Run Python in a process of its own; returns what it prints, and what it takes.

    That is seconds (`s`), and the peaks in MiB of what /proc calls RssAnon (memory without mapped
    files) and of VmHWM (with them). Raises ChildProcessError where it fails.
    """
    took, begin = {"s": 0.0, "RssAnon": 0.0, "VmHWM": 0.0}, time.perf_counter()
    with Popen([sys.executable, *command], stdout=PIPE, stderr=PIPE, text=True) as process:
        while process.returncode is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            for name, kib in re.findall(r"^(RssAnon|VmHWM):\s+(\d+)", status, re.MULTILINE):
                took[name] = max(took[name], int(kib) / 1024)
            with contextlib.suppress(TimeoutExpired):
                output, errors = process.communicate(timeout=0.05)
    took["s"] = time.perf_counter() - begin
    if process.returncode:
        raise ChildProcessError(errors.strip())
    return output, took


def take_turns(count: int, folder: Path) -> dict[str, float]:
    """Measure everything once, and return it by the names that TABLE uses."""
    found, parts = {}, {"1/4": "quarter", "cold": "all", "warm": "all"}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for name in (bar := tqdm([*parts, *TURNS], disable=None)):
            bar.set_description(name)
            if name in TURNS:
                found[name] = float(run(__file__, "--measure", name, str(count), folder)[0])
                continue
            command = [train.__file__, "--schedule", "all", "--data", folder / parts[name]]
            command += ["--cache-dir", f"{place}/cache", "--logdir", f"{place}/{name[:1]}"]
            found |= {f"{name} {quantity}": value for quantity, value in run(*command)[1].items()}
    found["one by one"], found["bare pass"] = GRID * found["1 heads"], count * found["bare"] / 1000
    return found


def make_table(repeats: list[dict[str, float]], count: int) -> str:
    """Return Markdown: the machine, and medians, their ratio, and its range over the repeats."""
    names = re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text()) or ["?"]
    versions = [f"{name} {version(name)}" for name in ("tensorflow", "keras", "ai-edge-litert")]
    lines = [
        f"{names[0]}, {cores()} cores; {', '.join(versions)}; medians of {len(repeats)}.",
        f"{count:,} images, {SHAPE[0]:,} features an epoch; less is better.\n",
        "| what | ours | compared with | theirs | ratio (range) |\n|---|--:|---|--:|--:|",
    ]
    for what, ours, compared, theirs, unit in TABLE:
        our, their = (float(np.median([of[name] for of in repeats])) for name in (ours, theirs))
        ratios = [of[ours] / of[theirs] for of in repeats]
        ratio = f"{our / their:.3g} ({min(ratios):.3g} to {max(ratios):.3g})"
        lines.append(f"| {what} | {our:,.4g} {unit} | {compared} | {their:,.4g} {unit} | {ratio} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Run the command line and return the exit status."""
    parser = cli.Parser("bench.py", __doc__)
    add = parser.add_argument
    add("--data", help=f"digits, tfds:NAME or a folder (default: {GENERATED:,} generated images)")
    add("--train", help="TFRecords to train on, instead of --data", metavar="GLOB")
    add("--test", help="TFRecords to validate on, with --train", metavar="GLOB")
    add("--images", help="images used", type=cli.bounded(int, 1, 1_000_000), metavar="N")
    add("--repeats", help="(default: 3)", type=cli.bounded(int, 1, 100), default=3, metavar="N")
    add("--output", help="put the table between its markers", type=Path, metavar="FILE.md")
    add("--measure", help=argparse.SUPPRESS, nargs=3)  # what each turn is called with
    options = parser.parse_args(arguments)
    if options.measure:
        name, count, folder = options.measure
        print(TURNS[name](int(count), Path(folder)))
        return 0
    try:
        page = options.output.read_text(encoding="utf-8") if options.output else None
        if page is not None and not MARKERS.search(page):
            parser.error(f"{options.output} lacks <!-- bench --> and <!-- /bench -->; add them")
        with tempfile.TemporaryDirectory() as folder:
            count = write_images(Path(folder), options)
            repeats = [take_turns(count, Path(folder)) for _ in range(options.repeats)]
    except (Refusal, OSError) as error:
        return cli.refuse("bench.py", error)
    except KeyboardInterrupt:
        return 130
    table = make_table(repeats, count)
    print(table, end="")
    if page is not None:
        options.output.write_text(MARKERS.sub(lambda _: table, page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
