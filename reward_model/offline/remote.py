"""Files scored by a scorer that runs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from reward_model.errors import RewardModelError
from reward_model.offline.rows import Defaults, Row, read_windows

# Requests that a running scorer is sent at a time; it batches across them.
_AT_A_TIME = 8


def remote_scores(
    path: str, url: str, defaults: Defaults | None = None, api_key: str | None = None
) -> Iterator[dict[str, Any]]:
    """Each line with `scores`, `probabilities` and `orm`, in order, by POST /v1/score of the scorer at `url`."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    with httpx.Client(base_url=url, timeout=120, headers=headers) as client, ThreadPoolExecutor(_AT_A_TIME) as pool:
        for window in read_windows(path, defaults or Defaults()):
            yield from pool.map(lambda row: _asked(client, row), window)


def _asked(client: httpx.Client, row: Row) -> dict[str, Any]:
    try:
        reply = client.post("/v1/score", json=row.body())
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise RewardModelError(f"{client.base_url} could not be reached ({type(error).__name__})") from error
    if reply.status_code != 200:
        raise RewardModelError(f"{row.where}: the scorer answered {reply.status_code}: {reply.text}")
    answer = reply.json()
    return row.raw | {
        "scores": [result["score"] for result in answer["results"]],
        "probabilities": [result["probability"] for result in answer["results"]],
        "orm": answer["orm"],
    }
