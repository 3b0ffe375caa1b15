"""Calibrators: values by hand and by scikit-learn, and files that must not be believed."""

from __future__ import annotations

import json
import math
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import reward_model
from reward_model.calibration import (
    AcceptThreshold,
    Calibration,
    Curve,
    RiskControl,
    Selection,
    load_calibration,
    route_of,
    save_calibration,
)
from reward_model.errors import CheckpointError


def calibration(**changes: Any) -> Calibration:
    fields: dict[str, Any] = {
        "orm": "tiny@1",
        "method": "platt",
        "event": "acceptable",
        "slope": 2.0,
        "intercept": -1.0,
        "labels": 200,
        "positives": 50,
        "date": date(2026, 11, 1),
        "selection": Selection(n=8, temperature=0.8),
        "fitted_on": {"source": "test"},
        "ece": 0.03,
        "brier": 0.1,
    }
    return Calibration(**fields | changes)


def isotonic(x: list[float], y: list[float]) -> Calibration:
    return calibration(method="isotonic", slope=None, intercept=None, x=x, y=y)


def test_platt_by_hand() -> None:
    # z = 2 s - 1: 0 at 0.5; ln 3 gives 3/4, -ln 3 gives 1/4.
    scores = np.array([[0.5, (1 + math.log(3)) / 2], [(1 - math.log(3)) / 2, 0.0]])
    expected = [[0.5, 0.75], [0.25, 1 / (1 + math.e)]]
    np.testing.assert_allclose(calibration().probability(scores), expected, rtol=1e-12)


def test_platt_neither_overflows_nor_leaves_the_unit_interval() -> None:
    with np.errstate(all="raise", under="ignore"):
        found = calibration().probability([-1e6, -400.0, 400.0, 1e6])
    assert found.tolist() == pytest.approx([0, 0, 1, 1], abs=1e-12)


def test_platt_agrees_with_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    scores = rng.normal(size=300)
    fitted = LogisticRegression(C=1e6).fit(scores[:, None], scores + rng.normal(size=300) > 0)
    ours = calibration(slope=float(fitted.coef_[0, 0]), intercept=float(fitted.intercept_[0]))
    np.testing.assert_allclose(ours.probability(scores), fitted.predict_proba(scores[:, None])[:, 1], rtol=1e-9)


def test_isotonic_agrees_with_scikit_learn() -> None:
    from sklearn.isotonic import IsotonicRegression

    rng = np.random.default_rng(1)
    scores = rng.normal(size=200)
    fitted = IsotonicRegression(out_of_bounds="clip").fit(scores, scores + rng.normal(size=200) > 0)
    ours = isotonic(fitted.X_thresholds_.tolist(), fitted.y_thresholds_.tolist())
    asked = np.linspace(-6, 6, 101)
    np.testing.assert_allclose(ours.probability(asked), fitted.predict(asked), atol=1e-12)


def test_what_an_answer_shows() -> None:
    assert calibration().public() == {
        "id": "tiny@1/platt",
        "method": "platt",
        "event": "acceptable",
        "labels": 200,
        "date": "2026-11-01",
        "ece": 0.03,
        "brier": 0.1,
        "selection": {"n": 8, "stopping_rule": "all_scored", "temperature": 0.8},
    }


def of_routes(**changes: Any) -> Calibration:
    own = Curve(method="platt", slope=1.0, intercept=0.0, labels=120, positives=40, ece=0.01, brier=0.2)
    return calibration(by_route={"billing": own}, **changes)


def test_a_route_s_own_curve_is_used_and_named() -> None:
    fitted = of_routes()
    assert fitted.probability([0.0], "billing").tolist() == [0.5]
    for route in ("fraud", "default", None):
        assert fitted.probability([0.0], route).tolist() == calibration().probability([0.0]).tolist()
        assert fitted.public(route) == calibration().public()
    assert fitted.public("billing") == {
        **calibration().public(),
        "id": "tiny@1/platt/billing",
        "route": "billing",
        "labels": 120,
        "ece": 0.01,
        "brier": 0.2,
    }


def test_an_answer_shows_the_threshold_of_its_route_or_what_is_missing() -> None:
    found = {"score": 1.5, "accepted": 80, "unacceptable": 1, "needed": 72}
    control = RiskControl(
        alpha=0.05,
        delta=0.1,
        by_route={
            "billing": AcceptThreshold(probability=0.83, labels=105, **found),
            "fraud": AcceptThreshold(
                probability=None, score=None, accepted=20, unacceptable=0, labels=20, needed=72, more=52, why="too few"
            ),
        },
    )
    fitted = of_routes(risk_control=control)
    assert fitted.public("billing")["risk"] == {"alpha": 0.05, "delta": 0.1, "threshold": 0.83, "labels": 105}
    assert fitted.public("fraud")["risk"] == {
        "alpha": 0.05, "delta": 0.1, "threshold": None, "labels": 20, "why": "too few", "more": 52
    }  # fmt: skip
    assert fitted.public("loans")["risk"]["threshold"] is None
    assert "the route loans" in fitted.public("loans")["risk"]["why"]
    assert "risk" not in fitted.public()
    assert "risk" not in calibration().public("billing")


RULE = "expected_gain(cost=0.05, marks=32)"


def test_a_stopping_rule_has_a_calibrator_of_its_own() -> None:
    own = of_routes(selection=Selection(n=8, stopping_rule=RULE), slope=0.5)
    fitted = calibration(by_stopping_rule={RULE: own})
    assert fitted.under(RULE).probability([1.0]).tolist() == own.probability([1.0]).tolist()
    assert fitted.under(RULE).public()["selection"] == {"n": 8, "stopping_rule": RULE}
    assert fitted.under(RULE).public()["id"] == f"tiny@1/platt/{RULE}"
    assert fitted.under(RULE).public("billing")["id"] == f"tiny@1/platt/billing/{RULE}"
    for other in (None, "all_scored", "expected_gain(cost=1, marks=32)"):
        assert fitted.under(other) is fitted
    assert fitted.public()["id"] == "tiny@1/platt"
    assert Calibration.model_validate_json(fitted.model_dump_json()) == fitted


@pytest.mark.parametrize("wrong", [{"selection": Selection(n=8)}, {"orm": "other@1"}])
def test_a_calibrator_under_a_rule_that_is_not_its_own_is_refused(wrong: dict[str, Any]) -> None:
    own = calibration(**{"selection": Selection(n=8, stopping_rule=RULE), **wrong})
    with pytest.raises(ValueError, match="are not of the rules"):
        calibration(by_stopping_rule={RULE: own})


def test_refunds_are_billing() -> None:
    assert [route_of(bucket) for bucket in ("billing", "refund", "fraud", "other")] == [
        "billing",
        "billing",
        "fraud",
        "other",
    ]


def promise(probability: float | None) -> RiskControl:
    threshold = {"probability": probability, "score": None, "accepted": 60, "unacceptable": 0, "labels": 60}
    return RiskControl.model_validate({"alpha": 0.05, "delta": 0.05, "by_route": {"fraud": threshold}})


def test_only_labels_of_acceptable_answers_give_an_accept_threshold() -> None:
    assert calibration(risk_control=promise(0.9)).risk_control is not None
    assert calibration(event="pair_winner", risk_control=promise(None)).risk_control is not None
    with pytest.raises(ValidationError, match="no accept threshold"):
        calibration(event="pair_winner", risk_control=promise(0.9))


def test_a_file_without_what_came_later_is_read(tmp_path: Path) -> None:
    plain = {name: value for name, value in calibration().model_dump(mode="json").items() if value is not None}
    for later in ("by_route", "ece", "brier"):
        del plain[later]
    (tmp_path / "calibration.json").write_text(json.dumps(plain))
    loaded = load_calibration(tmp_path, "tiny@1")
    assert loaded is not None
    assert (loaded.by_route, loaded.risk_control, loaded.ece) == ({}, None, None)
    assert loaded.probability([0.5], "billing").tolist() == [0.5]


def test_the_bundled_calibrator_is_read() -> None:
    folder = Path(reward_model.__file__).parent / "bundled" / "winnow-orm"
    stored = sorted(folder.glob("*/calibration.json"))
    assert stored
    for path in stored:
        loaded = load_calibration(path.parent, f"winnow-orm@{path.parent.name}")
        assert loaded is not None
        assert loaded.event == "acceptable"


@pytest.mark.parametrize(
    "changes",
    [
        {"slope": None},
        {"slope": 0.0},
        {"slope": -1.0},
        {"slope": math.nan},
        {"intercept": math.inf},
        {"positives": 201},
        {"labels": 0},
        {"event": "liked"},
        {"method": "isotonic"},
        {"method": "isotonic", "x": [0.0, 1.0], "y": [0.5]},
        {"method": "isotonic", "x": [1.0, 0.0], "y": [0.1, 0.2]},
        {"method": "isotonic", "x": [0.0, 1.0], "y": [0.2, 0.1]},
        {"method": "isotonic", "x": [0.0, 1.0], "y": [0.2, 1.1]},
    ],
)
def test_a_calibrator_that_cannot_be_right_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        calibration(**changes)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    assert load_calibration(tmp_path, "tiny@1") is None
    for fitted in (calibration(), of_routes(risk_control=promise(0.8), ece_ci=(0.01, 0.05))):
        save_calibration(tmp_path, fitted)
        assert load_calibration(tmp_path, "tiny@1") == fitted
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"], "nothing half-written is left"


def test_anothers_calibrator_and_a_broken_file_are_refused(tmp_path: Path) -> None:
    save_calibration(tmp_path, calibration())
    with pytest.raises(CheckpointError, match="calibrates tiny@1, not other@1"):
        load_calibration(tmp_path, "other@1")
    stored = json.loads((tmp_path / "calibration.json").read_text())
    for text in ("{", json.dumps(stored | {"slope": -1}), json.dumps(stored | {"surprise": 1})):
        (tmp_path / "calibration.json").write_text(text)
        with pytest.raises(CheckpointError, match="is not a calibration"):
            load_calibration(tmp_path, "tiny@1")
