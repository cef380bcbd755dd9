"""The reference: the converged solution of scikit-learn, with C chosen on training images."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from features.shards import Rows, Samples, Store
from training import reference

TRAIN, VALIDATION = np.split(np.arange(600), [400])


def make_features(classes):
    """Return features (600, 1280) that are not centred, and labels of classes that overlap."""
    labels = np.arange(600, dtype=np.int32) % classes
    values = np.abs(np.random.default_rng(0).standard_normal((600, 1280), np.float32)) + 1
    values[np.arange(600), labels] += 1.5
    return values, labels


def solve(folder, values, labels, train, validation):
    """Write features to a file and return their reference."""
    values.tofile(folder / "features.f32")
    samples = Samples(
        Rows(Store(folder, (1280,)), len(values)), labels, int(labels.max()) + 1, train, validation
    )
    return reference.solve_reference(samples)


@pytest.mark.parametrize("classes", [2, 3])
def test_it_is_the_solution_of_the_original_problem(tmp_path, classes):
    values, labels = make_features(classes)
    rows = VALIDATION[::-1]  # The outputs are in this order, too.
    solution = solve(tmp_path, values, labels, TRAIN, rows)
    solver = LogisticRegression(C=solution.C, tol=1e-8, max_iter=100_000)
    solver.fit(values[TRAIN].astype(np.float64), labels[TRAIN])
    loss = log_loss(labels[rows], solver.predict_proba(values[rows]))
    assert solution.val_loss == pytest.approx(loss, rel=5e-3)
    assert 1.2 / classes < solution.val_categorical_accuracy < 1
    outputs = solution.outputs
    assert [array.dtype for array in vars(outputs).values()] == [np.int32, np.int32, np.float32]
    assert outputs.label.tolist() == labels[rows].tolist()
    assert np.mean(outputs.predicted == solver.predict(values[rows])) >= 0.99
    assert solution.val_loss == outputs.loss.mean(dtype=np.float64)
    assert solution.val_categorical_accuracy == np.mean(outputs.predicted == outputs.label)


def test_training_images_alone_choose_the_c_of_least_loss_on_new_images(tmp_path):
    values, labels = make_features(3)
    solution, losses = solve(tmp_path, values, labels, TRAIN, VALIDATION), {}
    for C in reference.STRENGTHS:
        solver = LogisticRegression(C=C, max_iter=1000).fit(values[TRAIN], labels[TRAIN])
        losses[C] = log_loss(labels[VALIDATION], solver.predict_proba(values[VALIDATION]))
    assert losses[solution.C] < 1.02 * min(losses.values())
    labels[VALIDATION] = np.random.default_rng(1).permutation(labels[VALIDATION])
    again = solve(tmp_path, values, labels, TRAIN, VALIDATION)
    assert solution.C == again.C
    assert solution.outputs.predicted.tolist() == again.outputs.predicted.tolist()


@pytest.mark.parametrize("counts", [[399, 1], [1, 1], [2, 1], [300, 99, 1]])
def test_classes_of_a_single_training_image(tmp_path, counts):
    values, labels = make_features(len(counts))
    train = [np.flatnonzero(labels[:400] == label)[:n] for label, n in enumerate(counts)]
    solution = solve(tmp_path, values, labels, np.concatenate(train), VALIDATION)
    assert np.isfinite(solution.outputs.loss).all()


def test_many_training_images_are_reduced_without_losing_a_class(tmp_path, monkeypatch):
    values, labels = make_features(3)
    labels[:400] = 0
    labels[[7, 8]] = 1, 2
    unlimited = solve(tmp_path, values, labels, TRAIN, VALIDATION)
    monkeypatch.setattr(reference, "MOST_REFERENCE_IMAGES", 50)
    limited = solve(tmp_path, values, labels, TRAIN, VALIDATION)
    assert np.isfinite(limited.outputs.loss).all() and limited.val_loss != unlimited.val_loss
