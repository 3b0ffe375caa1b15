"""Audits: the pairs that annotators are given, blind, and their labels. A label is durable when the call returns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, and_, delete, func, insert, select, true, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from reward_model.vocabulary import Dimension
from service.errors import Conflict, NotFound
from service.store.actions import log_action
from service.store.claims import HOLD_MS, free_for, given_back, held_by
from service.store.pages import Cursor, Page, read_page
from service.store.redaction import Redactor, redact, redact_note
from service.store.rows import Row
from service.store.scope import Tenants, seen_by
from service.store.tables import audit_items, audit_labels, audits, candidates, responses

_TRIES = 5

Side = Literal["left", "right", "tie"]


class AuditLabel(BaseModel):
    """What an annotator says: which side is better, which could be sent as they stand, and by which dimensions."""

    model_config = ConfigDict(extra="forbid")

    choice: Side
    left_acceptable: bool | None = None
    right_acceptable: bool | None = None
    dimensions: dict[Dimension, Side] = Field(default_factory=dict)
    note: str | None = Field(None, max_length=10_000)


@dataclass(frozen=True)
class Judged:
    """A label with what it was given to, unblinded. `item` holds the item, its answer and its two texts."""

    item: Row
    label: Row | None

    @property
    def preferred(self) -> Literal["winner", "other", "tie"] | None:
        """Whom the annotator preferred; a tie where both are one text; None without a label."""
        if self.label is None:
            return "tie" if self.item["labels_wanted"] == 0 else None
        if self.label["choice"] == "tie":
            return "tie"
        return "winner" if (self.label["choice"] == "left") == self.item["winner_left"] else "other"

    def acceptable(self, which: Literal["winner", "other"]) -> bool | None:
        """Whether that reply could be sent, where the annotator said so."""
        left = (which == "winner") == self.item["winner_left"]
        acceptable: bool | None = self.label[f"{'left' if left else 'right'}_acceptable"] if self.label else None
        return acceptable


class Audits:
    """The audits, for whoever holds an annotator's key."""

    def __init__(self, engine: AsyncEngine, tenants: Tenants = None, redactor: Redactor = redact) -> None:
        self._engine = engine
        self._tenants = tenants
        self._redactor = redactor

    async def listed(self) -> list[Row]:
        """All audits, the newest first, with how far each is labelled."""
        async with self._engine.connect() as connection:
            query = select(audits).order_by(audits.c.at_ms.desc(), audits.c.id.desc())
            rows = [dict(row) for row in (await connection.execute(query)).mappings()]
            return await self._with_progress(connection, rows)

    async def page(self, cursor: Cursor) -> Page:
        """A page of the audits that have items for these tenants, the newest first."""
        query = select(audits)
        if self._tenants is not None:
            query = query.where(audits.c.id.in_(select(audit_items.c.audit_id).where(self._visible())))
        async with self._engine.connect() as connection:
            page = await read_page(connection, query, (audits.c.at_ms, audits.c.id), cursor, newest_first=True)
            return Page(await self._with_progress(connection, page.rows), page.has_more)

    async def next(self, audit_id: str, annotator: str) -> Row | None:
        """An item that this annotator has not labelled, held for a quarter of an hour; None if there is no more."""
        columns = (audit_items.c.held_by, audit_items.c.held_until_ms)
        async with self._engine.begin() as connection:
            await self._require(connection, audit_id)
            for _ in range(_TRIES):
                now = _now()
                free = free_for(*columns, annotator, now)
                open_items = select(audit_items.c.id).where(_open_to(audit_id, annotator), free, self._visible())
                item_id = (
                    await connection.execute(open_items.order_by(audit_items.c.position).limit(1))
                ).scalar_one_or_none()
                if item_id is None:
                    return None
                held = held_by(*columns, annotator, now, HOLD_MS)
                taken = await connection.execute(
                    update(audit_items).where(audit_items.c.id == item_id, free).values(held)
                )
                if taken.rowcount:
                    (item,) = await _shown(connection, [item_id])
                    return item
        return None

    async def sheet(self, audit_id: str, annotator: str) -> list[Row]:
        """All items that this annotator may still label."""
        query = select(audit_items.c.id).where(_open_to(audit_id, annotator), self._visible())
        async with self._engine.connect() as connection:
            await self._require(connection, audit_id)
            ids = (await connection.execute(query.order_by(audit_items.c.position))).scalars()
            return await _shown(connection, list(ids))

    async def label(self, audit_id: str, annotator: str, labels: Sequence[tuple[str, AuditLabel]]) -> None:
        """Write labels of items, all or none; a second one by the same annotator takes the first one's place.

        Raises NotFound for an item that the audit does not have, Conflict for one that others have labelled enough.
        """
        notes = [await redact_note(self._redactor, label.note) for _, label in labels]
        async with self._engine.begin() as connection:
            await self._require(connection, audit_id)
            for (item_id, label), note in zip(labels, notes, strict=True):
                which = and_(audit_items.c.id == item_id, audit_items.c.audit_id == audit_id, self._visible())
                item = (await connection.execute(select(audit_items).where(which))).mappings().one_or_none()
                if item is None:
                    raise NotFound(f"{audit_id} has no item {item_id}", param="item", code="item_not_found")
                try:
                    await _label(connection, annotator, dict(item), label, note)
                except IntegrityError as error:
                    raise Conflict(f"{annotator} is labelling {item_id} twice at once", code="item_labelled") from error

    async def judged(self, audit_id: str) -> list[Judged]:
        """Every label of an audit, and every item that has none yet, in order."""
        async with self._engine.connect() as connection:
            await self._require(connection, audit_id)
            return await _judged(connection, and_(audit_items.c.audit_id == audit_id, self._visible()))

    def _visible(self) -> ColumnElement[bool]:
        """Items whose answers these tenants were given."""
        if self._tenants is None:
            return true()
        own = select(responses.c.id).where(seen_by(responses.c.tenant, self._tenants))
        return audit_items.c.response_id.in_(own)

    async def _require(self, connection: AsyncConnection, audit_id: str) -> None:
        """NotFound for an audit that has nothing to show to these tenants, as for none."""
        query = select(audits.c.id).where(audits.c.id == audit_id)
        if self._tenants is not None:
            items = select(audit_items.c.id).where(audit_items.c.audit_id == audit_id, self._visible())
            query = query.where(items.exists())
        if (await connection.execute(query)).first() is None:
            raise NotFound(f"there is no audit {audit_id}", param="id", code="audit_not_found")

    async def _with_progress(self, connection: AsyncConnection, rows: list[Row]) -> list[Row]:
        of_page = and_(audit_items.c.audit_id.in_([row["id"] for row in rows]), self._visible())
        items = select(audit_items.c.audit_id, func.count(), func.sum(audit_items.c.labels_wanted)).where(of_page)
        labels = select(audit_items.c.audit_id, func.count()).join(audit_labels).where(of_page)
        counts = {row[0]: row[1:] for row in await connection.execute(items.group_by(audit_items.c.audit_id))}
        given = {row[0]: row[1] for row in await connection.execute(labels.group_by(audit_items.c.audit_id))}
        return [
            row
            | {
                "items": counts.get(row["id"], (0, 0))[0],
                "labels_wanted": int(counts.get(row["id"], (0, 0))[1] or 0),
                "labels": given.get(row["id"], 0),
            }
            for row in rows
        ]


async def _label(connection: AsyncConnection, annotator: str, item: Row, label: AuditLabel, note: str | None) -> None:
    item_id = item["id"]
    earlier = select(audit_labels).where(audit_labels.c.item_id == item_id)
    labels = {row["annotator"]: row for row in (await connection.execute(earlier)).mappings()}
    mine = labels.pop(annotator, None)
    if len(labels) >= item["labels_wanted"]:
        raise Conflict(f"{item_id} has all the labels that it wants", code="item_labelled")
    of_mine = and_(audit_labels.c.item_id == item_id, audit_labels.c.annotator == annotator)
    await connection.execute(delete(audit_labels).where(of_mine))
    row = label.model_dump() | {"item_id": item_id, "annotator": annotator, "at_ms": _now(), "note": note}
    await connection.execute(insert(audit_labels).values(row))
    free = given_back(audit_items.c.held_by, audit_items.c.held_until_ms)
    held = and_(audit_items.c.id == item_id, audit_items.c.held_by == annotator)
    await connection.execute(update(audit_items).where(held).values(free))
    details = {"choice": label.choice} | ({"instead_of": mine["choice"]} if mine else {})
    owner = select(responses.c.tenant).where(responses.c.id == item["response_id"])
    tenant = (await connection.execute(owner)).scalar_one_or_none()
    await log_action(connection, tenant, annotator, "audit_label", item_id, details)


def _open_to(audit_id: str, annotator: str) -> Any:
    """Items of the audit that want a label more, and none of this annotator's."""
    of_item = audit_labels.c.item_id == audit_items.c.id
    count = select(func.count()).select_from(audit_labels).where(of_item).correlate(audit_items).scalar_subquery()
    mine = select(audit_labels.c.item_id).where(of_item, audit_labels.c.annotator == annotator)
    return and_(
        audit_items.c.audit_id == audit_id, count < audit_items.c.labels_wanted, ~mine.correlate(audit_items).exists()
    )


async def _shown(connection: AsyncConnection, ids: Sequence[str]) -> list[Row]:
    """What an annotator sees of items: prompt and two replies, and nothing that tells them apart."""
    shown = []
    for item in await _items(connection, audit_items.c.id.in_(ids)):
        replies = [item["winner_reply"], item["other_reply"]]
        left, right = replies if item["winner_left"] else replies[::-1]
        shown.append({"item": item["id"], "prompt": item["prompt"], "left": left, "right": right})
    return shown


async def judged_items(connection: AsyncConnection, ids: Sequence[str]) -> list[Judged]:
    """Every label of these items, in their order."""
    return [one for one in await _judged(connection, audit_items.c.id.in_(ids)) if one.label]


async def _judged(connection: AsyncConnection, which: Any) -> list[Judged]:
    query = select(audit_labels).join(audit_items).where(which)
    labels: dict[str, list[Row | None]] = {}
    for row in (await connection.execute(query.order_by(audit_labels.c.at_ms, audit_labels.c.annotator))).mappings():
        labels.setdefault(row["item_id"], []).append(dict(row))
    items = await _items(connection, which)
    return [Judged(item, label) for item in items for label in labels.get(item["id"]) or [None]]


async def _items(connection: AsyncConnection, which: Any) -> list[Row]:
    """Items with their answer's row and both replies, in order."""
    winner, other = candidates.alias("winner"), candidates.alias("other")
    of_winner = and_(winner.c.response_id == responses.c.id, winner.c.index == responses.c.winner)
    of_other = and_(other.c.response_id == responses.c.id, other.c.index == audit_items.c.other)
    query = (
        select(
            responses,
            audit_items,
            winner.c.content.label("winner_content"),
            winner.c.tool_calls.label("winner_tool_calls"),
            winner.c.finish_reason.label("winner_finish_reason"),
            other.c.content.label("other_content"),
            other.c.tool_calls.label("other_tool_calls"),
            other.c.score.label("other_score"),
            other.c.probability.label("other_probability"),
        )
        .select_from(audit_items.join(responses).join(winner, of_winner).outerjoin(other, of_other))
        .where(which)
        .order_by(audit_items.c.position)
    )
    names = [*(f"response.{column.name}" for column in responses.c), *(column.name for column in audit_items.c)]
    names += ["winner_content", "winner_tool_calls", "winner_finish_reason"]
    names += ["other_content", "other_tool_calls", "other_score", "other_probability"]
    items = []
    for row in await connection.execute(query):
        item = dict(zip(names, row, strict=True))
        item["prompt"] = item["response.prompt"]
        item["winner_reply"] = _reply(item["winner_content"], item["winner_tool_calls"])
        item["other_reply"] = (
            _reply(item["other_content"], item["other_tool_calls"])
            if item["greedy"] is None
            else _reply(item["greedy"], None)
        )
        items.append(item)
    return items


def _reply(content: str | None, tool_calls: Any) -> Row:
    return {"content": content} | ({"tool_calls": tool_calls} if tool_calls else {})


def _now() -> int:
    return int(time.time() * 1000)
