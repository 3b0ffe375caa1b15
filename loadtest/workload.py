"""What is sent, and when: seeded arrivals, even, in bursts or rising, with a fixed share of high-stakes prompts.

The same seed and options give the same arrivals, so that two versions can be measured under one load.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from loadtest.errors import BadWorkload

Kind = Literal["billing", "fraud", "default"]
Shape = Literal["poisson", "burst", "ramp"]
# A burst: for the first 2 s of every 10 three times the mean rate, else half of it.
_BURST_PERIOD_S, _BURST_S, _BURST_FACTOR, _LULL_FACTOR = 10.0, 2.0, 3.0, 0.5
# A ramp goes from nothing to twice the mean rate.
_RAMP_FACTOR = 2.0
KINDS: tuple[Kind, ...] = get_args(Kind)
HIGH_STAKES: tuple[Kind, ...] = ("billing", "fraud")

# Filled into the prompts, so that a long run does not send the same text (and hit the same caches) for ever.
_MERCHANTS = ("Northwind", "Bluebird Books", "Casa Verde", "Orbit Mobile", "Harbour Gym", "Kite Travel")
_CITIES = ("Porto", "Leeds", "Vienna", "Chicago", "Lyon", "Bergen", "Turin", "Toronto")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = ("January", "March", "April", "May", "July", "August", "October", "December")


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: sent `at_s` seconds after the start of the run, whatever happened to the others."""

    at_s: float
    kind: Kind
    prompt: str


@dataclass(frozen=True, slots=True)
class Workload:
    """An open loop of `rate` arrivals a second on the mean for `duration_s`, at most `max_requests` of them."""

    rate: float
    duration_s: float
    max_requests: int = 10_000
    high_stakes_share: float = 0.12
    seed: int = 0
    shape: Shape = "poisson"

    def __post_init__(self) -> None:
        for name in ("rate", "duration_s"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise BadWorkload(f"{name} must be a number above 0, not {value}")
        if not 0 <= self.high_stakes_share <= 1:
            raise BadWorkload(f"the high-stakes share must lie in [0, 1], not {self.high_stakes_share}")
        if self.max_requests < 1:
            raise BadWorkload(f"at least one request must be allowed, not {self.max_requests}")

    def arrivals(self, prompts: dict[Kind, list[str]]) -> list[Arrival]:
        """The schedule, in order of time; raises BadWorkload when not one arrival falls into the duration.

        Arrivals are a Poisson process, whose rate changes over time where the shape says so. The number of
        high-stakes prompts is exactly the share of all, rounded: a run of 100 would otherwise hold anything from 6
        to 18, and seeds could not be compared.
        """
        rng = np.random.default_rng(self.seed)
        times = _times(rng, self)
        if not times:
            raise BadWorkload(
                f"no request falls into {self.duration_s} s at {self.rate}/s with seed {self.seed}; "
                "ask for a longer run or a higher rate"
            )
        high = set(rng.permutation(len(times))[: round(self.high_stakes_share * len(times))].tolist())
        made = []
        for index, at_s in enumerate(times):
            kind: Kind = HIGH_STAKES[rng.integers(2)] if index in high else "default"
            made.append(Arrival(at_s, kind, _filled(rng, prompts[kind])))
        return made


def load_prompts(path: Path | None = None) -> dict[Kind, list[str]]:
    """Prompts by kind, out of JSON lines `{"kind", "text"}`; without a path, those of the package.

    A text may hold {amount}, {day}, {month}, {merchant} and {city}. Raises BadWorkload naming file and line.
    """
    source = path if path is not None else resources.files("loadtest") / "prompts.jsonl"
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadWorkload(f"{source}: cannot be read as UTF-8 text ({error})") from error
    prompts: dict[Kind, list[str]] = {kind: [] for kind in KINDS}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            kind, prompt = _parsed(line, f"{source}, line {number}")
            prompts[kind].append(prompt)
    if missing := [kind for kind in KINDS if not prompts[kind]]:
        raise BadWorkload(f"{source}: no prompt of kind {', '.join(missing)}")
    return prompts


def _parsed(line: str, where: str) -> tuple[Kind, str]:
    try:
        record = json.loads(line)
        kind, text = record["kind"], record["text"]
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise BadWorkload(f'{where}: expected {{"kind": ..., "text": ...}} ({error})') from error
    if kind not in KINDS or not isinstance(text, str) or not text.strip():
        raise BadWorkload(f"{where}: kind must be one of {', '.join(KINDS)} and text a non-empty string")
    return kind, text


def _times(rng: np.random.Generator, workload: Workload) -> list[float]:
    """By thinning (Lewis and Shedler, 1979): arrivals at the highest rate, of which the share of the moment's stays."""
    highest = {"poisson": 1.0, "burst": _BURST_FACTOR, "ramp": _RAMP_FACTOR}[workload.shape]
    times: list[float] = []
    now = float(rng.exponential(1 / (workload.rate * highest)))
    while now < workload.duration_s and len(times) < workload.max_requests:
        if workload.shape == "poisson" or rng.random() * highest < rate_factor(workload, now):
            times.append(now)
        now += float(rng.exponential(1 / (workload.rate * highest)))
    return times


def rate_factor(workload: Workload, at_s: float) -> float:
    """The rate at a moment over the mean rate."""
    if workload.shape == "burst":
        return _BURST_FACTOR if at_s % _BURST_PERIOD_S < _BURST_S else _LULL_FACTOR
    return _RAMP_FACTOR * at_s / workload.duration_s if workload.shape == "ramp" else 1.0


def _filled(rng: np.random.Generator, texts: list[str]) -> str:
    text = texts[rng.integers(len(texts))]
    slots = {
        "amount": f"${rng.integers(500, 90_000) / 100:.2f}",
        "day": rng.choice(_DAYS),
        "month": rng.choice(_MONTHS),
        "merchant": rng.choice(_MERCHANTS),
        "city": rng.choice(_CITIES),
    }
    for name, value in slots.items():
        text = text.replace("{" + name + "}", str(value))
    return text
