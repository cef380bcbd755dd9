"""The reference: logistic regression on the same features, solved to convergence by scikit-learn.

With the backbone frozen, a softmax on its features is a convex problem whose solution needs no
learning rate. It is a reference and not a bound: a head that stops early may do better.
"""

from typing import Any

import numpy as np
from scipy.special import log_softmax

from features.shards import Samples
from storage.results import MOST_REFERENCE_IMAGES, Outputs, Reference

# C, the inverse of the strength of L2 regularisation, in the order in which it is tried.
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
NEAR = 1.01  # times the least loss of all strengths: the strongest one as near as this is chosen
CHOOSING = 6_000  # training images that choose C
# Ten times that puts strengths in the right order but does not converge (digits: loss 0.237).
TOLERANCE = 1e-4


def solve_reference(samples: Samples) -> Reference:
    """Return the reference on cached features; a task for an executor.

    C is chosen on training images, by two folds, and belongs to the features as they are. Of more
    than MOST_REFERENCE_IMAGES as many are drawn at random, but always the same.
    """
    values, labels = samples.rows.map(), samples.labels
    train = np.random.default_rng(0).permutation(samples.train)
    # An image of each class comes first, so that the limit loses no class.
    first = np.unique(labels[train], return_index=True)[1]
    train = np.concatenate([train[first], np.delete(train, first)])[:MOST_REFERENCE_IMAGES]
    x, y = values[train], labels[train]
    # The same problem in a third of the iterations: the intercept is not regularised, and C scales.
    centre = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    x -= centre
    scale = float(x.std(dtype=np.float64))
    x /= scale
    C = _choose_strength(x[:CHOOSING], y[:CHOOSING], scale)
    solver = _solver(TOLERANCE).set_params(C=C * scale**2).fit(x, y)
    rows = samples.validation
    outputs = _predict(solver, (values[rows] - centre) / scale, labels[rows])
    accuracy = float(np.mean(outputs.predicted == outputs.label))
    return Reference(C, accuracy, float(outputs.loss.mean(dtype=np.float64)), outputs)


def _choose_strength(x: np.ndarray, y: np.ndarray, scale: float) -> float:
    """Return the strongest regularisation whose cross-validated loss is near the least."""
    # Every other image in the order of classes, without classes of one image.
    order = np.argsort(y, kind="stable")
    order = order[np.bincount(y)[y[order]] > 1]
    if len(np.unique(y[order])) < 2:
        return 1.0  # scikit-learn's default
    halves = order[::2], order[1::2]
    solvers = [_solver(10 * TOLERANCE) for _ in halves]
    losses: dict[float, float] = {}
    for C in STRENGTHS:
        losses[C] = 0
        for solver, fitted, held_out in zip(solvers, halves, halves[::-1], strict=True):
            solver.set_params(C=C * scale**2).fit(x[fitted], y[fitted])
            losses[C] += _predict(solver, x[held_out], y[held_out]).loss.mean() / 2
        if losses[C] > min(losses.values()):
            break
    return next(C for C in losses if losses[C] <= NEAR * min(losses.values()))


def _solver(tolerance: float) -> Any:
    # Takes a second to import, which other threads can use.
    from sklearn.linear_model import LogisticRegression

    # Each fit starts from the one before.
    return LogisticRegression(tol=tolerance, max_iter=10_000, warm_start=True)


def _predict(solver: Any, x: np.ndarray, label: np.ndarray) -> Outputs:
    scores = solver.decision_function(x)
    if scores.ndim == 1:  # two classes
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    column = np.searchsorted(solver.classes_, label)
    loss = -log_softmax(scores, axis=1)[np.arange(len(label)), column]
    # Older releases of scikit-learn answer in float64.
    return Outputs(solver.classes_[scores.argmax(axis=1)], label, loss.astype(np.float32))
