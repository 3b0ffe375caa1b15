"""Arrivals are Poisson, seeded, bounded, and hold exactly the asked share of high-stakes prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from loadtest.errors import BadWorkload
from loadtest.workload import HIGH_STAKES, KINDS, Workload, load_prompts

PROMPTS = load_prompts()


def test_the_bundled_prompts_are_many_and_different() -> None:
    assert {kind: len(PROMPTS[kind]) for kind in KINDS} == {"billing": 36, "fraud": 36, "default": 72}
    texts = [text for kind in KINDS for text in PROMPTS[kind]]
    assert len(set(texts)) == len(texts)


def test_gaps_are_exponential_at_the_asked_rate() -> None:
    arrivals = Workload(rate=50, duration_s=100, seed=3).arrivals(PROMPTS)
    gaps = np.diff([0.0, *(arrival.at_s for arrival in arrivals)])
    assert (gaps > 0).all()
    assert arrivals[-1].at_s < 100
    # 5,000 expected; a Poisson count strays by more than four standard deviations once in 16,000 seeds.
    assert abs(len(arrivals) - 5000) < 4 * 5000**0.5
    assert stats.kstest(gaps, stats.expon(scale=1 / 50).cdf).pvalue > 0.01


def test_bursts_hold_three_times_the_rate_for_a_fifth_of_the_time() -> None:
    times = np.array([a.at_s for a in Workload(50, 200, seed=3, shape="burst").arrivals(PROMPTS)])
    # 3 x 50 a second for 2 of every 10 s, 25 a second for the other 8: 6,000 and 4,000 of 10,000 in 200 s.
    within = int((times % 10 < 2).sum())
    assert abs(within - 6000) < 4 * 6000**0.5
    assert abs(len(times) - within - 4000) < 4 * 4000**0.5


def test_a_ramp_rises_evenly_to_twice_the_rate() -> None:
    times = np.array([a.at_s for a in Workload(50, 100, seed=3, shape="ramp").arrivals(PROMPTS)])
    assert abs(len(times) - 5000) < 4 * 5000**0.5
    # The density grows with t, so that (t / 100)^2 is uniform.
    assert stats.kstest((times / 100) ** 2, stats.uniform.cdf).pvalue > 0.01


def test_the_share_is_exact_and_both_high_stakes_kinds_occur() -> None:
    arrivals = Workload(rate=100, duration_s=1000, max_requests=1000).arrivals(PROMPTS)
    kinds = [arrival.kind for arrival in arrivals]
    assert len(kinds) == 1000
    assert sum(kind in HIGH_STAKES for kind in kinds) == 120
    assert min(kinds.count("billing"), kinds.count("fraud")) > 30
    # Spread over the run, not bunched: each half holds its share within five standard deviations.
    assert 35 < sum(kind in HIGH_STAKES for kind in kinds[:500]) < 85


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 200), (0.5, 100)])
def test_any_share(share: float, expected: int) -> None:
    arrivals = Workload(rate=100, duration_s=100, max_requests=200, high_stakes_share=share).arrivals(PROMPTS)
    assert sum(arrival.kind in HIGH_STAKES for arrival in arrivals) == expected


def test_the_same_seed_gives_the_same_run_and_another_does_not() -> None:
    first, again, other = (Workload(rate=5, duration_s=20, seed=seed).arrivals(PROMPTS) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_slots_are_filled_with_variety() -> None:
    arrivals = Workload(rate=100, duration_s=100, max_requests=2000).arrivals(PROMPTS)
    prompts = [arrival.prompt for arrival in arrivals]
    assert not any("{" in prompt or "}" in prompt for prompt in prompts)
    assert len(set(prompts)) > 3 * 144, "more than the templates themselves"


@pytest.mark.parametrize(
    "options",
    [
        {"rate": 0.0},
        {"rate": -1.0},
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"duration_s": 0.0},
        {"duration_s": float("inf")},
        {"high_stakes_share": 1.5},
        {"high_stakes_share": float("nan")},
        {"max_requests": 0},
    ],
)
def test_options_that_make_no_workload(options: dict[str, float]) -> None:
    with pytest.raises(BadWorkload):
        Workload(**({"rate": 1.0, "duration_s": 1.0} | options))  # type: ignore[arg-type]


def test_a_run_too_short_for_one_arrival_says_so() -> None:
    with pytest.raises(BadWorkload, match="longer run or a higher rate"):
        Workload(rate=0.001, duration_s=0.001).arrivals(PROMPTS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"kind": "billing", "text": "a"}\nnonsense', "line 2"),
        (b'{"kind": "weather", "text": "a"}', "kind must be one of"),
        (b'{"kind": "fraud", "text": "  "}', "non-empty"),
        (b'{"kind": "fraud"}', "line 1"),
        (b"[1]", "line 1"),
        (b'{"kind": "fraud", "text": "a"}', "no prompt of kind billing, default"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_a_bad_prompt_file_names_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadWorkload, match=message):
        load_prompts(path)


def test_a_missing_prompt_file() -> None:
    with pytest.raises(BadWorkload, match="nowhere"):
        load_prompts(Path("/nowhere.jsonl"))
