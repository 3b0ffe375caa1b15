"""Whose answers a key sees, in reviews, audits, labels, the log and deletion; and lists in pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from service.keys.key_file import add_key

Json = dict[str, Any]


class Caller:
    """Someone with a key."""

    def __init__(self, gateway: Any, key: str) -> None:
        self._gateway = gateway
        self._headers = {"Authorization": f"Bearer {key}"}

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        url = f"{self._gateway.url}/v1{path}"
        return await self._gateway.http.request(method, url, headers=self._headers, json=body)

    async def get(self, path: str) -> Any:
        return (await self.call("GET", path)).json()


class House:
    """Two tenants with a held answer each, and people who see one, the other, or both."""

    def __init__(self, gateway: Any) -> None:
        keys = gateway.keys_file
        self.gateway = gateway
        self.keys = {"acme": gateway.key, "globex": add_key(keys, "globex", "client")}
        self.anna = Caller(gateway, add_key(keys, "acme", "operator", name="anna"))
        self.both = Caller(gateway, add_key(keys, "vendor", "admin", tenants=["acme", "globex"]))
        self.root = Caller(gateway, add_key(keys, "root", "admin", tenants=["*"]))
        self.own = Caller(gateway, add_key(keys, "acme", "admin", name="ada"))
        self.tickets: dict[str, str] = {}

    async def ask(self, tenant: str, **fields: Any) -> Json:
        headers = {"Authorization": f"Bearer {self.keys[tenant]}"}
        body = {"model": "winnow", "messages": [{"role": "user", "content": "I was charged twice"}], **fields}
        answer = await self.gateway.http.post(f"{self.gateway.url}/v1/chat/completions", headers=headers, json=body)
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found


@pytest.fixture
async def house(start_gateway: Any, tmp_path: Path) -> AsyncIterator[House]:
    store = {"url": f"sqlite:///{tmp_path / 'a.db'}"}
    async with start_gateway(store=store) as gateway:
        gateway.scorer.probability = lambda score: 0.45
        made = House(gateway)
        for tenant in ("acme", "globex"):
            made.tickets[tenant] = (await made.ask(tenant, user=f"user@{tenant}"))["rerank"]["review_id"]
        yield made


async def test_a_reviewer_sees_the_tickets_of_their_tenants_alone(house: House) -> None:
    acme, globex = house.tickets["acme"], house.tickets["globex"]
    for caller, seen in ((house.anna, [acme]), (house.both, [acme, globex]), (house.root, [acme, globex])):
        # Answers of one second have no order of their own.
        assert {row["id"] for row in (await caller.get("/reviews"))["data"]} == set(seen)
    for method, path, body in (
        ("GET", "", None),
        ("POST", "/claim", {}),
        ("POST", "/release", {}),
        ("POST", "/verdict", {"verdict": "reject"}),
    ):
        refused = await house.anna.call(method, f"/reviews/{globex}{path}", body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "review_not_found")
    ticket = await house.both.get(f"/reviews/{globex}")
    assert (ticket["status"], ticket["claimed_by"]) == ("open", None), "nothing of it came through"
    assert (await house.anna.call("POST", f"/reviews/{acme}/claim")).json()["claimed_by"] == "anna"
    assert (await house.both.call("POST", f"/reviews/{acme}/claim")).status_code == 409


async def test_the_log_and_labels_are_of_the_same_tenants(house: House) -> None:
    for tenant, text in (("acme", "For Acme."), ("globex", "For Globex.")):
        await house.both.call("POST", f"/reviews/{house.tickets[tenant]}/claim")
        verdict = {"verdict": "edit", "text": text}
        assert (await house.both.call("POST", f"/reviews/{house.tickets[tenant]}/verdict", verdict)).status_code == 200
    own = await house.own.get("/actions")
    assert {row["subject"] for row in own["data"]} == {house.tickets["acme"]}
    assert len((await house.root.get("/actions"))["data"]) == 4
    pairs = (await house.anna.call("GET", "/labels/pairs")).text
    assert "For Acme." in pairs
    assert "For Globex." not in pairs
    assert '"risk":"high"' in pairs, "billing is answered by best-of-n"
    assert "For Globex." in (await house.root.call("GET", "/labels/pairs")).text
    assert (await house.own.call("GET", "/settings")).json()["error"]["code"] == "tenant_not_visible"
    assert (await house.root.call("GET", "/settings")).status_code == 200


async def test_an_admin_deletes_a_user_of_their_tenant(house: House, tmp_path: Path) -> None:
    path = "/users/user@acme"
    for caller, query, status in (
        (house.anna, "", 403),
        (house.own, "?tenant=globex", 403),
        (house.own, "?dry_run=true", 200),
    ):
        answer = await caller.call("DELETE", path + query)
        assert answer.status_code == status
    assert answer.json() == {
        "object": "user.deleted",
        "tenant": "acme",
        "user": "user@acme",
        "answers": 1,
        "deleted": False,
    }
    assert len((await house.root.get("/reviews"))["data"]) == 2, "a dry run deletes nothing"
    response_id = (await house.ask("acme", user="user@acme"))["id"]
    client = Caller(house.gateway, house.keys["acme"])
    assert (await client.call("GET", f"/rerank/{response_id}")).status_code == 200
    assert (await house.own.call("DELETE", path)).json()["answers"] == 2
    assert (await client.call("GET", f"/rerank/{response_id}")).status_code == 404, "not from memory either"
    (left,) = (await house.root.get("/reviews"))["data"]
    assert left["tenant"] == "globex"
    (logged,) = (await house.own.get("/actions"))["data"]
    assert (logged["actor"], logged["action"], logged["details"]["answers"]) == ("ada", "delete_user", 2)
    assert "user@acme" not in str(logged), "a log that nobody can change names no customer"
    assert (await house.both.call("DELETE", "/users/user@globex?tenant=globex")).json()["answers"] == 1


async def test_lists_come_in_pages(house: House) -> None:
    ids = [*house.tickets.values()] + [(await house.ask("acme"))["rerank"]["review_id"] for _ in range(3)]
    rows = (await house.root.get("/reviews"))["data"]
    ids = [row["id"] for row in rows]
    first = await house.root.get("/reviews?limit=2")
    assert [row["id"] for row in first["data"]] == ids[:2]
    assert (first["object"], first["first_id"], first["last_id"], first["has_more"]) == ("list", ids[0], ids[1], True)
    second = await house.root.get(f"/reviews?limit=2&after={ids[1]}")
    assert ([row["id"] for row in second["data"]], second["has_more"]) == (ids[2:4], True)
    last = await house.root.get(f"/reviews?limit=2&after={ids[3]}")
    assert ([row["id"] for row in last["data"]], last["has_more"]) == (ids[4:], False)
    back = await house.root.get(f"/reviews?limit=2&before={ids[4]}")
    assert ([row["id"] for row in back["data"]], back["has_more"]) == (ids[2:4], True)
    assert (await house.root.get(f"/reviews?limit=2&before={ids[1]}"))["has_more"] is False
    empty = await house.root.get("/reviews?status=decided")
    assert (empty["data"], empty["first_id"], empty["has_more"]) == ([], None, False)
    for name in ids[:3]:
        await house.root.call("POST", f"/reviews/{name}/claim")
    newest = await house.root.get("/actions?limit=2")
    assert ([row["subject"] for row in newest["data"]], newest["has_more"]) == ([ids[2], ids[1]], True)
    older = await house.root.get(f"/actions?limit=2&before={newest['last_id']}")
    assert ([row["subject"] for row in older["data"]], older["has_more"]) == ([ids[0]], False)


@pytest.mark.parametrize(
    ("path", "param"),
    [
        (f"/actions?before={10**30}", "before"),
        ("/actions?before=-1", "before"),
        ("/actions?limit=-1", "limit"),
        ("/actions?limit=501", "limit"),
        ("/reviews?limit=-5", "limit"),
        ("/reviews?after=nobody", "after"),
        ("/reviews?after=a%00b", "after"),
        ("/reviews?after=a&before=b", "before"),
        ("/reviews?status=lost", "status"),
        ("/reviews?route=a%00b", "route"),
        ("/reviews/a%00b", "review_id"),
        ("/audits?after=nobody", "after"),
        ("/audits?limit=0", "limit"),
        ("/labels/pairs?since=yesterday", "since"),
        ("/labels/pairs?limit=501", "limit"),
        ("/labels/replies?after=a&before=b", "before"),
        ("/rerank/a%00b", "response_id"),
    ],
)
async def test_a_query_that_does_not_fit_is_named(house: House, path: str, param: str) -> None:
    answer = await house.root.call("GET", path)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"preferred": 2**63 + 5, "rejected": 0}, 400, "preferred"),
        ({"preferred": 8, "rejected": 0}, 400, "preferred"),
        ({"preferred": 0, "rejected": 8}, 400, "rejected"),
        ({"thumb": "up", "response_id": "a\x00b"}, 400, "response_id"),
        ({"preferred": 7, "rejected": 0}, 201, None),
    ],
)
async def test_feedback_names_candidates_that_there_are(
    house: House, fields: Json, status: int, param: str | None
) -> None:
    client = Caller(house.gateway, house.keys["acme"])
    body = {"response_id": (await house.ask("acme"))["id"], **fields}
    answer = await client.call("POST", "/feedback", body)
    assert answer.status_code == status, answer.text
    assert param is None or answer.json()["error"]["param"] == param


async def test_feedback_is_checked_against_the_store_too(start_gateway: Any, tmp_path: Path) -> None:
    store = {"url": f"sqlite:///{tmp_path / 'a.db'}"}
    async with start_gateway(store=store) as gateway:
        response_id = (await gateway.ask()).json()["id"]
    async with start_gateway(store=store) as other:
        client = Caller(other, other.key)
        for preferred, status in ((8, 400), (7, 201)):
            body = {"response_id": response_id, "preferred": preferred, "rejected": 0}
            assert (await client.call("POST", "/feedback", body)).status_code == status


async def test_a_client_never_hears_of_a_spot_check(start_gateway: Any, tmp_path: Path) -> None:
    store = {"url": f"sqlite:///{tmp_path / 'a.db'}"}
    async with start_gateway(store=store, routes={"billing": {"spot_check": 1.0}}) as gateway:
        answer = (await gateway.ask()).json()
        assert (answer["rerank"]["decision"], answer["rerank"]["review_id"]) == ("accept", None)
        root = Caller(gateway, add_key(gateway.keys_file, "root", "admin", tenants=["*"]))
        while not (tickets := (await root.get("/reviews"))["data"]):
            pass
        assert tickets[0]["reason"] == "spot_check"
        client = Caller(gateway, gateway.key)
        assert "review" not in await client.get(f"/rerank/{answer['id']}")


async def test_the_document_shows_what_is_sent_and_answered(gateway: Any) -> None:
    document = (await gateway.http.get(f"{gateway.url}/openapi.json")).json()
    for path, method in (
        ("/v1/reviews", "get"),
        ("/v1/reviews/{review_id}/verdict", "post"),
        ("/v1/audits/{audit_id}/items/{item_id}", "put"),
        ("/v1/feedback", "post"),
        ("/v1/actions", "get"),
        ("/v1/users/{user}", "delete"),
    ):
        operation = document["paths"][path][method]
        answer = next(iter(operation["responses"].values()))["content"]["application/json"]["schema"]
        assert answer.get("$ref"), path
        if method in ("post", "put"):
            reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
            assert document["components"]["schemas"][reference.rpartition("/")[2]]["properties"]
    assert "$defs" not in str(document)
