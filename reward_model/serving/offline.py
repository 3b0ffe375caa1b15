"""Scoring files: in this process, or by a scorer that runs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

from pydantic import ValidationError

from reward_model.errors import BadInput, RewardModelError
from reward_model.jsonl import read_jsonl
from reward_model.serving.schemas import ScoreRequest

# Lines gathered before scoring, so that their sequences can be batched by length.
_WINDOW = 256
_BATCH_TOKENS = 16_384


def local_scores(path: str, model: str, dtype: Literal["bf16", "fp32"]) -> Iterator[dict[str, Any]]:
    """Each line with `scores`, `probabilities` and `orm`, in order; BadInput names the line at fault."""
    from reward_model.serving.engine import load_configured
    from reward_model.serving.settings import ScorerSettings

    loaded = load_configured(ScorerSettings(model=model, dtype=dtype))
    lines = read_jsonl(path)
    while window := list(islice(lines, _WINDOW)):
        asked = [_request(path, number, raw) for number, raw in window]
        prompts = [loaded.formatter.prompt_ids(request.prompt) for request in asked]
        sequences = [
            [*prompt, *loaded.formatter.completion_ids(candidate)]
            for prompt, request in zip(prompts, asked, strict=True)
            for candidate in request.candidates()
        ]
        scores = iter(_by_length(loaded, sequences))
        for (_, raw), request in zip(window, asked, strict=True):
            yield _line(raw, list(islice(scores, len(request.completions))), loaded.calibration, loaded.id)


def remote_scores(path: str, url: str) -> Iterator[dict[str, Any]]:
    """The same by POST /v1/score of the scorer at `url`."""
    import httpx

    with httpx.Client(base_url=url, timeout=120) as client:
        for number, raw in read_jsonl(path):
            request = _request(path, number, raw)
            body = {"prompt": raw["prompt"], "completions": [c.model_dump() for c in request.candidates()]}
            try:
                reply = client.post("/v1/score", json=body)
            except httpx.TransportError as error:
                raise RewardModelError(f"{url} could not be reached ({type(error).__name__})") from error
            if reply.status_code != 200:
                raise RewardModelError(f"{path}, line {number}: the scorer answered {reply.status_code}: {reply.text}")
            results = reply.json()["results"]
            yield raw | {
                "scores": [result["score"] for result in results],
                "probabilities": [result["probability"] for result in results],
                "orm": reply.json()["orm"],
            }


def _request(path: str, number: int, raw: dict[str, Any]) -> ScoreRequest:
    try:
        return ScoreRequest.model_validate({"prompt": raw.get("prompt"), "completions": raw.get("completions")})
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path}, line {number}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _by_length(loaded: Any, sequences: list[list[int]]) -> list[float]:
    """Scores in the order given, computed in batches of similar length."""
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    scores = [0.0] * len(sequences)
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and len(sequences[order[end]]) * (end - start + 1) <= _BATCH_TOKENS:
            end += 1
        batch = order[start:end]
        for position, score in zip(batch, loaded.score([sequences[i] for i in batch]), strict=True):
            scores[position] = float(score)
        start = end
    return scores


def _line(raw: dict[str, Any], scores: list[float], calibration: Any, orm: str) -> dict[str, Any]:
    probabilities = [None] * len(scores) if calibration is None else calibration.probability(scores).tolist()
    return raw | {"scores": scores, "probabilities": probabilities, "orm": orm}
