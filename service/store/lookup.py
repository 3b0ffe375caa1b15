"""Reads an answer's `rerank` object from the store when no process has it in memory."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from service.store.rows import Row
from service.store.tables import candidates, responses, reviews

_SHOWN = ("index", "score", "probability", "finish_reason", "completion_tokens")


async def find_rerank(engine: AsyncEngine, response_id: str, tenant: str) -> Row | None:
    """As it was answered, but for the candidates' texts; None where this tenant has no such answer here."""
    mine = (responses.c.id == response_id, responses.c.tenant == tenant)
    of = candidates.c.response_id == response_id
    async with engine.connect() as connection:
        answer = (await connection.execute(select(responses).where(*mine))).mappings().one_or_none()
        if answer is None:
            return None
        query = select(candidates).where(of, candidates.c.index < answer["n"]).order_by(candidates.c.index)
        members = [dict(row) for row in (await connection.execute(query)).mappings()]
        ticket = select(reviews.c.id).where(reviews.c.response_id == response_id, reviews.c.reason != "spot_check")
        review_id = (await connection.execute(ticket)).scalar_one_or_none()
    winner = next((row for row in members if row["index"] == answer["winner"]), None)
    same = (
        "route",
        "route_probability",
        "route_rule",
        "route_truncated",
        "decision",
        "sent",
        "stop_reason",
        "degraded",
        "calibrator",
        "timings_ms",
    )
    return {name: answer[name] for name in same} | {
        "strategy": "greedy" if answer["decision"] == "passthrough" else "best_of_n",
        "orm": answer["versions"]["orm"] or None,
        "policy": answer["versions"]["policy"],
        "n_requested": answer["n"],
        "n_completed": answer["n_completed"],
        "n_scored": answer["n_scored"],
        "winner": None if winner is None else {name: winner[name] for name in _SHOWN if name != "finish_reason"},
        "candidates": [_summary(row) for row in members],
        "review_id": review_id,
    }


def _summary(row: Row) -> dict[str, Any]:
    optional = {"disagreement": row["disagreement"], "stopped": row["stopped"] or None}
    return {name: row[name] for name in _SHOWN} | {name: value for name, value in optional.items() if value is not None}
