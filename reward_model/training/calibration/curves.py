"""Fitting a curve from score to probability: Platt's sigmoid or an isotonic step line."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reward_model.calibration import Curve
from reward_model.errors import BadInput

Floats = NDArray[np.float64]
Method = Literal["platt", "isotonic"]


class Platt(NamedTuple):
    """p = 1 / (1 + exp(-(slope * score + intercept)))."""

    slope: float
    intercept: float

    def probability(self, scores: Floats) -> Floats:
        """Probability of the event for each score."""
        return np.asarray(1 / (1 + np.exp(-np.clip(self.slope * scores + self.intercept, -500, 500))))


def fit_platt(scores: Floats, labels: Floats) -> Platt:
    """Logistic regression of smoothed labels on the score (Platt, 1999; Lin, Lin and Weng, 2007).

    The targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2) keep a separable set from an infinite slope. A soft
    target t is given to scikit-learn as one positive of weight t and one negative of weight 1 - t.
    """
    from sklearn.linear_model import LogisticRegression

    positives = labels.sum()
    high, low = (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2)
    targets = np.where(labels > 0.5, high, low)
    mean, spread = scores.mean(), scores.std()
    if spread <= 1e-12 * abs(mean):
        # Equal scores tell nothing: the base rate is all that there is.
        rate = targets.mean()
        return Platt(0.0, float(np.log(rate / (1 - rate))))
    # Of two parameters Newton's method takes a few steps, if the scores are centred; a bootstrap fits thousands.
    centred = (scores - mean) / spread
    regression = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000, solver="newton-cholesky")
    regression.fit(
        np.concatenate([centred, centred])[:, None],
        np.repeat([1, 0], len(scores)),
        sample_weight=np.concatenate([targets, 1 - targets]),
    )
    slope = regression.coef_[0, 0] / spread
    return Platt(float(slope), float(regression.intercept_[0] - slope * mean))


def fit_curve(method: Method, scores: Floats, labels: Floats) -> Curve:
    """A curve in which a higher score never means a lower probability; BadInput where the labels say otherwise."""
    count, positives = len(labels), int(labels.sum())
    if method == "platt":
        fit = fit_platt(scores, labels)
        if fit.slope <= 0:
            raise BadInput(
                f"the fitted slope is {fit.slope:.3f}: a higher score would mean a less acceptable reply. "
                "These labels and this model disagree; a calibrator cannot mend that"
            )
        return Curve(method="platt", slope=fit.slope, intercept=fit.intercept, labels=count, positives=positives)
    x, y = fit_isotonic(scores, labels)
    if y[0] >= y[-1]:
        raise BadInput(
            f"the isotonic fit is flat at {y[0]:.3f}: higher scores are not more acceptable. "
            "These labels and this model disagree; a calibrator cannot mend that"
        )
    return Curve(method="isotonic", x=x, y=y, labels=count, positives=positives)


def fit_isotonic(scores: Floats, labels: Floats) -> tuple[list[float], list[float]]:
    """Knots (x, y) of the rising line closest to the labels in squares (Zadrozny and Elkan, 2002)."""
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, increasing=True, out_of_bounds="clip").fit(scores, labels)
    return fitted.X_thresholds_.tolist(), fitted.y_thresholds_.tolist()
