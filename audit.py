"""The audit: an experiment is used only after its files were found to agree with each other.

It finds damage and mistakes, not forgery: whoever changes every file alike is believed.
"""

import math
from pathlib import Path

import numpy as np

import events
import files
from results import (
    REFERENCE,
    VALIDATION,
    Conditions,
    Config,
    Experiment,
    ExperimentError,
    Outputs,
    Reference,
    Run,
    Tuning,
    choose_peaks,
    finished_runs,
    from_json,
    is_diverged,
    read_config,
    read_outputs,
    read_result,
    run_directory,
    tuning_path,
)
from schedulers import scale_to_peak

# Between a mean loss summed in float64 while logging and the mean of the float32 losses kept.
LOSS_TOLERANCE = 1e-5


def check_means(path: Path, outputs: Outputs, accuracy: float | None, loss: float | None) -> None:
    """Raise ExperimentError unless accuracy (exactly) and loss are the means of the outputs."""
    found = np.float32(np.mean(outputs.predicted == outputs.label))
    if accuracy is None or np.float32(accuracy) != found:
        raise ExperimentError(f"{path}: accuracy {found} of its images, {accuracy} was logged")
    mean = outputs.loss.mean(dtype=np.float64)
    if not np.isclose(
        np.nan if loss is None else loss, mean, LOSS_TOLERANCE, LOSS_TOLERANCE, equal_nan=True
    ):
        raise ExperimentError(f"{path}: loss {mean:.6g} of its images, {loss} was logged")


def read_tuning(experiment: Path, config: Config, seed: int) -> Tuning | None:
    """Return the grid of a seed, or None without --tune; raises FileError where it is wrong."""
    if not config.settings.tune:
        return None
    path = tuning_path(experiment, seed)
    tuning = from_json(Tuning, files.read_json(path), path)
    if set(tuning.loss) != set(config.schedules):
        raise ExperimentError(f"{path} is not of the schedules in config.json")
    if tuning.chosen != choose_peaks(tuning.peaks, tuning.loss):
        raise ExperimentError(f"{path}: the chosen peaks are not those of least loss")
    return tuning


def planned_rates(config: Config, tuning: Tuning | None, label: str) -> list[float] | None:
    """Return the rates that a run of a schedule trains with; None where its grid diverged."""
    if tuning is None:
        return config.schedules[label]
    if label not in tuning.chosen:
        return None
    return scale_to_peak(config.schedules[label], tuning.chosen[label])


def audit_run(
    experiment: Path, config: Config, label: str, seed: int, tuning: Tuning | None = None
) -> Run:
    """Return a finished run whose files agree with each other and with config.json.

    Raises ExperimentError, naming the run and both values, where they do not.
    """
    run = run_directory(experiment, label, seed)
    result = read_result(run)
    if (result.schedule, result.seed) != (label, seed):
        raise ExperimentError(f"{run}: result.json is of {result.schedule} seed {result.seed}")
    compare_conditions(run, result.conditions, config.conditions)
    rates = planned_rates(config, tuning, label)
    if result.rates != rates or result.peak_lr != max(result.rates):
        raise ExperimentError(f"{run}: result.json has other rates than its schedule")
    train, validation = (events.read_scalars(run / side) for side in ("train", "validation"))
    _compare_curve(run, "learning rate", train.get(events.RATE), result.rates)
    curves = {
        "categorical_accuracy": train.get(events.ACCURACY),
        "loss": train.get(events.LOSS),
        "val_categorical_accuracy": validation.get(events.ACCURACY),
        "val_loss": validation.get(events.LOSS),
    }
    for name, curve in curves.items():
        final = getattr(result, name)
        _compare_curve(run, name, curve, [np.nan if final is None else final], len(result.rates))
    outputs = read_outputs(run / VALIDATION, config.data)
    check_means(run / VALIDATION, outputs, result.val_categorical_accuracy, result.val_loss)
    # A rate of 0 throughout leaves the loss of guessing, on either side of it: not diverged.
    classes = len(config.data.class_names) if result.peak_lr > 0 else math.inf
    diverged = is_diverged(result.loss, result.val_loss, classes)
    return Run(result, *curves.values(), outputs, diverged)


def _compare_curve(
    run: Path, name: str, curve: np.ndarray | None, wanted: list[float], epochs: int | None = None
) -> None:
    """Compare the last epochs of a logged curve as float32, which event files hold, exactly."""
    epochs = epochs or len(wanted)
    if curve is None or len(curve) != epochs:
        raise ExperimentError(f"{run}: {name} is not logged for each of its {epochs} epochs")
    for epoch, value in enumerate(np.float32(wanted), start=epochs - len(wanted)):
        if not np.array_equal(curve[epoch], value, equal_nan=True):
            said = f"{name} {curve[epoch]:.6g} was logged, {value:.6g} belongs there"
            raise ExperimentError(f"{run}: epoch {epoch}: {said}")


def compare_conditions(place: Path, found: Conditions, wanted: Conditions) -> None:
    """Raise ExperimentError that names the first condition with two values."""
    for name, value in vars(wanted).items():
        if (other := getattr(found, name)) != value:
            raise ExperimentError(
                f"{place}: its {name} is {other!r}, that of the experiment is {value!r}"
            )


def read_reference(experiment: Path, config: Config) -> Reference | None:
    """Return the reference or None; raises ExperimentError where its two files disagree."""
    path = experiment / REFERENCE
    if not path.exists():
        return None
    outputs = read_outputs(path.with_suffix(".npz"), config.data)
    reference = Reference(**files.read_json(path), outputs=outputs)
    check_means(path, outputs, reference.val_categorical_accuracy, reference.val_loss)
    return reference


def audit(experiment: Path) -> Experiment:
    """Return an experiment with all its finished runs; raises ExperimentError where one fails."""
    config = read_config(experiment)
    found = finished_runs(experiment)
    seeds = {seed for _, seed in found}
    tuning = {seed: read_tuning(experiment, config, seed) for seed in sorted(seeds)}
    runs: dict[str, list[Run]] = {label: [] for label in config.schedules}
    for label, seed in found:
        if label not in runs or seed >= config.settings.seeds:
            place = run_directory(experiment, label, seed)
            raise ExperimentError(f"{place} is not a run of this experiment; move it away")
        runs[label].append(audit_run(experiment, config, label, seed, tuning[seed]))
    if not found:
        way_on = f"train.py --resume {experiment} makes them"
        raise ExperimentError(f"{experiment} does not hold a finished run; {way_on}")
    reference = read_reference(experiment, config)
    runs = {label: of for label, of in runs.items() if of}
    tuning = {seed: of for seed, of in tuning.items() if of}
    return Experiment(experiment, config, runs, reference, tuning)
