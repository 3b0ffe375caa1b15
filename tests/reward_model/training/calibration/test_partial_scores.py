"""What partial scores are worth, on made-up candidates whose slope and noise are known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from reward_model.labels import LabelledReply
from reward_model.text.formatting import Formatter
from reward_model.training.calibration.partial_scores import measure_partial, score_partial

PROMPTS, N = 200, 4


def made(prompts: int = PROMPTS) -> tuple[list[LabelledReply], np.ndarray, np.ndarray]:
    """Replies, final scores 3 * prompt + 0.5 * partial + noise of 0.3, and partial scores at 32 tokens."""
    random = np.random.default_rng(0)
    partial = random.normal(size=prompts * N) * 2
    hard = np.repeat(random.normal(size=prompts) * 3, N)
    scores = hard + 0.5 * partial + random.normal(size=prompts * N) * 0.3
    # A prompt's difficulty shows in the partial score too.
    return replies(prompts), scores, partial + hard


def replies(prompts: int) -> list[LabelledReply]:
    return [
        LabelledReply(
            id=f"{p}-{i}",
            prompt=[{"role": "user", "content": f"question {p}"}],
            completion=f"reply {i} to question {p}, which goes on for a while",
            acceptable=i == 0,
            annotator="a",
            label="authored",
            bucket="billing",
            selection={"n": N, "rank": None, "policy": "tiny", "temperature": 0.8},
            source="test",
            group=f"g{p}",
        )
        for p in range(prompts)
        for i in range(N)
    ]


def test_slope_and_noise_are_found_within_prompts() -> None:
    rows, scores, partial = made()
    known = measure_partial(rows, scores, {32: partial})
    assert known is not None
    (mark,) = known.marks
    x = (partial.reshape(-1, N) - partial.reshape(-1, N).mean(1, keepdims=True)).ravel()
    y = (scores.reshape(-1, N) - scores.reshape(-1, N).mean(1, keepdims=True)).ravel()
    fitted = LinearRegression(fit_intercept=False).fit(x[:, None], y)
    assert mark.slope == pytest.approx(fitted.coef_[0])
    assert mark.slope == pytest.approx(0.5, abs=0.02)
    assert mark.deviation == pytest.approx(0.3, abs=0.02)
    assert mark.correlation == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert (mark.tokens, mark.candidates, known.prompts, known.policy) == (32, PROMPTS * N, PROMPTS, "tiny")
    assert known.winner_deviation == pytest.approx(scores.reshape(-1, N).max(1).std(ddof=1))


def test_a_shift_between_partial_and_final_scores_is_measured_apart_from_the_slope() -> None:
    rows, scores, partial = made()
    plain, shifted = (measure_partial(rows, scores, {32: partial - shift}) for shift in (0.0, 2.0))
    assert plain is not None
    assert shifted is not None
    assert shifted.marks[0].offset == pytest.approx(plain.marks[0].offset + 2.0)
    assert plain.marks[0].offset == pytest.approx((scores - partial).mean())
    assert shifted.marks[0].slope == pytest.approx(plain.marks[0].slope)


def test_what_ended_before_the_mark_is_not_part_of_the_fit() -> None:
    rows, scores, partial = made()
    partial[::N] = np.nan
    known = measure_partial(rows, scores, {32: partial})
    assert known is not None
    assert known.marks[0].candidates == PROMPTS * (N - 1)
    assert known.marks[0].deviation == pytest.approx(0.3, abs=0.02)


def test_too_little_is_not_measured() -> None:
    rows, scores, partial = made(29)
    assert measure_partial(rows, scores, {32: partial}) is None
    rows, scores, partial = made(40)
    partial[17:] = np.nan
    known = measure_partial(rows, scores, {32: partial})
    assert known is not None
    assert known.marks == []


def test_first_tokens_of_complete_prompts_are_scored(formatter: Formatter) -> None:
    rows = replies(3)[:-1]
    rows[0] = rows[0].model_copy(update={"completion": "no"})
    asked: list[str] = []

    def score(parts: object) -> np.ndarray:
        texts = [part.completion for part in parts]  # type: ignore[attr-defined]
        asked.extend(texts)
        return np.arange(len(texts), dtype=float)

    found = score_partial(rows, formatter, score, [5])[5]
    # The first is shorter than the mark, the last prompt lacks a candidate.
    assert np.isnan(found).tolist() == [True] + [False] * 7 + [True] * 3
    for text, reply in zip(asked, rows[1:8], strict=True):
        assert str(reply.completion).startswith(text)
        assert len(formatter._plain_ids(text)) == 5
