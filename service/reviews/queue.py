"""Review tickets: answers for a reviewer to decide. What is written here is durable when the call returns."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from copy import copy
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import ColumnElement, and_, func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from reward_model.vocabulary import Dimension
from service.errors import Conflict, InvalidRequest, NotFound
from service.reviews.escalation import SPOT_CHECK
from service.store.actions import log_action
from service.store.claims import HOLD_MS, free_for, given_back, held_by
from service.store.outbox import add_event
from service.store.pages import Cursor, Page, read_page
from service.store.privacy.vault import EDITED, Vault, forget_held
from service.store.redaction import Redactor, redact_note
from service.store.rows import Row, fitted
from service.store.scope import Tenants, seen_by
from service.store.tables import candidates, responses, reviews
from service.telemetry.failure import failure
from service.telemetry.metrics import Metrics

_BACKLOG_SECONDS = 15.0
# Above every candidate's number, and within what a database stores.
MAX_INDEX = 1_000

log = logging.getLogger("winnow.store")


class Verdict(BaseModel):
    """What a reviewer decided. `candidate` is the one that was chosen, `text` what was written instead, and
    `winner_acceptable` whether the winner could have been sent all the same; where that is not said, it could not."""

    model_config = ConfigDict(extra="forbid")

    verdict: Literal["accept", "choose", "edit", "reject"]
    candidate: int | None = Field(None, ge=0, le=MAX_INDEX)
    text: str | None = Field(None, min_length=1, max_length=100_000)
    winner_acceptable: bool | None = None
    reasons: list[Dimension] = Field(default_factory=list)
    note: str | None = Field(None, max_length=10_000)

    @model_validator(mode="after")
    def _complete(self) -> Verdict:
        if (self.verdict == "choose") != (self.candidate is not None):
            raise ValueError("`candidate` names the reply that was chosen, and goes with `choose` alone")
        if (self.verdict == "edit") != (self.text is not None):
            raise ValueError("`text` is the reply as it was written anew, and goes with `edit` alone")
        if self.winner_acceptable is not None and self.verdict in ("accept", "reject"):
            raise ValueError(f"`winner_acceptable` goes with `choose` and `edit`; {self.verdict} says it by itself")
        return self

    @property
    def acceptable(self) -> bool:
        """Whether the winner could be sent as it stands: the event that calibrators predict."""
        return self.verdict == "accept" or bool(self.winner_acceptable)


class Reviews:
    """The queue, for whoever holds a reviewer's key."""

    def __init__(
        self, engine: AsyncEngine, vault: Vault | None = None, *, tells: bool = False, hold_ms: int = HOLD_MS
    ) -> None:
        self._engine = engine
        self._vault = vault or Vault()
        self._tells = tells
        self._hold_ms = hold_ms
        self._tenants: Tenants = None

    def of(self, tenants: Tenants) -> Reviews:
        """The same queue, as far as these tenants' tickets go."""
        scoped = copy(self)
        scoped._tenants = tenants
        return scoped

    async def listed(self, status: str, route: str | None, cursor: Cursor) -> Page:
        """Tickets, the oldest first."""
        query = select(reviews).where(reviews.c.status == status, seen_by(reviews.c.tenant, self._tenants))
        if route is not None:
            query = query.where(reviews.c.route == route)
        async with self._engine.connect() as connection:
            return await read_page(connection, query, (reviews.c.at_ms, reviews.c.id), cursor, newest_first=False)

    async def backlog(self) -> tuple[int, float]:
        """Open tickets, and the age of the oldest in seconds."""
        query = select(func.count(), func.min(reviews.c.at_ms)).where(reviews.c.status == "open")
        async with self._engine.connect() as connection:
            count, oldest = (await connection.execute(query)).one()
        return count, max(0.0, time.time() - oldest / 1000) if count else 0.0

    async def verdicts(self, since_ms: int, until_ms: int) -> tuple[list[Row], Row]:
        """Decided tickets of answers of that time, each with its winner's probability; and how many answers there
        were, how many tickets are open, and how many answers could never have come here."""
        in_time = and_(responses.c.at_ms >= since_ms, responses.c.at_ms < until_ms)
        query = select(reviews, responses.c.probability).join(responses).where(in_time, reviews.c.status == "decided")
        opened = select(func.count()).select_from(reviews.join(responses)).where(in_time, reviews.c.status == "open")
        answers = select(func.count()).select_from(responses).where(in_time)
        async with self._engine.connect() as connection:
            rows = [dict(row) for row in (await connection.execute(query)).mappings()]
            counts = {
                "answers": (await connection.execute(answers)).scalar_one(),
                "open": (await connection.execute(opened)).scalar_one(),
                "never_seen": (await connection.execute(answers.where(responses.c.review_chance == 0))).scalar_one(),
            }
        return rows, counts

    async def find(self, review_id: str) -> Row:
        """A ticket with its prompt and its candidates, the best first."""
        async with self._engine.connect() as connection:
            ticket = await _ticket(connection, review_id, self._tenants)
            prompt = select(responses.c.prompt, responses.c.winner).where(responses.c.id == ticket["response_id"])
            response = (await connection.execute(prompt)).mappings().one()
            order = (candidates.c.index != response["winner"], candidates.c.score.is_(None), candidates.c.score.desc())
            query = select(candidates).where(candidates.c.response_id == ticket["response_id"]).order_by(*order)
            members = [dict(row) for row in (await connection.execute(query)).mappings()]
            # What the reviewer decides on is what would be sent; the rest is the redacted copy.
            held = await self._vault.held_messages(connection, ticket["response_id"])
        for member in members:
            member["message"] = held.get(member["index"])
        return {**ticket, **response, "candidates": members}

    async def claim(self, review_id: str, actor: str) -> Row:
        """Hold a ticket for a quarter of an hour. Raises Conflict while somebody else does, or once it is decided."""
        now = _now()
        columns = (reviews.c.claimed_by, reviews.c.claimed_until_ms)
        free, held = free_for(*columns, actor, now), held_by(*columns, actor, now, self._hold_ms)
        return await self._change(review_id, free, held, actor, "claim", {})

    async def release(self, review_id: str, actor: str) -> Row:
        """Give a ticket back. Raises Conflict where it is not held by this reviewer."""
        mine = reviews.c.claimed_by == actor
        free = given_back(reviews.c.claimed_by, reviews.c.claimed_until_ms)
        return await self._change(review_id, mine, free, actor, "release", {})

    async def decide(self, review_id: str, actor: str, verdict: Verdict, redactor: Redactor) -> Row:
        """Decide a ticket that this reviewer holds. Raises Conflict where it is held by nobody or by another."""
        mine = and_(reviews.c.claimed_by == actor, reviews.c.claimed_until_ms >= _now())
        chosen = await self._chosen(review_id, verdict)
        details = verdict.model_dump(exclude={"text", "note"})
        decided = {"status": "decided", "decided_by": actor, "decided_at_ms": _now(), "verdict": verdict.verdict}
        decided |= {"chosen": chosen, "reasons": verdict.reasons, "acceptable": verdict.acceptable}
        # The text goes to who asked as it was written, from the vault; what stays is kept without what names people.
        for name, text in (("text", verdict.text), ("note", verdict.note)):
            decided[name] = await redact_note(redactor, text)
        return await self._change(review_id, mine, fitted(reviews, decided), actor, "verdict", details, verdict.text)

    async def answer(self, response_id: str, tenant: str) -> Row | None:
        """What became of a held answer of this tenant: its status and, once it is decided, verdict, text and message.

        The message is whole while it is held; after that `message` is None, and `text` the redacted copy.
        """
        async with self._engine.begin() as connection:
            # A client never hears of a spot check.
            mine = (reviews.c.response_id == response_id, reviews.c.tenant == tenant, reviews.c.reason != SPOT_CHECK)
            query = select(reviews).where(*mine)
            ticket = (await connection.execute(query)).mappings().one_or_none()
            if ticket is None:
                return None
            shown = {name: ticket[name] for name in ("id", "status", "verdict", "text")} | {"message": None}
            if ticket["status"] != "decided" or ticket["verdict"] == "reject":
                return shown
            index = EDITED if ticket["chosen"] is None else ticket["chosen"]
            message = await self._vault.held_message(connection, response_id, index)
            if message is not None:
                await self._vault.delivered(connection, response_id)
                shown |= {"text": message.get("content"), "message": message}
            elif ticket["chosen"] is not None:
                shown["text"] = await _content(connection, response_id, ticket["chosen"])
        return shown

    async def _chosen(self, review_id: str, verdict: Verdict) -> int | None:
        """The candidate that is sent: the winner where it is accepted, the one that was named where it was chosen."""
        if verdict.verdict not in ("accept", "choose"):
            return None
        async with self._engine.connect() as connection:
            ticket = await _ticket(connection, review_id, self._tenants)
            of = responses.c.id == ticket["response_id"]
            winner = (await connection.execute(select(responses.c.winner).where(of))).scalar_one()
            chosen = winner if verdict.verdict == "accept" else verdict.candidate
            held = chosen in await self._vault.held_messages(connection, ticket["response_id"])
            if chosen is None or not (held or await _content(connection, ticket["response_id"], chosen) is not None):
                raise InvalidRequest(
                    f"candidate {chosen} of {review_id} has no stored text to send; write it with `edit`",
                    param="candidate",
                    code="no_such_candidate",
                )
        return int(chosen)

    async def _change(
        self,
        review_id: str,
        allowed: ColumnElement[bool],
        values: Mapping[str, Any],
        actor: str,
        action: str,
        details: Row,
        text: str | None = None,
    ) -> Row:
        """Change an open ticket where that is allowed, and tell who did it, both or neither; of what is held, only
        what is to be sent stays."""
        async with self._engine.begin() as connection:
            free = (reviews.c.id == review_id, reviews.c.status == "open", allowed)
            done = await connection.execute(update(reviews).where(*free).values(**values))
            ticket = await _ticket(connection, review_id, self._tenants)
            if not done.rowcount:
                raise Conflict(_why_not(ticket, actor), code="review_not_yours")
            await log_action(connection, ticket["tenant"], actor, action, review_id, details)
            if action == "verdict":
                await forget_held(connection, ticket["response_id"], keep=ticket["chosen"])
                # Nobody waits for the verdict of a spot check.
                if text is not None and ticket["reason"] != SPOT_CHECK:
                    message = {"role": "assistant", "content": text}
                    await self._vault.put(connection, ticket["response_id"], EDITED, message)
            if self._tells and action == "verdict":
                await add_event(connection, "review.decided", ticket)
        return ticket


async def measure_backlog(queue: Reviews, metrics: Metrics, seconds: float = _BACKLOG_SECONDS) -> None:
    """Count what waits, on and on, until cancelled."""
    while True:
        try:
            count, oldest = await queue.backlog()
            metrics.review.open.set(count)
            metrics.review.oldest.set(oldest)
        except (SQLAlchemyError, OSError) as error:
            log.error("the review queue could not be counted: %s", failure(error))
        await asyncio.sleep(seconds)


async def _ticket(connection: AsyncConnection, review_id: str, tenants: Tenants) -> Row:
    """A ticket of these tenants. Raises NotFound for another's as for none."""
    query = select(reviews).where(reviews.c.id == review_id, seen_by(reviews.c.tenant, tenants))
    ticket = (await connection.execute(query)).mappings().one_or_none()
    if ticket is None:
        raise NotFound(f"there is no review {review_id}", param="id", code="review_not_found")
    return dict(ticket)


async def _content(connection: AsyncConnection, response_id: str, index: int) -> str | None:
    of = (candidates.c.response_id == response_id, candidates.c.index == index)
    content: str | None = (await connection.execute(select(candidates.c.content).where(*of))).scalar_one_or_none()
    return content


def _why_not(ticket: Row, actor: str) -> str:
    if ticket["status"] != "open":
        return f"{ticket['id']} was decided by {ticket['decided_by']}"
    if ticket["claimed_by"] not in (None, actor):
        return f"{ticket['id']} is held by {ticket['claimed_by']}"
    return f"{ticket['id']} is not held by you; claim it first"


def _now() -> int:
    return int(time.time() * 1000)
