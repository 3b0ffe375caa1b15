"""`winnow data pairs`: losers of every strength, sampled from the policy, an older checkpoint and a teacher.

Finished prompts go to a journal, `OUT.part`, one line each; when the last is done the pairs are written to OUT
in one step. A run that was interrupted reads the journal and asks for what is missing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from reward_model.errors import BadInput, RewardModelError
from reward_model.jsonl import json_line, write_jsonl
from reward_model.labels import Origin, Pair
from reward_model.text.formatting import Completion
from reward_model.training.generation.endpoints import Endpoint, Refused, Sample, SamplingParameters, sample, with_model
from reward_model.training.generation.prompts import PromptRow

# Seconds for one reply: a large teacher is slow, a small one on a CPU slower.
_TIMEOUT = 300.0
# Without a winner that is given, who is likely the better one of two.
_STRENGTH: tuple[Origin, ...] = ("teacher", "policy", "older_policy")

# Who wrote it, the how-manieth of theirs it is, and the reply.
Reply = tuple[Origin, int, Sample]


def generate(
    prompts: Sequence[PromptRow],
    endpoints: Sequence[Endpoint],
    how: SamplingParameters,
    out: Path,
    concurrency: int = 8,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Sample replies to every prompt, write the pairs they make to `out`, and return the counts.

    `concurrency` is the number of requests in flight. Raises BadInput when `out` exists or its journal was begun
    with other settings, RewardModelError when an endpoint does not work or refuses all; the journal keeps what is
    done.
    """
    if out.exists():
        raise BadInput(f"{out} exists; choose another --out")
    if not endpoints:
        raise BadInput("there is nobody to ask: name --policy, --older or --teacher")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        finished = asyncio.run(_sample_all(prompts, endpoints, how, Path(f"{out}.part"), concurrency, progress))
    except ExceptionGroup as group:
        known, unknown = group.split(RewardModelError)
        if known is None or unknown is not None:
            raise
        raise _first(known) from None
    return _publish(prompts, finished, out)


def _first(group: ExceptionGroup[RewardModelError]) -> RewardModelError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error


async def _sample_all(
    prompts: Sequence[PromptRow],
    endpoints: Sequence[Endpoint],
    how: SamplingParameters,
    journal: Path,
    concurrency: int,
    progress: Callable[[int], None] | None,
) -> dict[str, dict[str, Any]]:
    """Finished prompts by id, those of the journal among them."""
    import httpx

    async with httpx.AsyncClient(timeout=_TIMEOUT, limits=httpx.Limits(max_connections=concurrency)) as client:
        named = [await with_model(client, target) for target in endpoints]
        finished = _open_journal(journal, _settings(prompts, named, how))
        waiting = iter([row for row in prompts if row.id not in finished])
        in_flight = asyncio.Semaphore(concurrency)

        async def ask(row: PromptRow, target: Endpoint, turn: int) -> Reply | Refused:
            seed = _seed(how.seed, row.id, target.origin, turn)
            async with in_flight:
                try:
                    return target.origin, turn, await sample(client, target, row.prompt, how, seed)
                except Refused as refused:
                    return refused

        async def work() -> None:
            for row in waiting:
                async with asyncio.TaskGroup() as group:
                    asked = [group.create_task(ask(row, target, i)) for target in named for i in range(how.n)]
                done = finished[row.id] = _line(row, [task.result() for task in asked])
                # A run that goes on asks again for what was refused: an option may have been the reason.
                if not done["refusals"]:
                    _append(journal, done)
                if progress is not None:
                    progress(len(finished))

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    return finished


def _line(row: PromptRow, answers: Sequence[Reply | Refused]) -> dict[str, Any]:
    """A line of the journal: the prompt's pairs, and how many replies were passed over, and why."""
    skipped: Counter[str] = Counter()
    replies = [answer for answer in answers if not isinstance(answer, Refused)]
    refusals = [str(answer) for answer in answers if isinstance(answer, Refused)]
    pairs = list(pairs_of(row, _distinct(row, replies, skipped)))
    if refusals:
        skipped["refused"] = len(refusals)
    return {"prompt": row.id, "pairs": pairs, "skipped": dict(skipped), "refusals": refusals[:1]}


def _append(journal: Path, line: dict[str, Any]) -> None:
    """No other line can come between: nothing is awaited here."""
    with journal.open("ab") as stream:
        stream.write(json_line(line))
        stream.flush()
        os.fsync(stream.fileno())


def _distinct(row: PromptRow, replies: Sequence[Reply], skipped: Counter[str]) -> list[Reply]:
    """Replies that say something, and nothing that the reference or an earlier one says already."""
    reference = row.reference_reply()
    seen = {reference.text().strip()} if reference else set()
    kept: list[Reply] = []
    for reply in replies:
        text = reply[2].completion.text().strip()
        if not text:
            skipped["empty"] += 1
        elif text in seen:
            skipped["identical"] += 1
        else:
            seen.add(text)
            kept.append(reply)
    return kept


def pairs_of(row: PromptRow, replies: Sequence[Reply]) -> Iterator[dict[str, Any]]:
    """The reference against every reply; without one, replies of different origins, the likely better one first.

    With a single origin its replies meet two by two. The label stays null, unless the reference is known to
    win: somebody has yet to judge.
    """
    reference = row.reference_reply()
    if reference is not None:
        for origin, turn, reply in replies:
            yield _pair(row, f"{row.id}:{origin}{turn}", (row.reference_origin, reference), (origin, reply))
        return
    for (origin, turn, better), (other, other_turn, worse) in _couples(replies):
        yield _pair(row, f"{row.id}:{origin}{turn}-{other}{other_turn}", (origin, better), (other, worse))


def _couples(replies: Sequence[Reply]) -> list[tuple[Reply, Reply]]:
    by_origin = [[reply for reply in replies if reply[0] == name] for name in _STRENGTH]
    present = [found for found in by_origin if found]
    if len(present) == 1:
        return list(zip(present[0][::2], present[0][1::2], strict=False))
    return [couple for a, b in combinations(present, 2) for couple in zip(a, b, strict=False)]


Side = tuple[Origin | None, Completion | Sample]


def _pair(row: PromptRow, name: str, chosen: Side, rejected: Side) -> dict[str, Any]:
    """A pair as it is written; which side an annotator is to see first is drawn by its id."""
    sides = {"chosen": chosen, "rejected": rejected}
    samples = {side: reply for side, (_, reply) in sides.items() if isinstance(reply, Sample)}
    judged = row.reference_label if row.reference is not None else None
    pair = Pair.model_validate(
        {
            **row.shared(),
            **{side: reply.completion if isinstance(reply, Sample) else reply for side, (_, reply) in sides.items()},
            "id": name,
            "origin": {side: origin for side, (origin, _) in sides.items()},
            "shown_first": None if judged else ("rejected", "chosen")[_hash(name) % 2],
        }
    )
    written = pair.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    for side in sides:
        if not written[side].get("tool_calls"):
            written[side] = written[side].get("content", "")
    made = {side: {"model": reply.model, "finish_reason": reply.finish_reason} for side, reply in samples.items()}
    return {**written, "label": judged, "meta": {"sampled": made}}


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:4])


def _seed(*parts: Any) -> int:
    """A seed of its own for each reply; 31 bits, which every server takes."""
    return _hash(":".join(map(str, parts))) & 0x7FFFFFFF


def _settings(prompts: Sequence[PromptRow], endpoints: Sequence[Endpoint], how: SamplingParameters) -> dict[str, Any]:
    """What an interrupted run must share with the one that goes on."""
    asked = hashlib.sha256(b"".join(json_line(row.model_dump(mode="json")) for row in prompts)).hexdigest()
    return {"prompts": asked, "sampling": asdict(how), "models": {target.origin: target.model for target in endpoints}}


def _open_journal(path: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Finished prompts of an earlier run; a line that it did not finish is cut off, a new journal begun."""
    if not path.exists():
        path.write_bytes(json_line(settings))
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    lines = [json.loads(line) for line in whole.splitlines()]
    if lines and lines[0] != settings:
        raise BadInput(f"{path} was begun with other prompts, models or sampling: delete it, or choose another --out")
    if len(whole) < len(content) or not lines:
        with path.open("r+b") as stream:
            stream.truncate(len(whole))
            if not lines:
                stream.write(json_line(settings))
    return {line["prompt"]: line for line in lines[1:]}


def _publish(prompts: Sequence[PromptRow], finished: dict[str, dict[str, Any]], out: Path) -> dict[str, Any]:
    """Write all pairs in the order of the prompts, in one step, and end the journal."""
    lines = [finished[row.id] for row in prompts]
    pairs = [pair for line in lines for pair in line["pairs"]]
    refusals = [reason for line in lines for reason in line["refusals"]]
    if refusals and not pairs:
        raise RewardModelError(f"no pair could be made: {refusals[0]}")
    scratch = out.with_name(f".writing-{out.name}")
    write_jsonl(scratch, pairs)
    scratch.replace(out)
    Path(f"{out}.part").unlink()
    skipped = sum((Counter(line["skipped"]) for line in lines), Counter[str]())
    losers = Counter(pair["origin"]["rejected"] for pair in pairs)
    return {
        "out": str(out),
        "prompts": len(prompts),
        "pairs": len(pairs),
        "labelled": sum(pair["label"] is not None for pair in pairs),
        "rejected_origin": dict(sorted(losers.items())),
        "skipped": dict(sorted(skipped.items())),
        "first_refusal": refusals[0] if refusals else None,
    }
