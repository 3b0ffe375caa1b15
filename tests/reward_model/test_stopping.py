"""The stopping rule, against scipy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from reward_model.calibration import Curve
from reward_model.stopping import (
    CandidateScores,
    ExpectedGain,
    Mark,
    PartialScores,
    StoppingRule,
    Waves,
    expected_excess,
    expected_rise,
    hopeless,
)


def known(slope: float = 0.5, deviation: float = 1.0, winner_deviation: float = 2.0) -> PartialScores:
    mark = Mark(tokens=32, slope=slope, deviation=deviation, correlation=0.6, candidates=100)
    return PartialScores(marks=[mark], winner_deviation=winner_deviation, prompts=50)


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (-1.5, 0.7), (2.0, 0.5), (-9.0, 1.0)])
def test_the_expected_excess_is_the_integral(mean: float, deviation: float) -> None:
    density = stats.norm(mean, deviation).pdf
    integral = integrate.quad(lambda x: x * density(x), 0, 20, epsabs=1e-14)[0]
    assert expected_excess(mean, deviation) == pytest.approx(integral, abs=1e-9)


def test_candidates_far_behind_are_stopped_and_near_ones_go_on() -> None:
    # Mean 1: expected finals 2, 1.5 and -0.5 with slope one half. Differences are normal with deviation sqrt 2, and
    # gain 0.348 and 0.0245 = E[max(0, X)] at -0.5 and -2.5.
    running = {0: 3.0, 1: 2.0, 4: -2.0}
    assert expected_excess(-0.5, math.sqrt(2)) == pytest.approx(0.3491, abs=1e-3)
    assert expected_excess(-2.5, math.sqrt(2)) == pytest.approx(0.0219, abs=1e-3)
    assert hopeless(known(), 0.02, 32, running, {}) == [4]
    assert hopeless(known(), 0.01, 32, running, {}) == []
    assert hopeless(known(), 0.2, 32, running, {}) == [1, 4]
    assert hopeless(known(), 100.0, 32, running, {}) == [1, 4], "the best goes on whatever it costs"


def test_an_ended_candidate_is_certain_and_never_stopped() -> None:
    # Mean 2: the running one is expected at 1 + 0.5 * ... = 1.25; the ended one stands at 3.5, for sure.
    running, ended = {0: 0.5}, {1: 3.5}
    expected = 2.0 + 0.5 * (0.5 - 2.0)
    gain = expected_excess(expected - 3.5, 1.0)
    assert hopeless(known(), gain / 2.0 * 1.01, 32, running, ended) == [0]
    assert hopeless(known(), gain / 2.0 * 0.99, 32, running, ended) == []


def test_partial_scores_that_all_lie_below_final_ones_stop_no_more_than_others() -> None:
    # Four candidates of 100 prompts, two ended at the mark; partial scores are final ones less 2.
    random = np.random.default_rng(0)
    mark = Mark(tokens=32, slope=1.0, deviation=0.2, offset=2.0, correlation=0.9, candidates=100)
    rule = PartialScores(marks=[mark], winner_deviation=1.0, prompts=100)
    lost = {"with": 0, "without": 0}
    for final in random.normal(size=(100, 4)):
        running, ended = {i: final[i] - 2.0 for i in (0, 1)}, {i: final[i] for i in (2, 3)}
        best = int(final.argmax())
        unshifted = rule.model_copy(update={"marks": [mark.model_copy(update={"offset": 0.0})]})
        lost["with"] += best in hopeless(rule, 0.03, 32, running, ended)
        lost["without"] += best in hopeless(unshifted, 0.03, 32, running, ended)
    assert lost["with"] == 0
    assert lost["without"] > 30


def test_nothing_is_stopped_where_nothing_is_known() -> None:
    assert hopeless(known(), 1.0, 64, {0: -5.0, 1: 5.0}, {}) == []
    assert hopeless(known(), 1.0, 32, {}, {0: 1.0}) == []
    assert hopeless(known(), 1.0, 32, {0: -50.0}, {}) == [], "the only one"


def test_a_rule_is_named_by_what_it_does() -> None:
    assert ExpectedGain(cost=0.05, marks=(32, 64)).name == "expected_gain(cost=0.05, marks=32+64)"
    for marks in ((), (64, 32), (32, 32), (0, 5)):
        with pytest.raises(ValueError):  # noqa: PT011
            ExpectedGain(cost=0.05, marks=marks)
    with pytest.raises(ValueError):  # noqa: PT011
        ExpectedGain(cost=0, marks=(32,))


@pytest.mark.parametrize("seen", [[0.0], [1.5, -0.5], [-2.0, -2.5, -1.0, -3.0], [4.0]])
def test_the_expected_rise_is_the_integral(seen: list[float]) -> None:
    known = CandidateScores(mean=0.5, between=0.8, within=1.2, prompts=100)
    curve = Curve(method="platt", slope=1.3, intercept=-0.4, labels=100, positives=50)
    # The posterior of the prompt's mean by precisions, and the predictive distribution of one more score.
    precision = 1 / 0.8**2 + len(seen) / 1.2**2
    center = (0.5 / 0.8**2 + sum(seen) / 1.2**2) / precision
    density = stats.norm(center, math.sqrt(1.2**2 + 1 / precision)).pdf
    best = max(seen)

    def rise(x: float) -> float:
        gain: float = (curve.on(x) - curve.on(best)) * density(x)
        return gain

    integral = integrate.quad(rise, best, best + 30, epsabs=1e-13)[0]
    assert expected_rise(known, curve.on, seen) == pytest.approx(integral, abs=1e-5)


def test_prompts_that_do_not_differ_teach_nothing() -> None:
    known = CandidateScores(mean=0.0, between=0.0, within=1.0, prompts=100)
    curve = Curve(method="isotonic", x=[0.0, 1e-9], y=[0.0, 1.0], labels=100, positives=50)
    # P(score > 0) = 1/2 whatever was seen, and nothing rises once one is above.
    assert expected_rise(known, curve.on, [-5.0, -5.0]) == pytest.approx(0.5, abs=0.01)
    assert expected_rise(known, curve.on, [3.0]) == 0.0


def test_rules_have_names_and_waves_end_with_n() -> None:
    rule = StoppingRule(waves=Waves(sizes=(2, 4, 8), cost=0.002))
    assert StoppingRule().name == "all_scored"
    assert rule.name == "waves(2+4+8, cost=0.002)"
    assert [rule.waves_of(n) for n in (8, 6, 2, 16)] == [(2, 4, 8), (2, 4, 6), (2,), (2, 4, 8, 16)]
    assert StoppingRule().waves_of(8) == (8,)
    with pytest.raises(ValueError, match="candidate counts that rise"):
        Waves(sizes=(4, 2), cost=0.1)
