"""Other ways to build a router, measured exactly as the router is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routing.model.features import buckets
from routing.train.curves import fit_curve
from routing.train.data import Example, load, on
from routing.train.evaluate import choose_threshold, labels, measure, odds_of
from routing.train.ngrams import AUTHORED_WEIGHT, fit_ngrams, matrix
from routing.train.run import FALSE_POSITIVE_RATE


def compare_ways(data: Path, base: Path, hold_out_phrasing: bool) -> list[dict[str, Any]]:
    """N-grams, the whole encoder's frozen vectors, and both, each under logistic regression: one row each.

    Each is calibrated, given its threshold and measured exactly as the router is.
    """
    from scipy.sparse import csr_matrix, hstack

    from routing.train.distil import teacher_vectors

    examples = load(data, hold_out_phrasing).examples
    vectors = csr_matrix(3.0 * teacher_vectors(base, [example.text for example in examples]))
    ngrams = fit_ngrams(on("train", examples))
    grams = matrix([buckets(example.text) for example in examples], ngrams.idf)
    candidates = {"n-grams": grams, "MiniLM": vectors, "MiniLM and n-grams": hstack([vectors, grams]).tocsr()}
    return [{"model": name, **_frozen_row(features, examples)} for name, features in candidates.items()]


def _frozen_row(features: Any, examples: Sequence[Example]) -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression

    sides = np.array([example.side for example in examples])
    weights = np.array([AUTHORED_WEIGHT if example.source == "authored" else 1.0 for example in examples])
    fit = sides == "train"
    model = LogisticRegression(C=10.0, max_iter=400).fit(features[fit], labels(examples)[fit], weights[fit])

    def odds(side: str) -> NDArray[np.float64]:
        return odds_of(np.asarray(model.decision_function(features[sides == side])))

    validation = on("validation", examples)
    calibration = fit_curve(odds("validation")[:, None], labels(validation) > 0)

    def stakes(side: str) -> NDArray[np.float64]:
        return np.asarray(1 / (1 + np.exp(-(calibration.slopes[0] * odds(side) + calibration.intercept))))

    threshold = choose_threshold(stakes("validation"), validation, FALSE_POSITIVE_RATE)
    return _sides(stakes, examples, threshold)


def _sides(
    stakes: Callable[[str], NDArray[np.float64]], examples: Sequence[Example], threshold: float
) -> dict[str, Any]:
    """Measures of the test side and, where there is one, of the unseen side."""
    figures: dict[str, Any] = {"threshold": threshold}
    for side in ("test", "unseen"):
        these = [example for example in examples if example.side == side]
        if these:
            figures[side] = measure(stakes(side), these, threshold)
    return figures
