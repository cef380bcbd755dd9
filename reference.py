"""The reference: logistic regression on the same features, solved to convergence by scikit-learn.

With the backbone frozen, a softmax on its features is a convex problem, so its solution does not
depend on a learning rate. It is a reference and not a bound: the regularisation that is chosen here
fits the validation images well, not best, and a head that stops early may do better.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from results import Outputs, Reference

# C, the inverse of the strength of L2 regularisation, tried in this order.
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
# A weaker regularisation must lower the loss by this part: the folds hold fewer images than are
# fitted in the end, and would prefer it for gains that do not last.
GAIN = 0.01
FOLDS = 2
FOLD_IMAGES = 6_000  # training images that choose C
IMAGES = 20_000  # training images that are fitted, so that time and memory stay bounded
# Of the gradient. At 1e-3 the fit has not converged (digits: loss 0.237 instead of 0.223), but the
# order of the strengths is the same.
TOLERANCE, FOLD_TOLERANCE = 1e-4, 1e-3


@dataclass(frozen=True)
class ReferenceTask:
    """What the reference is solved from: a file of features (N, 1280), and rows of it."""

    directory: Path  # of the features
    shape: tuple[int, int]
    labels: np.ndarray  # (N,) int
    train: np.ndarray  # rows
    validation: np.ndarray


def solve_reference(task: ReferenceTask) -> Reference:
    """Return the reference on mapped features; a task for an executor."""
    # Reports read IMAGES from here, and need none of what features.py imports.
    import features

    values = features.map_features(task.directory, task.shape)
    return fit_reference(values, task.labels, task.train, task.validation)


def fit_reference(
    values: np.ndarray, labels: np.ndarray, train: np.ndarray, validation: np.ndarray
) -> Reference:
    """Return the logistic regression on features (N, 1280), and what it says of validation rows.

    C is chosen by stratified folds of training rows. At most IMAGES training rows are used, drawn
    at random but always the same. C belongs to the features as they are.
    """
    # Takes a second to import, and reports do without.
    from scipy.special import log_softmax
    from sklearn.linear_model import LogisticRegression

    train = np.random.default_rng(0).permutation(train)
    # An image of each class comes first, so that none is lost by the limit.
    first = np.unique(labels[train], return_index=True)[1]
    train = np.concatenate([train[first], np.delete(train, first)])[:IMAGES]
    x, y = values[train], labels[train]
    # The same problem, because the intercept is not regularised and C scales; solved in a third of
    # the iterations.
    centre = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    x -= centre
    scale = float(x.std(dtype=np.float64)) or 1.0
    x /= scale
    C = _choose_strength(x[:FOLD_IMAGES], y[:FOLD_IMAGES], scale)
    fit = LogisticRegression(C=C * scale**2, tol=TOLERANCE, max_iter=10_000).fit(x, y)

    scores = fit.decision_function((values[validation] - centre) / scale)
    if scores.ndim == 1:  # two classes
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    label = labels[validation].astype(np.int32)
    column = np.searchsorted(fit.classes_, label)
    loss = -log_softmax(scores, axis=1)[np.arange(len(label)), column]
    predicted = fit.classes_[scores.argmax(axis=1)].astype(np.int32)
    outputs = Outputs(predicted, label, loss.astype(np.float32))
    accuracy = float(np.mean(predicted == label))
    return Reference(C, accuracy, float(outputs.loss.mean(dtype=np.float64)), outputs)


def _choose_strength(x: np.ndarray, y: np.ndarray, scale: float) -> float:
    """Return the first strength after which the cross-validated loss hardly falls."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold

    # A class of a single image cannot be in both folds.
    rows = np.isin(y, np.flatnonzero(np.bincount(y) >= FOLDS))
    x, y = x[rows], y[rows]
    if len(np.unique(y)) < 2:
        return 1.0  # scikit-learn's default
    folds = list(StratifiedKFold(FOLDS).split(x, y))
    # Each fold goes on from the solution for the strength before.
    fits = [LogisticRegression(tol=FOLD_TOLERANCE, warm_start=True, max_iter=1_000) for _ in folds]
    best, least = STRENGTHS[0], np.inf
    for C in STRENGTHS:
        of_folds = []
        for fit, (train, held_out) in zip(fits, folds):
            fit.set_params(C=C * scale**2).fit(x[train], y[train])
            of_folds.append(log_loss(y[held_out], fit.predict_proba(x[held_out])))
        if np.mean(of_folds) > (1 - GAIN) * least:
            break
        best, least = C, np.mean(of_folds)
    return best
