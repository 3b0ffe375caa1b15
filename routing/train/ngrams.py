"""Fit the n-gram model with scikit-learn; it is served without (`routing.model.classifier`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routing.model.classifier import NgramModel
from routing.model.features import BUCKETS, buckets, weigh
from routing.train.data import Example

AUTHORED_WEIGHT = 3.0


def fit_ngrams(examples: Sequence[Example], strength: float = 10.0) -> NgramModel:
    """Multinomial logistic regression (C = strength) on tf-idf of hashed n-grams."""
    from sklearn.linear_model import LogisticRegression

    index = [buckets(example.text) for example in examples]
    counts = np.bincount(np.concatenate(index), minlength=BUCKETS)
    # Rounded to what is stored, so that what is served is what was fitted.
    idf = (np.log((1 + len(index)) / (1 + counts)) + 1).astype(np.float16).astype(np.float32)
    weights = [AUTHORED_WEIGHT if example.source == "authored" else 1.0 for example in examples]
    labels = [example.label for example in examples]
    model = LogisticRegression(C=strength, max_iter=400).fit(matrix(index, idf), labels, weights)
    coefficients = model.coef_.astype(np.float16).astype(np.float32)
    return NgramModel(coefficients, model.intercept_.astype(np.float32), idf)


def matrix(index: Sequence[NDArray[np.int64]], idf: NDArray[np.float32]) -> Any:
    """The sparse matrix [texts, BUCKETS] of weighed buckets."""
    from scipy.sparse import csr_matrix

    starts = np.cumsum([0, *(len(row) for row in index)])
    values = np.concatenate([weigh(row, idf) for row in index])
    return csr_matrix((values, np.concatenate(index), starts), shape=(len(index), BUCKETS))
