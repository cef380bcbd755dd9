"""What any schedule could reach at best: logistic regression on the same features.

With the backbone frozen, a softmax on its features is a convex problem. scikit-learn solves it to within TOLERANCE, so
its validation accuracy and loss tell how much is left to gain by a better schedule.
"""

import contextlib
import importlib.metadata
from pathlib import Path

import logs
import numpy as np
import threadpoolctl

import features

STRENGTHS = (
    0.0001,
    0.001,
    0.01,
    0.1,
    1,
    10,
    100,
)  # C, the inverse of L2 regularisation, tried from the first on
FOLDS = 3
SAMPLE = (
    3000  # training images that choose C; C is the prior's variance, so it holds for all of them
)
TOLERANCE = (
    1e-3  # of the gradient; at 1e-4 the fit takes four times as long and the loss falls by 0.001
)


def reference(directory, shape, labels, train, validation, fingerprint):
    """Return `{"val_categorical_accuracy", "val_loss", "C"}` of the logistic regression, kept beside the features.

    `labels` (N,) of all rows, `train` and `validation` the rows of each side. C is chosen by cross-validated log loss
    on training rows only: the first of STRENGTHS after which it gets worse.
    """
    version = importlib.metadata.version("scikit-learn")
    wanted = [fingerprint, STRENGTHS, FOLDS, SAMPLE, TOLERANCE, version]
    path = Path(directory) / f"reference-{logs.json_sha256(wanted)[:16]}.json"
    with contextlib.suppress(logs.ExperimentError):  # made again, and written over
        kept = logs.read_json(path)
        if kept.pop("sha256", None) == logs.json_sha256(kept):
            return kept
    result = _fitted(features.mapped(directory, shape), labels, train, validation)
    with contextlib.suppress(
        OSError
    ):  # features may lie on a full disk, or where nothing can be written
        logs.write_json(path, {**result, "sha256": logs.json_sha256(result)})
    return result


def _fitted(values, labels, train, validation):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    # Set now, when every library that has threads is loaded: they would wait for each other while other cores train.
    with threadpoolctl.threadpool_limits(1):
        strength = _best_strength(
            values, labels, np.random.default_rng(0).permutation(train)[:SAMPLE]
        )
        fit = LogisticRegression(C=strength, tol=TOLERANCE, max_iter=1000).fit(
            values[train], labels[train]
        )
        probabilities = fit.predict_proba(values[validation])
    accuracy = np.mean(fit.classes_[probabilities.argmax(1)] == labels[validation])
    loss = log_loss(labels[validation], probabilities, labels=fit.classes_)
    return {
        "val_categorical_accuracy": float(accuracy),
        "val_loss": float(loss),
        "C": float(strength),
    }


def _best_strength(values, labels, rows):
    """The C with the least cross-validated log loss on these rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    # A class of one or two images cannot be in every fold; it does not help to choose C either.
    rows = rows[np.isin(labels[rows], np.flatnonzero(np.bincount(labels[rows]) >= FOLDS))]
    if len(np.unique(labels[rows])) < 2:
        return 1.0  # scikit-learn's default
    x, y = values[rows], labels[rows]
    best, best_score = STRENGTHS[0], -np.inf
    for strength in STRENGTHS:
        fit = LogisticRegression(C=strength, tol=TOLERANCE, max_iter=1000)
        score = cross_val_score(fit, x, y, cv=StratifiedKFold(FOLDS), scoring="neg_log_loss").mean()
        if score <= best_score:
            break
        best, best_score = strength, score
    return best
