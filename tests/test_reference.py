"""The reference: the converged solution of scikit-learn, with C chosen on training images."""

import concurrent.futures
import pickle

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

import reference
from features import Samples

N, WIDTH = 600, 1280
TRAIN, VALIDATION = np.arange(400), np.arange(400, N)


def make_features(classes, seed=0):
    """Return features (N, 1280) that are not centred, and labels of classes that overlap."""
    random = np.random.default_rng(seed)
    labels = (np.arange(N) % classes).astype(np.int32)
    values = np.abs(random.standard_normal((N, WIDTH), np.float32)) + 1
    values[np.arange(N), labels] += 1.5
    return values, labels


def solve(folder, values, labels, train, validation):
    """Write features to a file and solve the reference as a task of an executor."""
    values.tofile(folder / "features.f32")
    samples = Samples(folder, labels, int(labels.max()) + 1, train, validation)
    function, samples = pickle.loads(pickle.dumps((reference.solve_reference, samples)))
    with concurrent.futures.ThreadPoolExecutor() as executor:
        return executor.submit(function, samples).result()


@pytest.mark.parametrize("classes", [2, 3])
def test_it_is_the_solution_of_the_original_problem(tmp_path, classes):
    values, labels = make_features(classes)
    found = solve(tmp_path, values, labels, TRAIN, VALIDATION)
    solved = LogisticRegression(C=found.C, tol=1e-8, max_iter=100_000)
    solved.fit(values[TRAIN].astype(np.float64), labels[TRAIN])
    probabilities = solved.predict_proba(values[VALIDATION])
    assert found.val_loss == pytest.approx(log_loss(labels[VALIDATION], probabilities), rel=5e-3)
    agreement = np.mean(found.outputs.predicted == solved.predict(values[VALIDATION]))
    assert agreement >= 0.99
    assert 1.2 / classes < found.val_categorical_accuracy < 1


def test_its_outputs_are_of_every_validation_image_in_order(tmp_path):
    values, labels = make_features(3)
    outputs = solve(tmp_path, values, labels, TRAIN, VALIDATION[::-1]).outputs
    assert outputs.label.tolist() == labels[VALIDATION[::-1]].tolist()
    found = solve(tmp_path, values, labels, TRAIN, VALIDATION)
    assert outputs.predicted.tolist() == found.outputs.predicted[::-1].tolist()
    assert [array.dtype for array in vars(outputs).values()] == [np.int32, np.int32, np.float32]
    assert found.val_loss == outputs.loss.mean(dtype=np.float64)
    assert found.val_categorical_accuracy == np.mean(outputs.predicted == outputs.label)


def test_validation_images_do_not_touch_the_choice(tmp_path):
    values, labels = make_features(3)
    found = solve(tmp_path, values, labels, TRAIN, VALIDATION)
    labels[VALIDATION] = np.random.default_rng(1).permutation(labels[VALIDATION])
    again = solve(tmp_path, values, labels, TRAIN, VALIDATION)
    assert found.C == again.C
    assert found.outputs.predicted.tolist() == again.outputs.predicted.tolist()


def test_c_is_the_one_with_the_least_loss_on_new_images(tmp_path):
    values, labels = make_features(3)
    found = solve(tmp_path, values, labels, TRAIN, VALIDATION)
    losses = {}
    for C in reference.STRENGTHS:
        solved = LogisticRegression(C=C, max_iter=1000).fit(values[TRAIN], labels[TRAIN])
        losses[C] = log_loss(labels[VALIDATION], solved.predict_proba(values[VALIDATION]))
    assert losses[found.C] < 1.02 * min(losses.values())


@pytest.mark.parametrize("counts", [[399, 1], [1, 1], [2, 1], [300, 99, 1]])
def test_classes_of_a_single_training_image(tmp_path, counts):
    values, labels = make_features(len(counts))
    train = np.concatenate(
        [np.flatnonzero(labels[:400] == label)[:count] for label, count in enumerate(counts)]
    )
    found = solve(tmp_path, values, labels, train, VALIDATION)
    assert np.isfinite(found.outputs.loss).all()


def test_many_training_images_are_reduced_without_losing_a_class(tmp_path, monkeypatch):
    values, labels = make_features(3)
    labels[:400] = 0
    labels[[7, 8]] = 1, 2
    monkeypatch.setattr(reference, "MOST_REFERENCE_IMAGES", 50)
    found = solve(tmp_path, values, labels, TRAIN, VALIDATION)
    assert np.isfinite(found.outputs.loss).all()
    values[100:400] = 0
    monkeypatch.setattr(reference, "MOST_REFERENCE_IMAGES", 400)
    assert solve(tmp_path, values, labels, TRAIN, VALIDATION).val_loss != found.val_loss
