"""What a gateway's reviewers, applications and auditors said, as a data folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from reward_model.errors import BadInput, RewardModelError
from reward_model.jsonl import write_jsonl
from reward_model.labels import LabelledReply, Pair, Row, parse_row

REPLIES = "labelled_replies.jsonl.gz"
# Names of sources: a recipe may weigh a review otherwise than a thumb.
_SOURCES = {"review": "reviews", "audit": "audits", "human": "feedback"}
_SECONDS = 120.0
# The most that the gateway lists at once.
_PAGE = 500


def collect(gateway: str, key: str, out: Path, since: str | None, until: str | None) -> dict[str, Any]:
    """Write `out/preferences/{reviews,audits,feedback}.jsonl.gz` and `out/labelled_replies.jsonl.gz`, what there is.

    Every row is checked against its schema first. `since` and `until` are ISO dates of the judgments. Raises BadInput
    for a folder that exists, RewardModelError where the gateway does not answer.
    """
    if out.exists():
        raise BadInput(f"{out} exists; name a new folder")
    window = {name: value for name, value in (("since", since), ("until", until)) if value}
    headers = {"Authorization": f"Bearer {key}"}
    try:
        with httpx.Client(base_url=gateway, headers=headers, timeout=_SECONDS) as client:
            pairs = list(_rows(client, "pairs", window, Pair))
            replies = list(_rows(client, "replies", window, LabelledReply))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise RewardModelError(f"{gateway} could not be reached: {error}") from error
    by_source = {name: [row for row in pairs if row.get("label") == label] for label, name in _SOURCES.items()}
    for name, rows in by_source.items():
        if rows:
            write_jsonl(out / "preferences" / f"{name}.jsonl.gz", rows)
    if replies:
        write_jsonl(out / REPLIES, replies)
    return {
        "pairs": {name: len(rows) for name, rows in by_source.items()},
        "replies": Counter(_SOURCES.get(row["label"], row["label"]) for row in replies),
        "redacted": sum(bool(row.get("redacted")) for row in [*pairs, *replies]),
        "folder": str(out),
    }


def _rows(client: httpx.Client, kind: str, window: dict[str, str], schema: type[Row]) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(_listed(client, f"/v1/labels/{kind}", window), 1):
        parse_row(row, schema, f"the gateway's {kind}, row {number}")
        yield row


def _listed(client: httpx.Client, path: str, query: dict[str, str]) -> Iterator[dict[str, Any]]:
    """What a list of the gateway's holds, fetched page by page."""
    page: dict[str, Any] = {"has_more": True, "last_id": None}
    while page["has_more"]:
        after = {} if page["last_id"] is None else {"after": page["last_id"]}
        answer = client.get(path, params={**query, "limit": str(_PAGE), **after})
        if answer.status_code != 200:
            raise RewardModelError(f"the gateway answered {answer.status_code}: {_said(answer)}")
        page = answer.json()
        yield from page["data"]


def _said(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return answer.text[:200]
