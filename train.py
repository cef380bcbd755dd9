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
import contextlib
import datetime
import glob
import importlib.metadata
import math
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import commands
import schedulers

PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "numpy", "pillow", "scikit-learn")


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


def share(text):
    """argparse type: a number in (0, 1)."""
    if not fraction(text):
        raise argparse.ArgumentTypeError(f"must be in (0, 1), got {text}")
    return float(text)


def plain(name):
    """Whether a name is that of a folder and nothing else: a path could leave the place where the folder belongs."""
    return (
        bool(name) and Path(name).name == name and not name.startswith(".") and name.isprintable()
    )


def options_from(arguments, source=""):
    """Parse the command line; every mistake in it that can be seen without data ends here, with exit status 2."""
    examples = __doc__.partition("\n\n")
    parser = commands.Parser(
        prog="train.py",
        description=examples[0],
        epilog=examples[2],
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.source = source
    add = parser.add_argument
    names = " ".join(schedulers.SCHEDULES)
    add(
        "--schedule",
        nargs="+",
        metavar="NAME",
        help=f"one or more of: {names}; or all, or FILE.py:FUNCTION",
    )
    add("--data", default="digits", help="digits, tfds:NAME, or a folder: CLASS/*, or train/CLASS/* with validation,\n"
        "val or test beside it (default: %(default)s)")  # fmt: skip
    add("--train", metavar="GLOB", help="TFRecords to train on, instead of --data")
    add("--test", metavar="GLOB", help="TFRecords to validate on, with --train")
    add("--validation-fraction", type=share, default=0.2, metavar="F",
        help="share held out where the source has no validation split (default: %(default)s)")  # fmt: skip
    add(
        "--image-size",
        type=whole,
        metavar="PIXELS",
        help="side to which images are resized (default: 224; digits: 96)",
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
    add(
        "--batch-size",
        type=whole,
        default=64,
        metavar="N",
        help="images a step (default: %(default)s)",
    )
    add(
        "--dropout",
        type=fraction,
        default=0.2,
        metavar="F",
        help="before the softmax (default: %(default)s)",
    )
    add(
        "--seeds",
        type=whole,
        default=1,
        metavar="N",
        help="runs of every schedule, with seeds 0..N-1 (default: 1)",
    )
    add(
        "--weights",
        default="imagenet",
        help="imagenet (the file in weights/), random, or a file (default: %(default)s)",
    )
    add(
        "--logdir",
        default="tensorboard",
        metavar="DIR",
        help="where experiments go (default: %(default)s)",
    )
    add("--name", help="of this experiment's folder in --logdir (default: the time)")
    add(
        "--cache-dir",
        default=".cache/features",
        metavar="DIR",
        help="where features are kept (default: %(default)s)",
    )
    add("--skip-damaged", action="store_true", help="leave damaged images out instead of stopping")
    add(
        "--export",
        metavar="FILE.keras",
        help="write the best run's whole model: uint8 images in, probabilities out",
    )
    add(
        "--resume",
        metavar="DIR",
        help="finish the experiment in DIR, with the arguments it was started with",
    )
    options = parser.parse_args(arguments)
    if options.resume is not None:
        if len(arguments) != (1 if arguments[0].startswith("--resume=") else 2):
            parser.error("--resume DIR takes no other flags: they are in DIR/config.json")
        return options
    if not options.schedule:
        parser.error(
            f"--schedule is missing; choose from {names.replace(' ', ', ')}, all, or FILE.py:FUNCTION"
        )
    if (options.train or options.test) and options.data != "digits":
        parser.error("--data does not go with --train and --test")
    if options.name is not None and not plain(options.name):
        parser.error(f"--name must be a plain folder name, got {options.name!r}")
    try:
        options.logdir.encode()
    except UnicodeEncodeError:
        parser.error(
            f"--logdir must be UTF-8, since TensorFlow takes nothing else, got {options.logdir!r}"
        )
    if options.export and Path(options.export).suffix != ".keras":
        parser.error(f"--export must end in .keras, got {options.export}")
    if options.image_size and options.image_size < 32:
        parser.error(
            f"--image-size must be >= 32, the least that MobileNetV2 takes, got {options.image_size}"
        )
    options.image_size = options.image_size or (
        96 if options.data == "digits" and not options.train else 224
    )
    options.name = options.name or datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return options


def rates_of(options):
    """Return `{label: rates of every epoch}` of the chosen schedules; raises schedulers.ScheduleError."""
    chosen = [
        name
        for given in options.schedule
        for name in (schedulers.SCHEDULES if given == "all" else [given])
    ]
    tables = {}
    for name in chosen:
        label, schedule, epochs = schedulers.named(
            name, peak_lr=options.peak_lr, drop_factor=options.drop_factor
        )
        if label.endswith((".json", ".md", ".svg")):
            raise schedulers.ScheduleError(
                f"{name}: its runs would go to {label}, a file's name; rename the function"
            )
        if label in tables:
            raise schedulers.ScheduleError(f"--schedule names {label} twice")
        tables[label] = schedulers.unroll(schedule, options.epochs or epochs, options.lr, label)
    return tables


def new_directory(options):
    """Return the directory of a new experiment, not yet made; raises logs.ExperimentError where it cannot be."""
    import logs

    directory = Path(options.logdir) / options.name
    refuse_taken(directory)
    above = next(path for path in directory.absolute().parents if path.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise logs.ExperimentError(
            f"--logdir {options.logdir}: {above} is not a folder that can be written to"
        )
    if options.export:
        export = Path(options.export)
        if export.exists():
            raise logs.ExperimentError(
                f"--export {export} exists; remove it or choose another name"
            )
        if not export.absolute().parent.is_dir():
            raise logs.ExperimentError(
                f"--export {export}: there is no folder {export.parent}; make it first"
            )
    return directory


def refuse_taken(directory):
    """Raise logs.ExperimentError if something is in a directory, beside what a process killed at once left there."""
    import logs

    if directory.is_dir() and all(
        path.name.startswith(".config.json.") for path in directory.iterdir()
    ):
        return
    if directory.exists():
        way_on = f"or finish it with --resume {shlex.quote(str(directory))}"
        raise logs.ExperimentError(f"{directory} exists; choose another --name, {way_on}")


def resumed(directory):
    """Return `(options, rates, config)` of the experiment in a directory, as config.json holds them.

    Arguments are parsed again, as if they were typed. Raises logs.ExperimentError where config.json is not as it was
    written: it decides where files are written and removed.
    """
    import logs

    path = directory / "config.json"
    config = logs.read_json(path)
    try:
        if set(config["arguments"]) != set(vars(options_from(["--schedule", "exp"]))):
            raise ValueError("its arguments")
        arguments = []
        for name, value in config["arguments"].items():
            flag = f"--{name.replace('_', '-')}"
            if isinstance(value, list):
                arguments += [flag, *map(str, value)]
            elif value is not None and value is not False:
                arguments.append(flag if value is True else f"{flag}={value}")
        options, rates = options_from(arguments, f"{path}: "), config["schedules"]
        for label, table in rates.items():
            if (
                not plain(label)
                or not table
                or not all(math.isfinite(rate) and rate >= 0 for rate in table)
            ):
                raise ValueError(f"its schedule {label!r}")
        for name, value, wanted in (
            ("schedules", bool(rates), True),
            ("arguments", config["arguments"], vars(options)),
            ("seeds", config["seeds"], options.seeds),
            ("data", {type(config["data"][name]) for name in ("name", "fingerprint")}, {str}),
            ("weights_sha256", type(config["weights_sha256"]), str),
            ("versions", type(config["versions"]), dict),
            ("git_commit", type(config["git_commit"]) in (str, type(None)), True),
        ):
            if value != wanted:
                raise ValueError(f"its {name}")
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        reason = f"{path} is not as it was written ({' '.join(str(error).split())})"
        raise logs.ExperimentError(f"{reason}; restore it, or start a new experiment") from None
    return options, rates, config


@contextlib.contextmanager
def occupied(directory, new):
    """Have the directory of an experiment for this process, without what a killed one left half-written in it.

    An error within the block gets the attribute `unfinished`, the directory, if there is something to finish; before
    the first run there is not, and a new directory is removed.
    """
    import logs

    if new:
        directory.mkdir(
            parents=True, exist_ok=True
        )  # of several processes at once, the one that holds it goes on
    with logs.held(directory):
        if new:
            refuse_taken(directory)
        logs.remove_leftovers(directory, "**/.*.tmp*")
        try:
            yield
        except Exception as error:
            if new and next(directory.glob("*/seed-*"), None) is None:
                shutil.rmtree(directory, ignore_errors=True)
            if (directory / "config.json").exists():
                error.unfinished = directory
            raise


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
        git = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
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
    print(
        f"{dataset.name}: {train} training and {held_out} validation images of {len(dataset.class_names)} classes"
    )
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
    with tqdm(
        total=sum(len(each.rates) for each in runs), desc="training", unit=" epochs", disable=None
    ) as bar:
        while waiting:
            done, waiting = concurrent.futures.wait(
                waiting, 0.2, concurrent.futures.FIRST_COMPLETED
            )
            while not epochs.empty():
                schedule, seed, epoch, numbers = epochs.get()
                accuracy, loss = numbers["val_categorical_accuracy"], numbers["val_loss"]
                bar.set_postfix_str(
                    f"{schedule} seed {seed} epoch {epoch}: val. {accuracy:.4f} / {loss:.4f}", False
                )
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


def experiment(options, rates, directory, before=None):
    """Run an experiment, or finish it, with `before`, what config.json held then."""
    import data
    import features
    import logs
    import model
    import run

    with run.workers(min(features.cores(), len(rates) * options.seeds + 1)) as (executor, epochs):
        dataset = data.load(options.data, options.train, options.test, options.validation_fraction)
        print_data(dataset)
        config = configuration(options, rates, dataset, model.weights_key(options.weights))
        if before:
            for what, then, now in (
                ("data", before["data"]["fingerprint"], config["data"]["fingerprint"]),
                ("weights", before["weights_sha256"], config["weights_sha256"]),
            ):
                if then != now:
                    raise logs.ExperimentError(
                        f"{directory}: the {what} changed since it was started; start a new one"
                    )
            config.update({name: before[name] for name in ("git_commit", "versions")})
        with occupied(directory, new=not before):
            logs.write_json(directory / "config.json", config)
            complete(executor, epochs, options, directory, dataset, config)
    print(
        f"\nlogs: {directory}; show them with: tensorboard --logdir {shlex.quote(str(directory.parent))}"
    )


def complete(executor, epochs, options, directory, dataset, config):
    """Do what is not done yet: features, runs, reference, report, export."""
    import data
    import features
    import logs
    import model
    import reference
    import report
    import run

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
    sides = runs[0].labels, runs[0].train, runs[0].validation
    known = executor.submit(
        reference.reference, computed.directory, computed.shape, *sides, dataset.fingerprint
    )
    train_all(executor, epochs, [each for each in runs if not finished(each)])
    logs.write_json(directory / "reference.json", known.result())
    print(report.write(directory), end="")
    if options.export and not Path(options.export).exists():
        results = [logs.read_json(Path(each.directory) / "result.json") for each in runs]
        best = max(
            zip(results, runs), key=lambda pair: pair[0]["final"]["val_categorical_accuracy"]
        )[1]
        logs.remove_leftovers(
            Path(options.export).parent, f".{glob.escape(Path(options.export).name)}.*.tmp"
        )
        chosen = (
            best.directory,
            options.export,
            dataset.class_names,
            best.conditions,
            options.weights,
        )
        executor.submit(run.export, *chosen).result()
        print(f"model of {best.schedule} seed {best.seed}: {options.export}")


def finished(each):
    """Whether a run has its result, made as it would be now, and event files that agree; says so where they do not."""
    import logs
    import report

    directory = Path(each.directory)
    result = directory / "result.json"
    if not result.exists():
        return False
    try:
        made = report.fields(result, "schedule", "seed", "epochs", "conditions", "final", "best")
        now = {
            "schedule": each.schedule,
            "seed": each.seed,
            "epochs": len(each.rates),
            "conditions": each.conditions,
        }
        for name, value in now.items():
            if made[name] != value:
                raise logs.ExperimentError(
                    f"{result}: its {name} is not that of the experiment now"
                )
        report.audited_curves(directory, each.rates, made)
    except (logs.ExperimentError, AttributeError, TypeError) as error:
        print(f"train.py: {error}; this run is done again", file=sys.stderr)
        return False
    return True


def main(arguments=None):
    """Run the command line; returns the exit status."""
    open_closed_streams()
    options = options_from(sys.argv[1:] if arguments is None else arguments)
    resume = options.resume is not None
    directory = Path(options.resume) if resume else Path(options.logdir) / options.name
    with ended_by_signals(directory):
        try:
            rates = None if resume else rates_of(options)
        except schedulers.ScheduleError as error:
            return refusal(error)

        # Imported only now, so that a typo is told at once.
        import data
        import features
        import logs
        import model

        refusals = (data.DataError, features.CacheError, logs.ExperimentError, model.WeightsError)
        try:
            if resume:
                options, rates, before = resumed(directory)
                experiment(options, rates, directory, before)
            else:
                experiment(options, rates, new_directory(options))
        except (*refusals, OSError, BrokenProcessPool) as error:
            return refusal(error)
    return 0


def open_closed_streams():
    """Open nothing in place of each standard stream that was closed: the next file to be opened, of features say,
    would take its number, and receive what is meant for it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


@contextlib.contextmanager
def ended_by_signals(directory):
    """Let Ctrl-C and SIGTERM end this process at once, with one line that tells how to finish what is in a directory.

    At once and not by an exception, which a callback could lose or a library turn into another one. Every file is whole
    or absent at any moment, and worker processes end with this one.
    """
    terminal = os.dup(2)  # quiet.py sends 2 elsewhere for a while

    def end(number, _):
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        begun = (directory / "config.json").exists()
        line = f"interrupted; {f'go on with: {resume_command(directory)}' if begun else 'nothing was begun'}\n"
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            os.write(terminal, ("\n" * os.isatty(terminal) + line).encode(errors="surrogateescape"))
        with contextlib.suppress(Exception):
            for (
                worker
            ) in multiprocessing.active_children():  # or they would end when they next look up
                worker.kill()
        os._exit(128 + number)  # as shells have it: 130, 143

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(terminal)


def resume_command(directory):
    """Return the command that finishes an experiment, with Python and train.py called as they were this time."""
    called = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    return shlex.join([*called, "--resume", str(directory)])


def refusal(error):
    """Print what is wrong, in one line, and how to go on where something is unfinished; returns the exit status 2."""
    unfinished = getattr(error, "unfinished", None)
    if isinstance(error, BrokenPipeError):
        error = "nobody reads standard output any more"
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), 1
        )  # or Python would complain when it flushes it in the end
    elif isinstance(error, OSError):
        place = error.filename or "a file"
        error = f"{place}: {error.strerror or error}; make room, or see that it is there and can be written"
    elif isinstance(error, BrokenProcessPool):
        error = "a worker process was killed, perhaps for want of memory"
    way_on = f"; go on with: {resume_command(unfinished)}" if unfinished else ""
    print(f"train.py: error: {error}{way_on}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    # A line is shown when it is printed, by a pipe too, and a pipe without a reader is noticed soon.
    if sys.stdout:
        sys.stdout.reconfigure(
            line_buffering=True, errors="backslashreplace"
        )  # a terminal may know no ±
    sys.exit(main())
