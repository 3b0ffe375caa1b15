"""Labels of the store, a page of judgements at a time.

A judgement is a decided ticket, an application's feedback or an audit's item with its labels. It gives a row or two of
a kind, or none; pages and their cursors are of judgements, so a page may hold fewer rows than its limit, or more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

from sqlalchemy import ColumnElement, Subquery, Table, and_, func, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.audits.judging import judged_items
from service.labels.rows import (
    StoredAnswer,
    audit_pairs,
    audit_replies,
    feedback_pairs,
    feedback_replies,
    review_pairs,
    review_replies,
)
from service.store.pages import Cursor, read_page
from service.store.rows import Row
from service.store.scope import Tenants, seen_by
from service.store.tables import audit_items, audit_labels, candidates, feedback, responses, reviews

Kind = Literal["pairs", "replies"]


class LabelPage(NamedTuple):
    """Rows of the trainer's schema, from the judgement `first_id` to `last_id`; whether there are more that way."""

    rows: list[Row]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Scope(NamedTuple):
    """Judgements made in [since_ms, until_ms) of these tenants' answers."""

    since_ms: int
    until_ms: int
    tenants: Tenants = None


async def read_labels(
    engine: AsyncEngine, kind: Kind, scope: Scope, cursor: Cursor, high_stakes: Collection[str] = ()
) -> LabelPage:
    """A page of labels, the oldest judgement first; none without texts. `high_stakes` are the routes whose pairs are
    of high risk. Raises InvalidRequest for a cursor that names no judgement."""
    judgements = _judgements(scope)
    order = (judgements.c.at_ms, judgements.c.id)
    async with engine.connect() as connection:
        page = await read_page(connection, select(judgements), order, cursor, newest_first=False)
        ids = [str(row["id"]) for row in page.rows]
        labels = await _labels(connection, kind, ids)
    rows = [row for name in ids for row in labels.get(name, ())]
    if kind == "pairs":
        rows = [row | {"risk": "high" if row["bucket"] in high_stakes else "normal"} for row in rows]
    return LabelPage(rows, ids[0] if ids else None, ids[-1] if ids else None, page.has_more)


def _judgements(scope: Scope) -> Subquery:
    """Time and id of each; an audit's item was judged when it got its last label."""

    def within(at_ms: ColumnElement[int]) -> ColumnElement[bool]:
        return and_(at_ms >= scope.since_ms, at_ms < scope.until_ms)

    tickets = select(reviews.c.decided_at_ms.label("at_ms"), reviews.c.id.label("id")).where(
        reviews.c.status == "decided", within(reviews.c.decided_at_ms), seen_by(reviews.c.tenant, scope.tenants)
    )
    of_answer = and_(feedback.c.response_id == responses.c.id, feedback.c.tenant == responses.c.tenant)
    opinions = (
        select(feedback.c.at_ms, feedback.c.id)
        .join(responses, of_answer)
        .where(within(feedback.c.at_ms), seen_by(feedback.c.tenant, scope.tenants))
    )
    last = func.max(audit_labels.c.at_ms)
    items = (
        select(last, audit_labels.c.item_id)
        .join(audit_items, audit_labels.c.item_id == audit_items.c.id)
        .join(responses, audit_items.c.response_id == responses.c.id)
        .where(seen_by(responses.c.tenant, scope.tenants))
        .group_by(audit_labels.c.item_id)
        .having(within(last))
    )
    return union_all(tickets, opinions, items).subquery("judgements")


async def _labels(connection: AsyncConnection, kind: Kind, ids: Sequence[str]) -> dict[str, list[Row]]:
    """The rows of each judgement, by its id."""
    tickets, opinions = await _rows(connection, reviews, ids), await _rows(connection, feedback, ids)
    answers = await _answers(connection, {row["response_id"] for row in [*tickets, *opinions]})
    of_ticket = review_pairs if kind == "pairs" else review_replies
    of_opinion = feedback_pairs if kind == "pairs" else feedback_replies
    of_item = audit_pairs if kind == "pairs" else audit_replies
    labels: dict[str, list[Row]] = {}
    for judgements, convert in ((tickets, of_ticket), (opinions, of_opinion)):
        for row in judgements:
            if (answer := answers.get(row["response_id"])) is not None:
                labels[row["id"]] = list(convert(row, answer))
    # The labels of one item stand together.
    for name, judged in groupby(await judged_items(connection, ids), key=lambda one: str(one.item["id"])):
        labels[name] = list(of_item(list(judged)))
    return labels


async def _rows(connection: AsyncConnection, table: Table, ids: Sequence[str]) -> list[Row]:
    return [dict(row) for row in (await connection.execute(select(table).where(table.c.id.in_(ids)))).mappings()]


async def _answers(connection: AsyncConnection, ids: set[str]) -> dict[str, StoredAnswer]:
    """Answers whose prompts were kept, by id."""
    kept = select(responses).where(responses.c.id.in_(sorted(ids)), responses.c.prompt.is_not(None))
    answers = {row["id"]: dict(row) for row in (await connection.execute(kept)).mappings()}
    members: dict[str, dict[int, Row]] = {name: {} for name in answers}
    sampled = select(candidates).where(candidates.c.response_id.in_(sorted(answers)))
    for row in (await connection.execute(sampled)).mappings():
        members[row["response_id"]][row["index"]] = dict(row)
    return {name: StoredAnswer(row, members[name]) for name, row in answers.items()}
