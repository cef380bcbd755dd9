"""The audit: an experiment is used only after its files were found to agree with each other.

It finds damage and mistakes, not forgery: whoever changes every file alike is believed.
"""

import math
from pathlib import Path

import numpy as np

from runtime import files
from runtime.messages import Refusal, describe
from storage import events, results
from storage.dataclass_files import read_dataclass
from storage.results import (
    Conditions,
    Config,
    Experiment,
    Outputs,
    Reference,
    Run,
    Tuning,
    planned_rates,
)

# The logged loss is a sum in float64, the stored losses are float32: their means differ slightly.
LOSS_TOLERANCE = 1e-5


def read_experiment(directory: Path) -> Experiment:
    """Return an experiment with all its finished runs; raises Refusal where one fails."""
    config, finished = results.read_config(directory), results.finished_runs(directory)
    if not finished:
        advice = f"train.py --resume {directory} makes them"
        raise Refusal(f"{directory} does not hold a finished run; {advice}")
    # A seed whose heads all diverged has a grid and no run.
    seeds = {seed for _, seed in finished}
    seeds |= {i for i in range(config.settings.seeds) if results.tuning_path(directory, i).exists()}
    tuning = {seed: read_tuning(directory, config, seed) for seed in sorted(seeds)}
    runs: dict[str, list[Run]] = {label: [] for label in config.schedules}
    for label, seed in finished:
        if label not in runs or seed >= config.settings.seeds:
            run = results.run_directory(directory, label, seed)
            raise Refusal(f"{run} is not a run of this experiment; move it away")
        runs[label].append(audit_run(directory, config, label, seed, tuning[seed]))
    runs = {label: of_label for label, of_label in runs.items() if of_label}
    reference = read_reference(directory, config)
    outputs = [run.outputs for of_label in runs.values() for run in of_label]
    outputs += [reference.outputs] if reference else []
    # Comparisons pair them by image.
    if not all(np.array_equal(one.label, outputs[0].label) for one in outputs):
        reason = "the labels of its runs or its reference are in different orders"
        raise Refusal(f"{directory}: {reason}; restore its files")
    tuning = {seed: grid for seed, grid in tuning.items() if grid}
    return Experiment(directory, config, runs, reference, tuning)


def audit_run(
    experiment: Path, config: Config, label: str, seed: int, tuning: Tuning | None
) -> Run:
    """Return a finished run whose files agree with each other and with config.json.

    Raises Refusal, naming the run and both values, where they do not.
    """
    run = results.run_directory(experiment, label, seed)
    result = read_dataclass(results.Result, run / results.RESULT)
    if (result.schedule, result.seed) != (label, seed):
        raise Refusal(f"{run}: result.json is of {result.schedule} seed {result.seed}")
    compare_conditions(run, result.conditions, config.conditions)
    if result.rate != planned_rates(config, tuning, label) or result.peak_lr != max(result.rate):
        raise Refusal(f"{run}: result.json has other rates than its schedule")
    for name in results.VOUCHED if result.sha256 else ():
        _compare_checksum(run / name, result.sha256.get(name))
    for name, logged in events.read_curves(run).items():
        curve = result.curve(name)
        if not len(logged) == len(curve) == len(result.rate):
            counts = f"{len(logged)} epochs logged, {len(curve)} in result.json"
            raise Refusal(f"{run}: {name}: {counts}, {len(result.rate)} planned")
        # Event files hold float32. Exactly equal, but NaN equals NaN.
        equal = np.isclose(np.float32(curve), logged, rtol=0, atol=0, equal_nan=True)
        if not equal.all():
            epoch = int(np.argmin(equal))
            values = f"{logged[epoch]:.6g} was logged, {curve[epoch]:.6g} is in result.json"
            raise Refusal(f"{run}: epoch {epoch}: {name} {values}")
    path = run / results.VALIDATION
    outputs = results.read_outputs(path, config.data)
    _compare_means(path, outputs, result.val_accuracy[-1], result.val_loss[-1])
    return Run(result, outputs, results.is_diverged(result, len(outputs.label)))


def _compare_means(
    path: Path, outputs: Outputs, accuracy: float | None, loss: float | None
) -> None:
    """Raise Refusal unless accuracy (exactly) and loss are the means of the outputs."""
    correct = np.float32(np.mean(outputs.predicted == outputs.label))
    if accuracy is None or np.float32(accuracy) != correct:
        raise Refusal(f"{path}: accuracy {correct} of its images, {accuracy} was logged")
    mean, logged = outputs.loss.mean(dtype=np.float64), math.nan if loss is None else loss
    if not np.isclose(logged, mean, LOSS_TOLERANCE, LOSS_TOLERANCE, equal_nan=True):
        raise Refusal(f"{path}: loss {mean:.6g} of its images, {loss} was logged")


def _compare_checksum(path: Path, checksum: str | None) -> None:
    """Raise Refusal if a file is not the one that result.json vouches for.

    Weights may be missing, since they are large and only an export needs them.
    """
    if path.name == results.WEIGHTS and not path.exists():
        return
    try:
        found = files.hash_file(path)
    except OSError as error:
        raise Refusal(describe(error, path)) from None
    if found != checksum:
        raise Refusal(f"{path} is not the file that {results.RESULT} vouches for")


def compare_conditions(path: Path, actual: Conditions, wanted: Conditions) -> None:
    """Raise Refusal that names the first condition with two values."""
    for name, value in vars(wanted).items():
        if (other := getattr(actual, name)) != value:
            reason = f"was made with {name} {other!r} instead of {value!r}"
            advice = "restore that, or start a new experiment with another --name"
            raise Refusal(f"{path} {reason}; {advice}")


def _require_conditions(path: Path, found: str | None, config: Config) -> None:
    """Raise Refusal if a file was made under other conditions; older ones do not say."""
    if found not in (None, config.conditions.key):
        raise Refusal(f"{path} was made under other conditions")


def read_reference(experiment: Path, config: Config) -> Reference | None:
    """Return the reference or None; raises Refusal where its two files disagree."""
    path = experiment / results.REFERENCE
    if not path.exists():
        return None
    outputs = results.read_outputs(path.with_suffix(".npz"), config.data)
    reference = read_dataclass(Reference, path, outputs=outputs)
    _require_conditions(path, reference.conditions, config)
    _compare_means(path, outputs, reference.val_categorical_accuracy, reference.val_loss)
    return reference


def read_tuning(experiment: Path, config: Config, seed: int) -> Tuning | None:
    """Return the grid of a seed, or None without --tune; raises Refusal where it is wrong."""
    if not config.settings.tune:
        return None
    path = results.tuning_path(experiment, seed)
    tuning = read_dataclass(Tuning, path)
    _require_conditions(path, tuning.conditions, config)
    if set(tuning.loss) != set(config.schedules):
        raise Refusal(f"{path} is not of the schedules in config.json")
    if any(len(losses) != len(tuning.peaks) for losses in tuning.loss.values()):
        raise Refusal(f"{path} does not hold a loss for every peak")
    if tuning.chosen != results.choose_peaks(tuning.peaks, tuning.loss):
        raise Refusal(f"{path}: the chosen peaks are not those of least loss")
    return tuning
