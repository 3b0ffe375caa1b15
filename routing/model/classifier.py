"""The trained classifier as it is served: n-grams, and a small encoder for what they leave open.

N-grams know the exact words, the encoder words of like meaning. Each model gives the log-odds of high stakes,
ln (1 - P(default)) / P(default). A cascade decides: a text whose n-gram log-odds are beyond `Cascade.lower` or
`upper` is clear, and its probability is a logistic function of them alone; for any other the encoder is run, and the
probability is a logistic function of both (Platt scaling in two variables). All of it is fitted on texts that
neither model was trained on.

A text of at most `SHORT` characters is read whole by the stage `short`. A longer one is read in windows by the stage
`long`, whose n-grams learned how prose differs from a question. The most high-stakes window decides; more windows
have more chances to be wrong, so the logarithm of their number is a variable of the logistic function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from routing.model.features import HashedWords, words
from routing.model.windows import runs, segments
from routing.text.spelling import deobfuscated, unaccented

SHORT = 300
# Windows of one conversation that the encoder reads; the n-grams choose the most suspicious.
ENCODED = 12

Logits = NDArray[np.float64]


class TextModel(Protocol):
    """Texts to logits [texts, classes], the first class being `default`."""

    def logits(self, texts: Sequence[str]) -> Logits: ...


class NgramModel:
    """Logistic regression over hashed n-grams: weights [classes, BUCKETS], bias [classes], idf [BUCKETS]."""

    def __init__(self, weights: NDArray[np.float32], bias: NDArray[np.float32], idf: NDArray[np.float32]) -> None:
        self.weights, self.bias, self.idf = weights, bias, idf
        # One row a bucket: what it adds to each class, and to the squared length.
        self._rows = np.ascontiguousarray(np.concatenate([weights * idf, np.square(idf)[None, :]]).T)

    def logits(self, texts: Sequence[str]) -> Logits:
        """[texts, classes]."""
        return np.array([self.of(HashedWords(words(text)).buckets()) for text in texts]).reshape(-1, len(self.bias))

    def of(self, index: NDArray[np.integer]) -> Logits:
        """[classes] for the distinct buckets of one text."""
        *sums, square = self._rows.take(index, axis=0).sum(axis=0, dtype=np.float64)
        return np.array(sums) / (math.sqrt(square) or 1.0) + self.bias


@dataclass(frozen=True)
class StakesCalibration:
    """P(high stakes) = 1 / (1 + exp(-score)), score = slopes . log-odds + windows * ln(windows) + intercept."""

    slopes: tuple[float, ...]
    intercept: float
    windows: float = 0.0

    def score(self, log_odds: Sequence[float], count: int = 1) -> float:
        """The logit of the probability."""
        terms = sum(slope * odds for slope, odds in zip(self.slopes, log_odds, strict=True))
        return terms + self.windows * math.log(count) + self.intercept


@dataclass(frozen=True)
class Cascade:
    """When the n-grams decide alone: log-odds below `lower`, or above `upper` with the classes `margin` apart."""

    lower: float
    upper: float
    margin: float
    alone: StakesCalibration


@dataclass(frozen=True)
class Stage:
    """How texts of one length are read."""

    ngrams: NgramModel
    both: StakesCalibration | None
    cascade: Cascade | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """Logit of high stakes, and each class's share of it, of one window."""

    score: float
    shares: NDArray[np.float64]

    @property
    def probability(self) -> float:
        """P(high stakes)."""
        return 1.0 / (1.0 + math.exp(-min(60.0, max(-60.0, self.score))))


@dataclass(frozen=True, slots=True)
class Unclear:
    """A window that the encoder is wanted for."""

    text: str
    logits: Logits
    log_odds: float
    stage: Stage
    count: int
    fallback: Estimate | None


@dataclass(slots=True)
class Scan:
    """What the n-grams make of one text."""

    best: Estimate | None
    unclear: list[Unclear]


class Classifier:
    """Texts to calibrated probabilities of the classes with stakes."""

    def __init__(self, short: Stage, long: Stage, encoder: TextModel | None) -> None:
        self._short, self._long, self._encoder = short, long, encoder

    def scan(self, text: str) -> Scan:
        """Let the n-grams read a raw text."""
        scan = Scan(None, [])
        whole = spelled_out(text) if len(text) <= 4 * SHORT else None
        if whole is None or len(whole) > SHORT:
            self._scan_windows(text, scan)
        elif whole:
            self._read(whole, HashedWords(words(whole)).buckets(), self._short, 1, scan)
        return scan

    def _scan_windows(self, text: str, scan: Scan) -> None:
        """Every sentence is spelled out and hashed once, though windows overlap."""
        parts = segments(text)
        spelled = [spelled_out(part) for part in parts]
        tokens = [words(part) for part in spelled]
        hashed = HashedWords(list(chain.from_iterable(tokens)))
        starts = list(accumulate(map(len, tokens), initial=0))
        windows = list(runs(parts))
        for start, end in windows:
            index = hashed.buckets(starts[start], starts[end])
            if len(index):
                self._read(" ".join(spelled[start:end]), index, self._long, len(windows), scan)

    def finish(self, scans: Sequence[Scan]) -> list[Estimate | None]:
        """Each text's most high-stakes estimate, the encoder having read what is unclear; None: nothing to read."""
        waiting = sorted(
            ((each, number) for number, scan in enumerate(scans) for each in scan.unclear),
            key=lambda entry: -entry[0].log_odds,
        )
        best = [scan.best for scan in scans]
        for rank, (each, number) in enumerate(waiting):
            estimate = self._encode(each) if rank < ENCODED else each.fallback
            best[number] = _higher(best[number], estimate)
        return best

    def _read(self, part: str, index: NDArray[np.uint16], stage: Stage, count: int, scan: Scan) -> None:
        logits = stage.ngrams.of(index)
        odds = log_odds(logits)
        cascade = stage.cascade
        alone = None if cascade is None else Estimate(cascade.alone.score([odds], count), shares_of(logits))
        if alone is not None and (self._encoder is None or _is_clear(stage.cascade, odds, logits)):
            scan.best = _higher(scan.best, alone)
        else:
            scan.unclear.append(Unclear(part, logits, odds, stage, count, alone))

    def _encode(self, unclear: Unclear) -> Estimate:
        assert self._encoder is not None
        assert unclear.stage.both is not None
        logits = self._encoder.logits([unclear.text])[0]
        score = unclear.stage.both.score([log_odds(logits), unclear.log_odds], unclear.count)
        return Estimate(score, shares_of(logits + unclear.logits))


def spelled_out(text: str) -> str:
    """A raw text as the models read it: on one line, in lower case, undisguised, without accents."""
    return unaccented(deobfuscated(text))


def log_odds(logits: Logits) -> float:
    """ln (1 - P(default)) / P(default) of one text's logits."""
    return float(np.logaddexp.reduce(logits[1:]) - logits[0])


def shares_of(logits: Logits) -> NDArray[np.float64]:
    """P(class | high stakes) of each class but the first."""
    stakes = np.exp(logits[1:] - logits[1:].max())
    return np.asarray(stakes / stakes.sum())


def _is_clear(cascade: Cascade | None, odds: float, logits: Logits) -> bool:
    if cascade is None:
        return False
    if odds <= cascade.upper or len(logits) == 2:
        return odds < cascade.lower or odds > cascade.upper
    second, first = np.partition(logits[1:], -2)[-2:]
    return bool(first - second >= cascade.margin)


def _higher(one: Estimate | None, other: Estimate | None) -> Estimate | None:
    if one is None or other is None:
        return one or other
    return one if one.score >= other.score else other
