"""Choose thresholds on the validation side, and measure on sides that nothing was chosen on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routing.model.classifier import Logits
from routing.train.data import Example

# A source says something about a false-positive rate of a few per cent from this many texts without stakes; below
# that, a handful of texts of one authored theme would set the threshold for everybody.
ENOUGH = 200

# Where a small data set is told apart without a mistake, any threshold holds the rate; one near 0 would send every
# text that is worded differently to high stakes.
LEAST_THRESHOLD = 0.1


def odds_of(logits: Logits) -> NDArray[np.float64]:
    """ln (1 - P(default)) / P(default) of each row."""
    odds: NDArray[np.float64] = np.logaddexp.reduce(logits[:, 1:], axis=1) - logits[:, 0]
    return odds


def choose_threshold(
    probabilities: NDArray[np.float64], examples: Sequence[Example], false_positive_rate: float
) -> float:
    """The lowest threshold that holds the rate on every source with ENOUGH calm texts, or on all of them together."""
    calm = labels(examples) == 0
    sources = np.array([example.source for example in examples])
    of_sources = [probabilities[calm & (sources == source)] for source in sorted(set(sources))]
    groups = [each for each in of_sources if len(each) >= ENOUGH] or [probabilities[calm]]
    needed = max(
        LEAST_THRESHOLD, *(float(np.quantile(each, 1 - false_positive_rate, method="higher")) for each in groups)
    )
    # Just above the text that sits on the limit; four decimals are what a person would write.
    return min(1.0, float(np.ceil(needed * 1e4 + 1)) / 1e4)


def measure(probabilities: NDArray[np.float64], examples: Sequence[Example], threshold: float) -> dict[str, Any]:
    """Recall and false-positive rate of high stakes, by source, with 95 % Wilson intervals."""
    flagged = probabilities >= threshold
    high = labels(examples) > 0
    by_source = {}
    sources = np.array([example.source for example in examples])
    for source in sorted(set(sources)):
        here = sources == source
        by_source[source] = {
            "recall": rate(flagged[here & high]),
            "false_positive_rate": rate(flagged[here & ~high]),
            "recall_at_5_percent": recall_at(probabilities[here & high], probabilities[here & ~high], 0.05),
        }
    return by_source


def rate(hits: NDArray[np.bool_]) -> dict[str, Any] | None:
    """Share of hits with its 95 % Wilson interval and the count, or None of nothing."""
    from scipy.stats import binomtest

    if not len(hits):
        return None
    low, high = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return {
        "value": round(float(hits.mean()), 4),
        "ci": [round(float(low), 4), round(float(high), 4)],
        "n": len(hits),
    }


def recall_at(high: NDArray[np.float64], calm: NDArray[np.float64], false_positive_rate: float) -> float | None:
    """Recall at the lowest threshold whose false-positive rate on these texts is at most the given one."""
    if not len(high) or not len(calm):
        return None
    limit = np.quantile(calm, 1 - false_positive_rate, method="higher")
    return round(float((high > limit).mean()), 4)


def calibration_error(probabilities: NDArray[np.float64], examples: Sequence[Example]) -> dict[str, float]:
    """Brier score and expected calibration error over ten equal-width bins."""
    truth = (labels(examples) > 0).astype(float)
    bins = np.minimum((probabilities * 10).astype(int), 9)
    gaps = [
        (bins == b).mean() * abs(probabilities[bins == b].mean() - truth[bins == b].mean())
        for b in range(10)
        if (bins == b).any()
    ]
    return {
        "ece": round(float(sum(gaps)), 4),
        "brier": round(float(np.mean((probabilities - truth) ** 2)), 4),
    }


def latency(answer: Callable[[str], object], texts: Sequence[str]) -> dict[str, float]:
    """Milliseconds a text, one at a time: p50, p95; and processor time, which other programs do not add to."""
    for text in texts[:20]:
        answer(text)
    taken, started = [], time.process_time()
    for text in texts:
        start = time.perf_counter()
        answer(text)
        taken.append(1000 * (time.perf_counter() - start))
    busy = 1000 * (time.process_time() - started) / len(texts)
    p50, p95 = np.percentile(taken, [50, 95])
    return {"p50_ms": round(float(p50), 2), "p95_ms": round(float(p95), 2), "cpu_ms": round(busy, 2)}


def labels(examples: Sequence[Example]) -> NDArray[np.int64]:
    """Labels as an array."""
    return np.array([example.label for example in examples], dtype=np.int64)
