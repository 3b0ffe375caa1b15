"""The page says what the file says, and warns where the figures do."""

from __future__ import annotations

import numpy as np
import pytest

from reward_model.labels import LabelledReply
from reward_model.training.calibration.calibrate import How, calibrate
from reward_model.training.calibration.labelled import labelled
from reward_model.training.calibration.report import calibration_report


def _replies(informative: bool) -> tuple[list[LabelledReply], np.ndarray]:
    """One reply to each of 240 prompts; its score says how likely it is acceptable, or nothing."""
    generator = np.random.default_rng(3)
    scores = generator.normal(size=240)
    labels = generator.random(240) < 1 / (1 + np.exp(-(3.0 if informative else 0.0) * scores))
    rows = [
        {
            "id": str(i),
            "prompt": [{"role": "user", "content": str(i)}],
            "completion": "x",
            "acceptable": bool(label),
            "group": str(i),
            "bucket": "fraud" if i % 5 == 0 else "billing",
            "selection": {"n": 8, "policy": "tiny"},
        }
        for i, label in enumerate(labels)
    ]
    return [LabelledReply.model_validate(row) for row in rows], scores


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_calibrator_s_page(method: str) -> None:
    replies, scores = _replies(informative=True)
    calibration = calibrate("toy@1", replies, scores, How(method, bootstraps=30))  # type: ignore[arg-type]
    page = calibration_report(calibration, labelled(replies, scores)).html()
    assert page.count("<img") == 2
    assert f"{method} on 240 labels" in page
    assert "winners of 8" in page
    assert f"{calibration.brier:.3f}" in page
    assert "48 labels in 48 groups" in page  # why fraud shares the curve
    assert "needed" in page
    assert 'class="warning"' not in page


def test_scores_that_say_nothing_are_warned_of() -> None:
    replies, scores = _replies(informative=False)
    calibration = calibrate("toy@1", replies, scores, How("platt", by_route=False, bootstraps=60))
    page = calibration_report(calibration, labelled(replies, scores)).html()
    assert "reaches below zero" in page
    assert "holds 0.5" in page


def test_labels_that_were_not_drawn_alike_are_warned_of() -> None:
    replies, scores = _replies(informative=True)
    drawn = [r.model_copy(update={"chance": 0.05 if s > 0 else 1.0}) for r, s in zip(replies, scores, strict=True)]
    calibration = calibrate("toy@1", drawn, scores, How("platt", bootstraps=30))
    assert calibration.fitted_on["chances"] == [0.05, 1.0]
    page = calibration_report(calibration, labelled(drawn, scores)).html()
    assert "judged with chances of 0.050 to 1.000" in page
    alike = [reply.model_copy(update={"chance": 0.3}) for reply in replies]
    assert "chances" not in calibrate("toy@1", alike, scores, How("platt", bootstraps=30)).fitted_on
