"""The reference is scikit-learn's solution, found with one thread; what is kept of it is believed if it is whole."""

import json

import numpy as np
import pytest
import threadpoolctl
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

import model
import reference

N = 300
TRAIN, VALIDATION = np.arange(200), np.arange(200, N)


@pytest.fixture
def a_set(tmp_path):
    """`(directory, shape, labels)` of features with three classes that overlap a little."""
    random = np.random.default_rng(0)
    labels = random.permutation(np.arange(N, dtype=np.int32) % 3)
    values = np.zeros((N, model.FEATURES), np.float32)
    values[:, :5] = random.standard_normal((N, 5), np.float32)
    values[np.arange(N), labels] += 1
    values.tofile(tmp_path / "features.f32")
    return tmp_path, values.shape, labels


def found(a_set, fingerprint="0" * 64):
    return reference.reference(*a_set, TRAIN, VALIDATION, fingerprint)


def test_it_is_what_scikit_learn_says_of_the_validation_images(a_set):
    directory, shape, labels = a_set
    values = np.fromfile(directory / "features.f32", np.float32).reshape(shape)
    result = found(a_set)
    assert result["C"] in reference.STRENGTHS
    fit = LogisticRegression(C=result["C"], tol=1e-6, max_iter=10_000).fit(values[TRAIN], labels[TRAIN])
    loss = log_loss(labels[VALIDATION], fit.predict_proba(values[VALIDATION]))
    assert result["val_loss"] == pytest.approx(loss, rel=0.01)
    assert result["val_categorical_accuracy"] == fit.score(values[VALIDATION], labels[VALIDATION]) > 0.5


def test_every_fit_has_one_thread_whatever_was_set_before(a_set, monkeypatch):
    threads = []
    real = LogisticRegression.fit

    def fit(self, *arguments):
        threads.extend(pool["num_threads"] for pool in threadpoolctl.threadpool_info())
        return real(self, *arguments)

    monkeypatch.setattr(LogisticRegression, "fit", fit)
    with threadpoolctl.threadpool_limits(2):
        found(a_set)
        assert set(threads) == {1}
        assert {pool["num_threads"] for pool in threadpoolctl.threadpool_info()} == {2}


def test_it_is_found_once_for_the_same_data_and_settings(a_set, monkeypatch):
    first = found(a_set)
    monkeypatch.setattr(LogisticRegression, "fit", None)
    assert found(a_set) == first
    with pytest.raises(TypeError):
        found(a_set, "1" * 64)
    monkeypatch.setattr(reference, "FOLDS", 2)
    with pytest.raises(TypeError):
        found(a_set)


@pytest.mark.parametrize("damage", ["0.5", "half", "list", "empty", "unsigned"])
def test_what_is_kept_but_damaged_is_made_again(a_set, damage):
    first = found(a_set)
    (path,) = a_set[0].glob("reference-*.json")
    whole = path.read_text()
    damaged = {
        "0.5": json.dumps({**json.loads(whole), "val_loss": 0.5}),
        "half": whole[: len(whole) // 2],
        "list": "[1]",
        "empty": "",
        "unsigned": json.dumps(dict(list(json.loads(whole).items())[:3])),
    }[damage]
    path.write_text(damaged)
    assert found(a_set) == first
    assert path.read_text() == whole
