"""Scoring files: in this process, or by a scorer that runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from reward_model.errors import BadInput, EngineFailed, RewardModelError
from reward_model.jsonl import read_jsonl
from reward_model.serving.schemas import ScoreRequest

if TYPE_CHECKING:
    import httpx

    from reward_model.checkpoint.loaded_model import LoadedModel

# Lines gathered before scoring, so that their sequences can be batched by length.
_WINDOW = 256
_BATCH_TOKENS = 16_384
# Requests that a running scorer is sent at a time; it batches across them.
_AT_A_TIME = 8

Line = tuple[int, dict[str, Any], ScoreRequest]


class _Progress(Protocol):
    def __call__(self, lines: int) -> None:
        """Told after each window how many lines are scored."""


def local_scores(path: str, loaded: LoadedModel, progress: _Progress | None = None) -> Iterator[dict[str, Any]]:
    """Each line with `scores`, `probabilities` and `orm`, in order; BadInput names the line at fault."""
    done = 0
    for window in _windows(path):
        sequences = [ids for line in window for ids in _sequences(path, line, loaded)]
        scores = iter(_by_length(loaded, sequences))
        for _, raw, request in window:
            yield _line(raw, list(islice(scores, len(request.completions))), loaded)
        done += len(window)
        if progress is not None:
            progress(done)


def remote_scores(path: str, url: str, api_key: str | None = None) -> Iterator[dict[str, Any]]:
    """The same by POST /v1/score of the scorer at `url`."""
    import httpx

    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    with httpx.Client(base_url=url, timeout=120, headers=headers) as client, ThreadPoolExecutor(_AT_A_TIME) as pool:
        for window in _windows(path):
            yield from pool.map(lambda line: _asked(path, client, line), window)


def _windows(path: str) -> Iterator[list[Line]]:
    lines = read_jsonl(path)
    while window := list(islice(lines, _WINDOW)):
        yield [(number, raw, _request(path, number, raw)) for number, raw in window]


def _request(path: str, number: int, raw: dict[str, Any]) -> ScoreRequest:
    try:
        return ScoreRequest.model_validate({name: raw.get(name) for name in ("prompt", "completions", "tools")})
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path}, line {number}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _sequences(path: str, line: Line, loaded: LoadedModel) -> list[list[int]]:
    number, _, request = line
    try:
        pairs = loaded.formatter.sequences(request.prompt, request.candidates(), request.tools)
        return [[*prompt, *completion] for prompt, completion in pairs]
    except BadInput as error:
        raise BadInput(f"{path}, line {number}: {error}", error.param) from error


def _by_length(loaded: LoadedModel, sequences: Sequence[Sequence[int]]) -> list[float]:
    """Scores in the order given, computed in batches of similar length, identical sequences once."""
    keys = [tuple(ids) for ids in sequences]
    order = sorted(set(keys), key=len)
    scores: dict[tuple[int, ...], float] = {}
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and len(order[end]) * (end - start + 1) <= _BATCH_TOKENS:
            end += 1
        scores |= zip(order[start:end], loaded.score(order[start:end]).tolist(), strict=True)
        start = end
    if not all(map(math.isfinite, scores.values())):
        raise EngineFailed(f"{loaded.id} gave a score that is no number; its weights or precision are broken")
    return [scores[key] for key in keys]


def _line(raw: dict[str, Any], scores: list[float], loaded: LoadedModel) -> dict[str, Any]:
    calibration = loaded.calibration
    probabilities = [None] * len(scores) if calibration is None else calibration.probability(scores).tolist()
    return raw | {"scores": scores, "probabilities": probabilities, "orm": loaded.id}


def _asked(path: str, client: httpx.Client, line: Line) -> dict[str, Any]:
    import httpx

    number, raw, _ = line
    body = {name: raw.get(name) for name in ("prompt", "completions", "tools")}
    try:
        reply = client.post("/v1/score", json=body)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise RewardModelError(f"{client.base_url} could not be reached ({type(error).__name__})") from error
    if reply.status_code != 200:
        raise RewardModelError(f"{path}, line {number}: the scorer answered {reply.status_code}: {reply.text}")
    answer = reply.json()
    return raw | {
        "scores": [result["score"] for result in answer["results"]],
        "probabilities": [result["probability"] for result in answer["results"]],
        "orm": answer["orm"],
    }
