"""From a sample of answers to what people say of it: drawn, shown blind, labelled, unblinded, on both stores."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.audits.agreement import figures, items_of
from service.audits.drawing import Draw, allocate, draw_audit
from service.audits.judging import AuditLabel, Audits
from service.audits.watch import watch_audits
from service.errors import Conflict, NotFound, SetupError
from service.keys.key_file import add_key
from service.store.database import open_database
from service.store.pages import Cursor
from service.store.redaction import Redactor
from service.store.tables import audit_items, candidates, responses
from service.telemetry.metrics import Metrics

NOW = 1_800_000_000_000


def response(number: int, route: str = "billing", decision: str = "review", **changed: Any) -> dict[str, Any]:
    """An answer whose winner is candidate 1 of three."""
    return {
        "id": f"chatcmpl-{number:04d}",
        "at_ms": NOW - 1_000 * number,
        "tenant": "acme",
        "user": None,
        "route": route,
        "route_probability": 0.9,
        "locale": None,
        "decision": decision,
        "stop_reason": "all_scored",
        "degraded": None,
        "sent": "winner",
        "winner": 1,
        "score": 2.0,
        "probability": 0.4,
        "n": 3,
        "n_completed": 3,
        "n_scored": 3,
        "prompt_tokens": 5,
        "completion_tokens": 30,
        "prompt": [{"role": "user", "content": f"question {number}"}],
        "parameters": {"max_tokens": 16, "temperature": 0.8, "seed": 3},
        "versions": {"policy": "smollm2-135m-instruct", "orm": "winnow-orm@3"},
        "calibrator": {"id": "winnow-orm@3/platt", "event": "acceptable", "labels": 211},
        "timings_ms": {},
        "redacted": [],
        "review_chance": 0.0,
        **changed,
    }


def candidate(number: int, index: int, content: str | None, score: float | None) -> dict[str, Any]:
    return {
        "response_id": f"chatcmpl-{number:04d}",
        "index": index,
        "score": score,
        "probability": None,
        "disagreement": None,
        "finish_reason": "stop",
        "stopped": False,
        "completion_tokens": 10,
        "content": content,
        "tool_calls": None,
    }


async def fill(engine: AsyncEngine, rows: list[dict[str, Any]], texts: tuple[str | None, ...] = ()) -> None:
    """Answers with three candidates each."""
    async with engine.begin() as connection:
        for row in rows:
            number = int(row["id"].removeprefix("chatcmpl-"))
            own = texts or (f"loser of {number}", f"winner of {number}", f"another loser of {number}")
            await connection.execute(insert(responses), [row])
            members = [candidate(number, i, content, [1.0, 2.0, 0.5][i]) for i, content in enumerate(own)]
            await connection.execute(insert(candidates), members)


async def no_greedy(row: Any) -> str | None:
    raise AssertionError("nobody wanted a greedy answer")


def a_draw(size: int = 40, seed: int = 1, overlap: float = 0.25, greedy: float = 0.0) -> Draw:
    return Draw(size, seed, NOW - 7 * 86_400_000, NOW + 1, overlap, greedy)


@pytest.fixture
async def engine(store_url: str) -> Any:
    opened = await open_database(store_url)
    yield opened
    await opened.dispose()


@pytest.mark.parametrize(
    ("sizes", "size", "expected"),
    [
        ({"a": 1000, "b": 1000}, 100, {"a": 50, "b": 50}),
        # 20 each, the other 60 in proportion to 980 and 20: 58.8 and 1.2, the remainder to the larger fraction.
        ({"a": 1000, "b": 40}, 100, {"a": 79, "b": 21}),
        ({"a": 1000, "b": 3}, 100, {"a": 97, "b": 3}),
        ({"a": 5, "b": 3}, 100, {"a": 5, "b": 3}),
        ({"a": 50, "b": 50, "c": 50}, 4, {"a": 2, "b": 1, "c": 1}),
    ],
)
def test_every_stratum_has_its_floor_and_the_rest_its_proportion(
    sizes: dict[str, int], size: int, expected: dict[str, int]
) -> None:
    assert allocate(sizes, size) == expected


async def test_a_draw_is_stratified_weighted_seeded_and_leaves_out_what_cannot_be_shown(engine: AsyncEngine) -> None:
    await fill(engine, [response(n) for n in range(60)])
    await fill(engine, [response(n, "fraud", "accept") for n in range(60, 90)])
    await fill(engine, [response(90, prompt=None), response(91, winner=None), response(92, at_ms=NOW - 10**12)])
    await fill(engine, [response(93)], ("same", "same", "same"))
    found = await draw_audit(engine, "audit-1", a_draw(), "anna", no_greedy)
    assert found["strata"] == {
        "billing/review": {"answers": 60, "drawn": 20},
        "fraud/accept": {"answers": 30, "drawn": 20},
    }
    assert found["left_out"] == {"without_texts_or_winner": 2, "all_candidates_alike": 1}
    assert (found["items"], found["labels_wanted"]) == (40, 50)
    async with engine.connect() as connection:
        items = [dict(row) for row in (await connection.execute(select(audit_items))).mappings()]
        told = (await connection.execute(text("select actor, action, subject from actions"))).one()
    assert {(i["stratum"], i["weight"]) for i in items} == {("billing/review", 3.0), ("fraud/accept", 1.5)}
    assert sum(item["weight"] for item in items) == 90
    assert {item["other"] for item in items} == {0, 2}
    assert 8 < sum(item["winner_left"] for item in items) < 32
    assert tuple(told) == ("anna", "audit_draw", "audit-1")
    again = await draw_audit(engine, "audit-2", a_draw(), "anna", no_greedy)
    other = await draw_audit(engine, "audit-3", a_draw(seed=2), "anna", no_greedy)
    assert again["strata"] == other["strata"]
    async with engine.connect() as connection:
        drawn = {
            name: list(
                await connection.execute(
                    select(audit_items.c.response_id, audit_items.c.other, audit_items.c.winner_left)
                    .where(audit_items.c.audit_id == name)
                    .order_by(audit_items.c.position)
                )
            )
            for name in ("audit-1", "audit-2", "audit-3")
        }
    assert drawn["audit-1"] == drawn["audit-2"] != drawn["audit-3"]
    with pytest.raises(SetupError, match="there is an audit audit-1 already"):
        await draw_audit(engine, "audit-1", a_draw(), "anna", no_greedy)


async def test_there_must_be_something_to_draw(engine: AsyncEngine) -> None:
    await fill(engine, [response(1, prompt=None)])
    with pytest.raises(SetupError, match="without texts or winner: 1"):
        await draw_audit(engine, "audit-1", a_draw(), "anna", no_greedy)


async def test_against_the_greedy_answer_and_the_same_text_is_a_tie_that_nobody_reads(engine: AsyncEngine) -> None:
    await fill(engine, [response(n) for n in range(30)])

    async def greedy(row: Any) -> str | None:
        number = int(row["id"].removeprefix("chatcmpl-"))
        assert row["prompt"] == [{"role": "user", "content": f"question {number}"}]
        return [f"winner of {number}", "greedily, ask anna@example.org", None][number % 3]

    found = await draw_audit(engine, "audit-1", a_draw(30, overlap=0.0, greedy=1.0), "anna", greedy)
    assert found["labels_wanted"] == 20
    sheet = await Audits(engine).sheet("audit-1", "anna")
    greedily = "greedily, ask [email]"
    assert Counter(greedily in (i["left"]["content"], i["right"]["content"]) for i in sheet) == {True: 10, False: 10}
    said = figures(await Audits(engine).judged("audit-1"))
    assert said["win_rate_over_greedy"]["value"] == 0.5
    assert said["win_rate_over_greedy"]["rows"] == 10

    async def fails(row: Any) -> str | None:
        raise SetupError("the policy is away")

    with pytest.raises(SetupError, match="away"):
        await draw_audit(engine, "audit-2", a_draw(30, greedy=1.0), "anna", fails)
    assert [row["id"] for row in await Audits(engine).listed()] == ["audit-1"]


async def test_labels_are_unblinded_by_the_side_that_the_winner_had(engine: AsyncEngine) -> None:
    await fill(engine, [response(n) for n in range(20)])
    await draw_audit(engine, "audit-1", a_draw(20, overlap=0.5), "anna", no_greedy)
    audits = Audits(engine)
    for name in ("anna", "bob"):
        while (item := await audits.next("audit-1", name)) is not None:
            assert item.keys() == {"item", "prompt", "left", "right"}
            assert item["left"].keys() == item["right"].keys() == {"content"}
            side = "left" if item["left"]["content"].startswith("winner") else "right"
            # Anna always prefers the winner and would send it; Bob finds all alike.
            choice = side if name == "anna" else "tie"
            said = {"choice": choice, f"{side}_acceptable": True}
            await audits.label("audit-1", name, [(item["item"], AuditLabel.model_validate(said))])
    judged = await audits.judged("audit-1")
    by_name = {
        name: [one for one in judged if one.label and one.label["annotator"] == name] for name in ("anna", "bob")
    }
    assert (len(by_name["anna"]), len(by_name["bob"])) == (20, 10)
    assert {one.preferred for one in by_name["anna"]} == {"winner"}
    assert {one.preferred for one in by_name["bob"]} == {"tie"}
    assert {(one.acceptable("winner"), one.acceptable("other")) for one in judged} == {(True, None)}
    assert len(items_of(judged)) == 20
    (listed,) = await audits.listed()
    assert (listed["items"], listed["labels_wanted"], listed["labels"]) == (20, 30, 30)


async def test_two_annotators_at_once_get_different_pairs_and_enough_is_enough(engine: AsyncEngine) -> None:
    await fill(engine, [response(n) for n in range(12)])
    await draw_audit(engine, "audit-1", a_draw(12, overlap=0.0), "anna", no_greedy)
    audits = Audits(engine)
    names = [f"annotator-{n}" for n in range(6)]
    first = await asyncio.gather(*(audits.next("audit-1", name) for name in names))
    assert len({item["item"] for item in first if item}) == 6
    again = await audits.next("audit-1", names[0])
    assert again == first[0], "what one holds one is given again"
    assert again is not None
    left = AuditLabel(choice="left")
    await audits.label("audit-1", names[0], [(again["item"], left)])
    with pytest.raises(Conflict, match="has all the labels"):
        await audits.label("audit-1", names[1], [(again["item"], left)])
    await audits.label("audit-1", names[0], [(again["item"], AuditLabel(choice="tie"))])
    async with engine.connect() as connection:
        details = (await connection.execute(text("select details from actions order by id desc limit 1"))).scalar_one()
    assert "instead_of" in str(details)
    with pytest.raises(NotFound, match="no item item-none"):
        await audits.label("audit-1", "anna", [(first[1]["item"], left), ("item-none", left)])  # type: ignore[index]
    assert (await audits.listed())[0]["labels"] == 1, "all or none"
    with pytest.raises(NotFound, match="there is no audit audit-9"):
        await audits.next("audit-9", "anna")


async def test_what_is_forgotten_leaves_the_audit(engine: AsyncEngine) -> None:
    from service.store.privacy.retention import forget_user

    await fill(engine, [response(n, user="u" if n else None) for n in range(4)])
    await draw_audit(engine, "audit-1", a_draw(4), "anna", no_greedy)
    assert await forget_user(engine, "acme", "u") == 3
    assert [i["prompt"][0]["content"] for i in await Audits(engine).sheet("audit-1", "anna")] == ["question 0"]


async def test_over_http_annotators_see_no_more_than_two_replies(start_gateway: Any, store_url: str) -> None:
    engine = await open_database(store_url)
    await fill(engine, [response(n) for n in range(6)])
    await draw_audit(engine, "audit-1", a_draw(6, overlap=0.0), "anna", no_greedy)
    async with start_gateway(store={"url": store_url, "days": None}) as gateway:

        async def call(method: str, path: str, name: str, role: str, body: Any = None) -> Any:
            key = add_key(gateway.keys_file, name, role, tenants=None if role == "client" else ["*"])
            headers = {"Authorization": f"Bearer {key}"}
            return await gateway.http.request(method, f"{gateway.url}/v1/audits{path}", headers=headers, json=body)

        for method, path in (("GET", ""), ("POST", "/audit-1/next"), ("PUT", "/audit-1/items/x")):
            assert (await call(method, path, "acme", "client", {"choice": "left"})).status_code == 403
        (listed,) = (await call("GET", "", "anna", "operator")).json()["data"]
        assert (listed["id"], listed["labels"]) == ("audit-1", 0)
        item = (await call("POST", "/audit-1/next", "anna", "operator")).json()
        assert item.keys() == {"item", "prompt", "left", "right"}
        assert "chatcmpl" not in json.dumps(item)
        path = f"/audit-1/items/{item['item']}"
        bad = await call("PUT", path, "anna", "operator", {"choice": "both"})
        assert (bad.status_code, bad.json()["error"]["param"]) == (400, "choice")
        said = {"choice": "left", "left_acceptable": True, "dimensions": {"honesty": "left"}}
        kept = await call("PUT", path, "anna", "operator", said)
        assert kept.status_code == 200
        assert kept.json()["annotator"] == "anna"
        assert (await call("PUT", path, "bob", "operator", said)).status_code == 409
        for _ in range(5):
            item = (await call("POST", "/audit-1/next", "root", "admin")).json()
            await call("PUT", f"/audit-1/items/{item['item']}", "root", "admin", {"choice": "tie"})
        assert (await call("POST", "/audit-1/next", "root", "admin")).json() == {"item": None}
    await engine.dispose()


async def test_the_newest_audit_s_agreement_is_a_metric(tmp_path: Path) -> None:
    engine = await open_database(f"sqlite:///{tmp_path / 'w.db'}")
    await fill(engine, [response(n) for n in range(8)])
    await draw_audit(engine, "audit-1", a_draw(8, overlap=0.0), "anna", no_greedy)
    audits, metrics = Audits(engine), Metrics(CollectorRegistry())

    def sample(name: str, audit: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"audit": audit})

    async def shown(name: str, audit: str, value: float) -> None:
        async with asyncio.timeout(10):
            while sample(name, audit) != pytest.approx(value, abs=5e-5):
                await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch_audits(audits, metrics, 0.02))
    await asyncio.sleep(0.1)
    assert sample("winnow_audit_agreement_ratio", "audit-1") is None, "what is not known is not shown"
    for number, item in enumerate(await audits.sheet("audit-1", "anna")):
        winner = "left" if item["left"]["content"].startswith("winner") else "right"
        other = "right" if winner == "left" else "left"
        choice = "tie" if number == 7 else other if number >= 5 else winner
        await audits.label("audit-1", "anna", [(item["item"], AuditLabel(choice=choice))])
    await shown("winnow_audit_agreement_ratio", "audit-1", 0.7143)
    await shown("winnow_audit_labels", "audit-1", 8)
    await draw_audit(engine, "audit-2", a_draw(8, seed=2), "anna", no_greedy)
    (item, *_) = await audits.sheet("audit-2", "anna")
    await audits.label("audit-2", "anna", [(item["item"], AuditLabel(choice="tie"))])
    await shown("winnow_audit_labels", "audit-2", 1)
    assert sample("winnow_audit_labels", "audit-1") is None
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await engine.dispose()


async def test_one_annotator_twice_at_once_is_one_label(engine: AsyncEngine) -> None:
    await fill(engine, [response(1)])
    await draw_audit(engine, "audit-1", a_draw(1, overlap=0.0), "anna", no_greedy)
    audits = Audits(engine)
    (item,) = await audits.sheet("audit-1", "anna")
    said = [(item["item"], AuditLabel(choice="left"))]
    done = await asyncio.gather(*(audits.label("audit-1", "anna", said) for _ in range(6)), return_exceptions=True)
    assert None in done
    assert all(result is None or isinstance(result, Conflict) for result in done), done
    assert (await audits.listed())[0]["labels"] == 1


async def test_a_store_that_is_locked_is_said(start_gateway: Any, tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "w.db"
    engine = await open_database(f"sqlite:///{path}")
    await fill(engine, [response(1)])
    await draw_audit(engine, "audit-1", a_draw(1, overlap=0.0), "anna", no_greedy)
    async with start_gateway(store={"url": f"sqlite:///{path}", "days": None}) as gateway:
        headers = {"Authorization": f"Bearer {add_key(gateway.keys_file, 'anna', 'operator', tenants=['*'])}"}
        locked = sqlite3.connect(path, isolation_level=None)
        locked.execute("begin immediate")
        refused = await gateway.http.post(f"{gateway.url}/v1/audits/audit-1/next", headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
        assert refused.headers["retry-after"] == "5"
        locked.execute("rollback")
        locked.close()
        assert (await gateway.http.post(f"{gateway.url}/v1/audits/audit-1/next", headers=headers)).status_code == 200
    await engine.dispose()


async def test_an_annotator_judges_answers_of_their_tenants_alone(engine: AsyncEngine) -> None:
    await fill(engine, [response(number, tenant="acme" if number < 2 else "globex") for number in range(5)])
    await draw_audit(engine, "audit-1", a_draw(5, overlap=0.0), "anna", no_greedy)
    acme, nobody = Audits(engine, frozenset(("acme",))), Audits(engine, frozenset(("initech",)))
    questions = {item["prompt"][0]["content"] for item in await acme.sheet("audit-1", "anna")}
    assert questions == {"question 0", "question 1"}
    (row,) = (await acme.page(Cursor(10))).rows
    assert (row["items"], row["labels_wanted"]) == (2, 2)
    assert len(await acme.judged("audit-1")) == 2
    for _ in range(2):
        item = await acme.next("audit-1", "anna")
        assert item is not None
        await acme.label("audit-1", "anna", [(item["item"], AuditLabel(choice="left"))])
    assert await acme.next("audit-1", "anna") is None, "the other three are another tenant's"
    hidden = (await Audits(engine).sheet("audit-1", "anna"))[0]["item"]
    with pytest.raises(NotFound):
        await acme.label("audit-1", "anna", [(hidden, AuditLabel(choice="left"))])
    assert (await nobody.page(Cursor(10))).rows == []
    with pytest.raises(NotFound):
        await nobody.next("audit-1", "anna")


async def test_notes_and_greedy_answers_are_redacted_as_the_operator_says(engine: AsyncEngine) -> None:
    async def greedy(row: Any) -> str | None:
        return "Call 581 2345, or write to a@b.org."

    await fill(engine, [response(1)])
    # In Germany, which the default names, the number can be dialled.
    american = Redactor(regions=("US",))
    await draw_audit(engine, "audit-1", a_draw(1, overlap=0.0, greedy=1.0), "anna", greedy, american)
    audits = Audits(engine, redactor=american)
    (item,) = await audits.sheet("audit-1", "anna")
    assert "Call 581 2345, or write to [email]." in [item[side]["content"] for side in ("left", "right")]
    said = AuditLabel(choice="left", note="I called 581 2345 and a@b.org")
    await audits.label("audit-1", "anna", [(item["item"], said)])
    (judged,) = await audits.judged("audit-1")
    assert judged.label is not None
    assert judged.label["note"] == "I called 581 2345 and [email]"
