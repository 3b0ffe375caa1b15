"""Draws an audit: a stratified random sample of answers, each winner paired with another reply, sides shuffled."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import and_, exists, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.errors import SetupError
from service.store.redaction import Redactor, redact, redact_note
from service.store.rows import Row
from service.store.tables import actions, audit_items, audits, candidates, responses

# A rare stratum is drawn from too: at least so many, where it has them.
_FLOOR = 20
_GREEDY_AT_ONCE = 4

# The policy's greedy answer to an answer's prompt; None where it cannot be compared.
Greedy = Callable[[Row], Awaitable[str | None]]


@dataclass(frozen=True)
class Draw:
    """What to draw: `size` answers of [since_ms, until_ms), the share `overlap` of them to be labelled twice, the share
    `greedy` against the policy's greedy answer, the others against another candidate."""

    size: int
    seed: int
    since_ms: int
    until_ms: int
    overlap: float
    greedy: float


@dataclass(frozen=True)
class _Sampled:
    """An answer of the sample. It stands for `weight` answers of its stratum; `row` has the texts to choose from."""

    stratum: str
    weight: float
    row: Row


async def draw_audit(
    engine: AsyncEngine, name: str, draw: Draw, actor: str, ask_greedy: Greedy, redactor: Redactor = redact
) -> Row:
    """Draw, ask the policy for the greedy answers, write all of it or nothing; the audit's row.

    Strata are routes and decisions. Raises SetupError where the name is taken or there is nothing to draw.
    """
    chance = random.Random(draw.seed)
    async with engine.connect() as connection:
        if (await connection.execute(select(audits.c.id).where(audits.c.id == name))).first() is not None:
            raise SetupError(f"there is an audit {name} already; draw another one with another --seed")
        strata, left_out = await _population(connection, draw)
        if not strata:
            raise SetupError(f"no answer of that time can be audited ({_told(left_out)})")
        counts = allocate({stratum: len(ids) for stratum, ids in strata.items()}, draw.size)
        sample = await _sample(connection, strata, counts, chance)

    async def ask(row: Row) -> str | None:
        text = await ask_greedy(row)
        return await redact_note(redactor, text) if text else text

    items = await _items(name, sample, draw, chance, ask)
    audit = {
        "id": name,
        "at_ms": int(time.time() * 1000),
        "since_ms": draw.since_ms,
        "until_ms": draw.until_ms,
        "seed": draw.seed,
        "strata": {stratum: {"answers": len(ids), "drawn": counts[stratum]} for stratum, ids in strata.items()},
        "left_out": left_out,
    }
    await _write(engine, audit, items, actor)
    return audit | {"items": len(items), "labels_wanted": sum(item["labels_wanted"] for item in items)}


def allocate(sizes: Mapping[str, int], size: int) -> dict[str, int]:
    """How many of each stratum: a floor for each, the rest in proportion by largest remainders, never more than it has.

    The counts' sum is `size`, or all where there are no more.
    """
    floor = min(_FLOOR, size // len(sizes))
    counts = {stratum: min(has, max(1, floor)) for stratum, has in sizes.items()}
    left = min(size, sum(sizes.values())) - sum(counts.values())
    spare = {stratum: has - counts[stratum] for stratum, has in sizes.items()}
    total = sum(spare.values())
    if left <= 0 or total == 0:
        return counts
    shares = {stratum: left * has / total for stratum, has in spare.items()}
    for stratum, share in shares.items():
        counts[stratum] += int(share)
    rest = left - sum(int(share) for share in shares.values())
    for stratum in sorted(shares, key=lambda name: (int(shares[name]) - shares[name], name))[:rest]:
        counts[stratum] += 1
    return counts


async def _population(connection: AsyncConnection, draw: Draw) -> tuple[dict[str, list[str]], Row]:
    """Ids by stratum of the answers that can be audited, and how many cannot, by why."""
    in_time = and_(responses.c.at_ms >= draw.since_ms, responses.c.at_ms < draw.until_ms)
    winner, other = candidates.alias("winner"), candidates.alias("other")
    shown = and_(responses.c.prompt.is_not(None), winner.c.content.is_not(None))
    differs = exists().where(
        other.c.response_id == responses.c.id,
        other.c.index != winner.c.index,
        other.c.score.is_not(None),
        other.c.content != winner.c.content,
    )
    of_winner = and_(winner.c.response_id == responses.c.id, winner.c.index == responses.c.winner)
    query = (
        select(responses.c.id, responses.c.route, responses.c.decision, differs.label("differs"))
        .join(winner, of_winner)
        .where(in_time, shown)
        .order_by(responses.c.id)
    )
    strata, alike = defaultdict(list), 0
    for response_id, route, decision, has_other in await connection.execute(query):
        if has_other:
            strata[f"{route}/{decision}"].append(response_id)
        else:
            alike += 1
    everything = (await connection.execute(select(func.count()).select_from(responses).where(in_time))).scalar_one()
    without = everything - alike - sum(len(ids) for ids in strata.values())
    return dict(strata), {"without_texts_or_winner": without, "all_candidates_alike": alike}


async def _sample(
    connection: AsyncConnection, strata: Mapping[str, list[str]], counts: Mapping[str, int], chance: random.Random
) -> list[_Sampled]:
    """Answers of every stratum, in random order."""
    drawn = [
        (stratum, len(ids) / counts[stratum], response_id)
        for stratum, ids in sorted(strata.items())
        for response_id in chance.sample(ids, counts[stratum])
    ]
    chance.shuffle(drawn)
    return [_Sampled(stratum, weight, await _read(connection, response_id)) for stratum, weight, response_id in drawn]


async def _items(
    audit_id: str, sample: list[_Sampled], draw: Draw, chance: random.Random, ask_greedy: Greedy
) -> list[Row]:
    """Each answer's winner beside another reply, as annotators will see them."""
    twice = set(chance.sample(range(len(sample)), round(draw.overlap * len(sample))))
    against_greedy = [chance.random() < draw.greedy for _ in sample]
    others = [chance.choice(answer.row["others"]) for answer in sample]
    sides = [chance.random() < 0.5 for _ in sample]
    greedy = await _ask_all([answer.row for answer in sample], against_greedy, ask_greedy)
    return [
        {
            # Not from the seed: nobody who knows it can tell what an item is.
            "id": f"item-{secrets.token_hex(8)}",
            "audit_id": audit_id,
            "position": position,
            "response_id": answer.row["id"],
            "stratum": answer.stratum,
            "weight": answer.weight,
            "winner_left": sides[position],
            "other": others[position] if greedy[position] is None else None,
            "greedy": greedy[position],
            "labels_wanted": _wanted(answer.row, greedy[position], position in twice),
        }
        for position, answer in enumerate(sample)
    ]


async def _write(engine: AsyncEngine, audit: Row, items: list[Row], actor: str) -> None:
    """The audit, its items and who drew it, all or none."""
    action = {"at_ms": audit["at_ms"], "actor": actor, "action": "audit_draw", "subject": audit["id"], "details": {}}
    try:
        async with engine.begin() as connection:
            await connection.execute(insert(audits).values(audit))
            await connection.execute(insert(audit_items), items)
            await connection.execute(insert(actions).values(action))
    except IntegrityError as error:
        raise SetupError(f"{audit['id']} was drawn by somebody else, or its answers were deleted meanwhile") from error


async def _read(connection: AsyncConnection, response_id: str) -> Row:
    """An answer with its winner's text, and the candidates that it can be held against."""
    answer = (await connection.execute(select(responses).where(responses.c.id == response_id))).mappings().one()
    query = select(candidates).where(candidates.c.response_id == response_id).order_by(candidates.c.index)
    members = [dict(row) for row in (await connection.execute(query)).mappings()]
    (winner,) = (row["content"] for row in members if row["index"] == answer["winner"])
    others = [row["index"] for row in members if row["score"] is not None and row["content"] not in (None, winner)]
    return {**answer, "winner_text": winner, "others": others}


async def _ask_all(rows: list[Row], needed: list[bool], ask: Greedy) -> list[str | None]:
    gate = asyncio.Semaphore(_GREEDY_AT_ONCE)

    async def one(row: Row, is_needed: bool) -> str | None:
        if not is_needed:
            return None
        async with gate:
            return await ask(row)

    return await asyncio.gather(*(one(row, is_needed) for row, is_needed in zip(rows, needed, strict=True)))


def _wanted(row: Row, greedy: str | None, twice: bool) -> int:
    """The same text twice is a tie that nobody needs to see."""
    return 0 if greedy == row["winner_text"] else 2 if twice else 1


def _told(left_out: Row) -> str:
    return ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in left_out.items())
