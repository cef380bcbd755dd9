"""Compare learning-rate schedules on a frozen MobileNetV2: which one is better here, and how sure are we?

python train.py --schedule exp_warmup                       # embedded digits, no download, half a minute
python train.py --schedule all --seeds 5                    # all four, repeated, with intervals
python train.py --schedule all --data flowers/              # an image folder
python train.py --schedule all --train 'rec/train*' --test 'rec/test*'    # TFRecords
python train.py --schedule exp --data tfds:tf_flowers       # a TFDS data set
python train.py --schedule mine.py:cosine                   # a schedule of your own: (epoch, lr) -> lr
tensorboard --logdir tensorboard                            # the curves
"""

import argparse
import concurrent.futures
import datetime
import importlib.metadata
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import schedulers

PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "numpy", "pillow", "scikit-learn")


class Parser(argparse.ArgumentParser):
    """argparse, with mistakes told in one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")


def whole(text):
    """argparse type: an integer >= 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be >= 1, got {text}")
    return number


def positive(text):
    """argparse type: a finite number > 0."""
    number = float(text)
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"must be a finite number > 0, got {text}")
    return number


def fraction(text):
    """argparse type: a number in [0, 1)."""
    number = float(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"must be in [0, 1), got {text}")
    return number


def options_from(arguments):
    """Parse the command line; every mistake in it that can be seen without data ends here, with exit status 2."""
    examples = __doc__.partition("\n\n")
    parser = Parser(
        prog="train.py", description=examples[0], epilog=examples[2], formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    names = " ".join(schedulers.SCHEDULES)
    add("--schedule", nargs="+", metavar="NAME", help=f"one or more of: {names}; or all, or FILE.py:FUNCTION")
    add("--data", default="digits", help="digits, tfds:NAME, or a folder: CLASS/*, or train/CLASS/* with validation,\n"
        "val or test beside it (default: %(default)s)")  # fmt: skip
    add("--train", metavar="GLOB", help="TFRecords to train on, instead of --data")
    add("--test", metavar="GLOB", help="TFRecords to validate on, with --train")
    add("--validation-fraction", type=fraction, default=0.2, metavar="F",
        help="share held out where the source has no validation split (default: %(default)s)")  # fmt: skip
    add(
        "--image-size", type=whole, metavar="PIXELS", help="side to which images are resized (default: 224; digits: 96)"
    )
    add("--preprocessing", choices=("scale", "standardize"), default="scale",
        help="scale: to [-1, 1], as the weights were trained; standardize: image by image, as the report\n"
        "(default: %(default)s)")  # fmt: skip
    add("--epochs", type=whole, metavar="N", help="of every schedule (default: the report's, "
        + ", ".join(f"{name} {epochs}" for name, (_, epochs) in schedulers.SCHEDULES.items())
        + f";\nyour own {schedulers.OWN_EPOCHS})")  # fmt: skip
    add("--lr", type=positive, default=schedulers.LR, help="initial rate (default: %(default)s)")
    add("--peak-lr", type=positive, default=schedulers.PEAK_LR, metavar="LR",
        help="rate at the end of the warm-up (default: %(default)s)")  # fmt: skip
    add("--drop-factor", type=positive, default=schedulers.DROP_FACTOR, metavar="F",
        help="what the linear schedules multiply by; 1: the report's listing (default: %(default)s)")  # fmt: skip
    add("--batch-size", type=whole, default=64, metavar="N", help="images a step (default: %(default)s)")
    add("--dropout", type=fraction, default=0.2, metavar="F", help="before the softmax (default: %(default)s)")
    add("--seeds", type=whole, default=1, metavar="N", help="runs of every schedule, with seeds 0..N-1 (default: 1)")
    add(
        "--weights",
        default="imagenet",
        help="imagenet (the file in weights/), random, or a file (default: %(default)s)",
    )
    add("--logdir", default="tensorboard", metavar="DIR", help="where experiments go (default: %(default)s)")
    add("--name", help="of this experiment's folder in --logdir (default: the time)")
    add("--cache-dir", default=".cache/features", metavar="DIR", help="where features are kept (default: %(default)s)")
    add("--skip-damaged", action="store_true", help="leave damaged images out instead of stopping")
    add("--export", metavar="FILE.keras", help="write the best run's whole model: uint8 images in, probabilities out")
    add("--resume", metavar="DIR", help="finish the experiment in DIR, with the arguments it was started with")
    options = parser.parse_args(arguments)
    if options.resume:
        if len(arguments) != (1 if arguments[0].startswith("--resume=") else 2):
            parser.error("--resume DIR takes no other flags: they are in DIR/config.json")
        return options
    if not options.schedule:
        parser.error(f"--schedule is missing; choose from {names.replace(' ', ', ')}, all, or FILE.py:FUNCTION")
    if (options.train or options.test) and options.data != "digits":
        parser.error("--data does not go with --train and --test")
    if options.name is not None and (Path(options.name).name != options.name or options.name.startswith(".")):
        parser.error(f"--name must be a plain folder name, got {options.name!r}")
    if options.export and Path(options.export).suffix != ".keras":
        parser.error(f"--export must end in .keras, got {options.export}")
    if options.image_size and options.image_size < 32:
        parser.error(f"--image-size must be >= 32, the least that MobileNetV2 takes, got {options.image_size}")
    options.image_size = options.image_size or (96 if options.data == "digits" and not options.train else 224)
    options.name = options.name or datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return options


def rates_of(options):
    """Return `{label: rates of every epoch}` of the chosen schedules; raises schedulers.ScheduleError."""
    chosen = [name for given in options.schedule for name in (schedulers.SCHEDULES if given == "all" else [given])]
    tables = {}
    for name in chosen:
        label, schedule, epochs = schedulers.named(name, peak_lr=options.peak_lr, drop_factor=options.drop_factor)
        if label in tables:
            raise schedulers.ScheduleError(f"--schedule names {label} twice")
        tables[label] = schedulers.unroll(schedule, options.epochs or epochs, options.lr, label)
    return tables


def new_directory(options):
    """Return the directory of a new experiment, not yet made; raises logs.ExperimentError where it cannot be."""
    import logs

    directory = Path(options.logdir) / options.name
    if directory.exists():
        raise logs.ExperimentError(f"{directory} exists; choose another --name, or finish it with --resume {directory}")
    above = next(path for path in directory.absolute().parents if path.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise logs.ExperimentError(f"--logdir {options.logdir}: {above} is not a folder that can be written to")
    if options.export:
        export = Path(options.export)
        if export.exists():
            raise logs.ExperimentError(f"--export {export} exists; remove it or choose another name")
        if not export.absolute().parent.is_dir():
            raise logs.ExperimentError(f"--export {export}: there is no folder {export.parent}; make it first")
    return directory


def configuration(options, rates, dataset, weights_sha256):
    """Return what config.json holds: all that is needed to repeat the experiment, or to see why it cannot be."""
    versions = {package: version for package in PACKAGES if (version := _installed(package))}
    return {
        "arguments": vars(options),
        "schedules": rates,
        "seeds": options.seeds,
        "data": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "class_names": dataset.class_names,
            **images_of(dataset),
            "left_out": [],
        },
        "notes": dataset.notes,
        "weights_sha256": weights_sha256,
        "git_commit": _commit(),
        "versions": {"python": sys.version.split()[0], **versions},
    }


def images_of(dataset):
    """Return the number of training and validation images of every class, as config.json holds it."""
    counts = dataset.counts()
    return {
        "train": {name: train for name, (train, _) in counts.items()},
        "validation": {name: held_out for name, (_, held_out) in counts.items()},
    }


def _commit():
    """The commit of this project, marked where files differ from it; None outside a clone."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return None
    return git.stdout.strip() or None


def _installed(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def print_data(dataset):
    """Print classes, images and notes."""
    width = max(map(len, dataset.class_names), default=0)
    train, held_out = int((~dataset.validation).sum()), int(dataset.validation.sum())
    print(f"{dataset.name}: {train} training and {held_out} validation images of {len(dataset.class_names)} classes")
    for name, (train, held_out) in dataset.counts().items():
        print(f"  {name:{width}} {train:7} {held_out:7}")
    for note in dataset.notes:
        print(f"note: {note}")


def runs_of(config, directory, dataset, computed):
    """List all runs of an experiment, seed by seed."""
    import numpy as np

    import run

    options = config["arguments"]
    labels = np.full(computed.shape[0], -1, np.int32)
    labels[dataset.rows] = dataset.labels
    conditions = {
        "data": config["data"]["fingerprint"],
        "images left out": len(config["data"]["left_out"]),
        "image_size": options["image_size"],
        "preprocessing": options["preprocessing"],
        "weights": config["weights_sha256"],
        "engine": computed.engine,
        "batch_size": options["batch_size"],
        "dropout": options["dropout"],
    }
    return [
        run.Run(
            directory=str(directory / label / f"seed-{seed}"),
            schedule=label,
            seed=seed,
            rates=rates,
            features=str(computed.directory),
            shape=computed.shape,
            labels=labels,
            train=dataset.rows[~dataset.validation],
            validation=dataset.rows[dataset.validation],
            classes=len(dataset.class_names),
            batch_size=options["batch_size"],
            dropout=options["dropout"],
            conditions=conditions,
        )
        for seed in range(config["seeds"])
        for label, rates in config["schedules"].items()
    ]


def train_all(executor, epochs, runs):
    """Train runs in worker processes, the longest first, showing the progress of all their epochs together."""
    from tqdm import tqdm

    import run

    longest_first = sorted(runs, key=lambda each: -len(each.rates))
    waiting = {executor.submit(run.train_in_worker, each) for each in longest_first}
    with tqdm(total=sum(len(each.rates) for each in runs), desc="training", unit=" epochs", disable=None) as bar:
        while waiting:
            done, waiting = concurrent.futures.wait(waiting, 0.2, concurrent.futures.FIRST_COMPLETED)
            while not epochs.empty():
                schedule, seed, epoch, numbers = epochs.get()
                accuracy, loss = numbers["val_categorical_accuracy"], numbers["val_loss"]
                bar.set_postfix_str(f"{schedule} seed {seed} epoch {epoch}: val. {accuracy:.4f} / {loss:.4f}", False)
                bar.update()
            for future in done:
                bar.write(result_line(future.result()))


def result_line(result):
    """One run's final and best numbers."""
    final, best = result["final"], result["best"]
    return (
        f"{result['schedule']} seed {result['seed']}: validation accuracy {final['val_categorical_accuracy']:.4f}, "
        f"loss {final['val_loss']:.4f} after {result['epochs']} epochs; "
        f"best {best['val_categorical_accuracy']:.4f}, {best['val_loss']:.4f}"
    )


def experiment(options, rates, directory, config=None):
    """Run an experiment, or with its `config` finish it: data, features, runs, reference, report, export."""
    import data
    import features
    import logs
    import model
    import reference
    import report
    import run

    with run.workers(min(features.cores(), len(rates) * options.seeds + 1)) as (executor, epochs):
        dataset = data.load(options.data, options.train, options.test, options.validation_fraction)
        print_data(dataset)
        started = configuration(options, rates, dataset, model.weights_key(options.weights))
        if config is None:
            config = started
            directory.mkdir(parents=True)
            logs.write_json(directory / "config.json", config)
        for what, then, now in (
            ("data", config["data"]["fingerprint"], started["data"]["fingerprint"]),
            ("weights", config["weights_sha256"], started["weights_sha256"]),
        ):
            if then != now:
                raise logs.ExperimentError(f"{directory}: the {what} changed since it was started; start a new one")

        def graphs(*arguments):
            return executor.submit(model.litert_graphs, *arguments).result()

        prepared = options.image_size, options.preprocessing, options.weights
        computed = features.extract(dataset, *prepared, options.cache_dir, options.skip_damaged, graphs)
        passed = computed.shape[0] - len(computed.damaged) - computed.computed
        print(f"features: {computed.computed} computed, {max(passed, 0)} from {computed.directory}")
        twice = data.on_both_sides(dataset, computed.pixels)
        if twice:
            note = f"{len(twice)} validation images are training images too, e.g. {twice[0][1]} is {twice[0][0]}"
            config["notes"] = [*dataset.notes, note]
            print(f"note: {note}")
        if computed.damaged:
            config["data"]["left_out"] = [dataset.names[row] for row in sorted(computed.damaged)]
            print(f"note: {len(computed.damaged)} damaged images are left out")
            dataset = dataset.without(computed.damaged)
            config["data"].update(images_of(dataset))
        logs.write_json(directory / "config.json", config)

        runs = runs_of(config, directory, dataset, computed)
        if not (directory / "reference.json").exists():
            sides = runs[0].labels, runs[0].train, runs[0].validation
            known = executor.submit(
                reference.reference, computed.directory, computed.shape, *sides, dataset.fingerprint
            )
        else:
            known = None
        train_all(executor, epochs, [each for each in runs if not (Path(each.directory) / "result.json").exists()])
        if known:
            logs.write_json(directory / "reference.json", known.result())
        print(report.write(directory), end="")
        if options.export and not Path(options.export).exists():
            results = [logs.read_json(Path(each.directory) / "result.json") for each in runs]
            best = max(zip(results, runs), key=lambda pair: pair[0]["final"]["val_categorical_accuracy"])[1]
            chosen = best.directory, options.export, dataset.class_names, best.conditions, options.weights
            executor.submit(run.export, *chosen).result()
            print(f"model of {best.schedule} seed {best.seed}: {options.export}")
    print(f"\nlogs: {directory}; show them with: tensorboard --logdir {shlex.quote(str(directory.parent))}")


def main(arguments=None):
    """Run the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = options_from(arguments)
    try:
        rates = None if options.resume else rates_of(options)
    except schedulers.ScheduleError as error:
        return refusal(error)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))

    # Imported only now, so that a typo is told at once.
    import data
    import features
    import logs
    import model

    refusals = (data.DataError, features.CacheError, logs.ExperimentError, model.WeightsError)
    directory, config = None, None
    try:
        if options.resume:
            directory = Path(options.resume)
            config = logs.read_json(directory / "config.json")
            options, rates = argparse.Namespace(**config["arguments"]), config["schedules"]
        else:
            directory = new_directory(options)
        experiment(options, rates, directory, config)
    except KeyboardInterrupt:
        begun = directory is not None and (directory / "config.json").exists()
        way_on = f"python train.py --resume {shlex.quote(str(directory))}" if begun else "nothing was begun"
        print(f"\ninterrupted; {'go on with: ' if begun else ''}{way_on}", file=sys.stderr, flush=True)
        os._exit(130)  # threads and worker processes may be in the middle of something; they end with this process
    except (*refusals, OSError, BrokenProcessPool) as error:
        finished_one = directory is not None and next(directory.glob("*/*/result.json"), None)
        if config is None and directory is not None and not finished_one and not options.resume:
            shutil.rmtree(directory, ignore_errors=True)
        return refusal(error, directory if config or finished_one else None)
    return 0


def refusal(error, directory=None):
    """Print what is wrong, in one line, and return the exit status 2; with a directory, how to go on."""
    if isinstance(error, OSError):
        error = f"{error.filename or 'a file'}: {error.strerror or error}; make room or check permissions"
    elif isinstance(error, BrokenProcessPool):
        error = "a worker process was killed, perhaps for want of memory"
    way_on = f"; go on with --resume {shlex.quote(str(directory))}" if directory else ""
    print(f"train.py: error: {error}{way_on}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
