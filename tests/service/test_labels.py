"""What people said, as pairs and labelled replies that the trainer's own schemas take, on both stores."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from reward_model.labels import LabelledReply, Pair, split_of
from reward_model.training.generation.collect import collect
from service.audits.drawing import Draw, draw_audit
from service.audits.judging import AuditLabel, Audits
from service.keys.key_file import add_key
from service.labels.reading import Scope, read_labels
from service.store.database import open_database
from service.store.pages import Cursor

ALWAYS = Scope(0, 2**62)


@pytest.fixture
async def seen(start_gateway: Any, store_url: str, script: Any) -> Any:
    """A gateway whose answers all wait for Anna, and what asks and judges there."""

    class Seen:
        def __init__(self, gateway: Any) -> None:
            self.gateway = gateway
            self.anna = add_key(gateway.keys_file, "anna", "operator", tenants=["*"])

        async def call(self, method: str, path: str, body: Any = None, key: str | None = None) -> Any:
            headers = {"Authorization": f"Bearer {key or self.anna}"}
            return await gateway.http.request(method, f"{gateway.url}/v1{path}", headers=headers, json=body)

        async def judged(self, question: str, verdict: dict[str, Any]) -> dict[str, Any]:
            """Of an answer: its ticket before the verdict."""
            shown = (await gateway.ask(question)).json()["rerank"]
            ticket = (await self.call("GET", f"/reviews/{shown['review_id']}")).json()
            await self.call("POST", f"/reviews/{ticket['id']}/claim")
            decided = await self.call("POST", f"/reviews/{ticket['id']}/verdict", verdict)
            assert decided.status_code == 200, decided.text
            return ticket  # type: ignore[no-any-return]

        async def read(self) -> tuple[list[Pair], list[LabelledReply]]:
            engine = await open_database(store_url)
            pairs = await read_labels(engine, "pairs", ALWAYS, Cursor(500), high_stakes={"billing"})
            replies = await read_labels(engine, "replies", ALWAYS, Cursor(500))
            await engine.dispose()
            return [Pair.model_validate(p) for p in pairs.rows], [LabelledReply.model_validate(r) for r in replies.rows]

    async with start_gateway(store={"url": store_url}) as gateway:
        gateway.scorer.probability = lambda score: 0.45
        gateway.policy.answer = lambda body, number: script([f"reply {number} " + "x" * (number % 8)])
        yield Seen(gateway)


async def test_verdicts_become_pairs_and_replies_with_their_chance(seen: Any) -> None:
    accepted = await seen.judged("I was charged twice", {"verdict": "accept"})
    chosen = await seen.judged("I was charged thrice", {"verdict": "choose", "candidate": 3})
    edited = await seen.judged(
        "charged again", {"verdict": "edit", "text": "By hand: a@b.org.", "winner_acceptable": True, "note": "c@d.org"}
    )
    rejected = await seen.judged("charged wrongly", {"verdict": "reject"})
    pairs, replies = await seen.read()
    by_id = {pair.id: pair for pair in pairs}
    assert by_id.keys() == {chosen["id"], edited["id"]}
    pair = by_id[chosen["id"]]
    texts = {candidate["index"]: candidate["content"] for candidate in chosen["candidates"]}
    assert (pair.chosen, pair.rejected) == (texts[3], texts[chosen["winner"]])
    assert (pair.label, pair.bucket, pair.risk, pair.source) == ("review", "billing", "high", "winnow")
    assert [(vote.id, vote.vote) for vote in pair.annotators] == [("anna", "chosen")]
    assert by_id[edited["id"]].chosen == "By hand: [email]."
    assert by_id[edited["id"]].origin.chosen == "human"
    kept = (await seen.call("GET", f"/reviews/{edited['id']}")).json()
    assert (kept["text"], kept["note"]) == ("By hand: [email].", "[email]")
    assert pair.prompt[0].text() == "I was charged thrice"
    said = {reply.id: reply for reply in replies}
    assert {name: reply.acceptable for name, reply in said.items()} == {
        f"{accepted['id']}:winner": True,
        f"{chosen['id']}:winner": False,
        f"{chosen['id']}:chosen": True,
        f"{edited['id']}:winner": True,
        f"{edited['id']}:written": True,
        f"{rejected['id']}:winner": False,
    }
    written = said[f"{edited['id']}:written"]
    assert (written.selection, written.split) == (None, "train"), "no calibrator of the best of n learns from it"
    winner = said[f"{accepted['id']}:winner"]
    assert (winner.chance, winner.annotator, winner.finish_reason) == (1.0, "anna", "stop")
    assert winner.selection is not None
    assert (winner.selection.n, winner.selection.rank, winner.selection.temperature) == (8, 1, 0.8)
    assert winner.selection.index == accepted["winner"]
    assert len({reply.group for reply in replies}) == 4


async def test_feedback_of_what_was_sent_and_preferences(seen: Any) -> None:
    gateway = seen.gateway
    gateway.scorer.probability = lambda score: 0.9
    sent = [(await gateway.ask("I was charged twice")).json() for _ in range(2)]
    for body in (
        {"response_id": sent[0]["id"], "thumb": "down"},
        {"response_id": sent[0]["id"], "rating": 3},
        {"response_id": sent[1]["id"], "preferred": 2, "rejected": 5, "comment": "clearer"},
    ):
        assert (await seen.call("POST", "/feedback", body, gateway.key)).status_code == 201
    gateway.scorer.probability = lambda score: 0.45
    held = (await gateway.ask("I was charged twice")).json()
    await seen.call("POST", "/feedback", {"response_id": held["id"], "thumb": "up"}, gateway.key)
    for _ in range(60):
        pairs, replies = await seen.read()
        if pairs and len(replies) == 2:
            break
        await asyncio.sleep(0.1)
    (pair,) = pairs
    assert pair.label == "human"
    assert pair.annotators[0].id == "acme"
    assert {(reply.acceptable, reply.rating, reply.chance) for reply in replies} == {
        (False, None, None),
        (True, 3, None),
    }
    assert {reply.completion for reply in replies} == {sent[0]["choices"][0]["message"]["content"]}
    assert len({pair.group, *(reply.group for reply in replies)}) == 1, "one prompt is one group"


async def test_audits_become_pairs_with_votes_and_replies_with_weights(seen: Any, store_url: str) -> None:
    for number in range(6):
        await seen.gateway.ask(f"charged {number}")
    engine = await open_database(store_url)
    audits = Audits(engine)

    async def greedy(row: Any) -> str | None:
        return "Greedily."

    draw = Draw(3, 4, 0, 2**62, overlap=1.0, greedy=0.5)
    await draw_audit(engine, "audit-1", draw, "anna", greedy)
    sheet = await audits.sheet("audit-1", "anna")
    judged = {one.item["id"]: one.item for one in await audits.judged("audit-1")}
    for place, row in enumerate(sheet):
        left_wins = judged[row["item"]]["winner_left"]
        winner, other = ("left", "right") if left_wins else ("right", "left")
        said = [
            # Both prefer the winner; one each; both the other.
            {"choice": [winner, winner, other][place], f"{winner}_acceptable": True, "dimensions": {"honesty": winner}},
            {"choice": [winner, other, other][place], f"{winner}_acceptable": place != 1},
        ]
        for name, label in zip(("anna", "bob"), said, strict=True):
            await audits.label("audit-1", name, [(row["item"], AuditLabel.model_validate(label))])
    await engine.dispose()
    pairs, replies = await seen.read()
    # Judgements of one millisecond have no order of their own.
    shown = [row["item"] for row in sheet]
    pairs.sort(key=lambda pair: shown.index(pair.id))
    assert [pair.outcome for pair in pairs] == ["win", "tie", "win"]
    assert [pair.strength for pair in pairs] == [1.0, 0.5, 1.0]
    texts = [judged[row["item"]] for row in sheet]
    for pair, item, place in zip(pairs, texts, range(3), strict=True):
        first, second = ("other", "winner") if place == 2 else ("winner", "other")
        assert (pair.chosen, pair.rejected) == (item[f"{first}_reply"]["content"], item[f"{second}_reply"]["content"])
        assert pair.dimensions == {"honesty": -1 if place == 2 else 1}
        assert pair.shown_first == ("chosen" if item["winner_left"] == (first == "winner") else "rejected")
    assert [(vote.id, vote.vote) for vote in pairs[1].annotators] == [("anna", "chosen"), ("bob", "rejected")]
    # In the second one Bob would not send what Anna would: nothing is said of it.
    assert [(reply.acceptable, reply.annotator) for reply in replies] == [(True, "anna+bob")] * 2
    assert {reply.chance for reply in replies} == {0.5}
    assert {reply.label for reply in [*pairs, *replies]} == {"audit"}


async def test_export_writes_a_folder_that_training_reads(seen: Any, tmp_path: Path) -> None:
    for number in range(3):
        await seen.judged(f"charged {number}", {"verdict": "choose", "candidate": 0})
    gateway, out = seen.gateway, tmp_path / "data"
    report = await asyncio.to_thread(collect, gateway.url, seen.anna, out, None, None)
    assert report["pairs"] == {"reviews": 3, "audits": 0, "feedback": 0}
    assert report["replies"] == {"reviews": 6}
    assert sorted(path.name for path in out.rglob("*.gz")) == ["labelled_replies.jsonl.gz", "reviews.jsonl.gz"]
    with gzip.open(out / "preferences" / "reviews.jsonl.gz", "rt") as stream:
        groups = {json.loads(line)["group"] for line in stream}
    assert len(groups) == 3
    assert {split_of(group) for group in groups} <= {"train", "validation", "test"}
    none = await asyncio.to_thread(collect, gateway.url, seen.anna, tmp_path / "later", "2100-01-01", None)
    assert none["pairs"] == {"reviews": 0, "audits": 0, "feedback": 0}
    assert not (tmp_path / "later").exists()


async def test_labels_are_for_operators_and_bad_dates_are_named(seen: Any) -> None:
    assert (await seen.call("GET", "/labels/pairs", key=seen.gateway.key)).status_code == 403
    assert (await seen.call("GET", "/labels/others")).status_code == 400
    bad = await seen.call("GET", "/labels/pairs?since=yesterday")
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "since")


async def test_what_was_redacted_says_so(seen: Any) -> None:
    await seen.judged("I was charged on 4111 1111 1111 1111", {"verdict": "reject"})
    answer = await seen.call("GET", "/labels/replies")
    (row,) = answer.json()["data"]
    assert row["redacted"] == ["card"]
    assert row["prompt"][-1]["content"] == "I was charged on [card]"


async def test_labels_come_in_pages_of_judgements(seen: Any) -> None:
    verdicts = [{"verdict": "choose", "candidate": 3}, {"verdict": "reject"}, {"verdict": "choose", "candidate": 3}]
    ids = [(await seen.judged(f"charged {number}", verdict))["id"] for number, verdict in enumerate(verdicts)]

    async def page(kind: str, **query: Any) -> tuple[list[str], Any, Any, bool]:
        answer = await seen.call(
            "GET", f"/labels/{kind}?" + "&".join(f"{name}={value}" for name, value in query.items())
        )
        body = answer.json()
        assert (answer.status_code, body["object"]) == (200, "list"), body
        return [row["id"] for row in body["data"]], body["first_id"], body["last_id"], body["has_more"]

    everything = [f"{ids[0]}:winner", f"{ids[0]}:chosen", f"{ids[1]}:winner", f"{ids[2]}:winner", f"{ids[2]}:chosen"]
    assert await page("replies") == (everything, ids[0], ids[2], False)
    # Of the second one, which was rejected, there is no pair: the page counts it all the same.
    assert await page("pairs", limit=2) == ([ids[0]], ids[0], ids[1], True)
    assert await page("pairs", limit=2, after=ids[1]) == ([ids[2]], ids[2], ids[2], False)
    assert await page("pairs", limit=1, after=ids[0]) == ([], ids[1], ids[1], True)
    assert await page("replies", limit=2, before=ids[2]) == (everything[:3], ids[0], ids[1], False)
    assert await page("pairs", since="2100-01-01T00:00:00Z") == ([], None, None, False)
    refused = await seen.call("GET", "/labels/pairs?after=nobody")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "no_such_cursor")
