"""What was answered by an earlier process, and what only admins may see."""

from __future__ import annotations

from typing import Any

import pytest

from service.keys.key_file import add_key


async def _call(gateway: Any, path: str, key: str) -> Any:
    return await gateway.http.get(f"{gateway.url}/v1{path}", headers={"Authorization": f"Bearer {key}"})


@pytest.mark.parametrize("probability", [0.9, 0.45])
async def test_the_rerank_object_is_found_again_after_a_restart(
    start_gateway: Any, store_url: str, probability: float
) -> None:
    async with start_gateway(store={"url": store_url}) as gateway:
        gateway.scorer.probability = lambda score: probability
        gateway.scorer.disagreement = lambda score: 0.25
        answered = (await gateway.ask("I was charged twice")).json()
        fresh = (await _call(gateway, f"/rerank/{answered['id']}", gateway.key)).json()["rerank"]
        assert fresh == answered["rerank"]
    async with start_gateway(store={"url": store_url}) as gateway:
        found = await _call(gateway, f"/rerank/{answered['id']}", gateway.key)
        assert found.status_code == 200
        again = found.json()["rerank"]
        assert again.keys() == fresh.keys()
        # The route's probability is shown rounded; the stored record was made before the last timing was taken.
        assert again.pop("route_probability") == pytest.approx(fresh.pop("route_probability"), abs=1e-4)
        assert again.pop("timings_ms").keys() == fresh.pop("timings_ms").keys()
        assert again == fresh
        stranger = add_key(gateway.keys_file, "stranger", "client")
        assert (await _call(gateway, f"/rerank/{answered['id']}", stranger)).status_code == 404
        assert (await _call(gateway, "/rerank/chatcmpl-none", gateway.key)).status_code == 404


async def test_settings_are_for_admins_and_without_secrets(start_gateway: Any, store_url: str) -> None:
    secret = "0123456789abcdef-secret"
    store = {"url": store_url, "webhook_url": "http://127.0.0.1:9", "webhook_secret": secret}
    policies = {"dpo": {"url": "http://127.0.0.1:9", "model": "dpo", "api_key": secret}}
    async with start_gateway(store=store, policies=policies, scorer_api_key=secret) as gateway:
        for role, tenants, status in (
            ("client", None, 403),
            ("operator", ["*"], 403),
            ("admin", None, 403),
            ("admin", ["*"], 200),
        ):
            key = add_key(gateway.keys_file, f"a-{role}", role, tenants=tenants)
            answer = await _call(gateway, "/settings", key)
            assert answer.status_code == status
        shown = answer.json()
        assert secret not in answer.text
        assert (
            shown["scorer_api_key"] == shown["policies"]["dpo"]["api_key"] == shown["store"]["webhook_secret"] == "***"
        )
        assert shown["policy_api_key"] is None
        assert shown["routes"]["billing"]["accept_threshold"] == 0.6


async def test_a_password_in_the_store_s_address_is_hidden(start_gateway: Any, postgres: str, tmp_path: Any) -> None:
    address = postgres.replace("@", ":hush-hush@") + "/postgres"
    async with start_gateway(store={"url": address}) as gateway:
        answer = await _call(gateway, "/settings", add_key(gateway.keys_file, "root", "admin", tenants=["*"]))
        assert "hush-hush" not in answer.text
        assert ":***@" in answer.json()["store"]["url"]


async def test_the_log_of_actions_is_read_by_admins_and_changed_by_nobody(start_gateway: Any, store_url: str) -> None:
    async with start_gateway(store={"url": store_url}) as gateway:
        gateway.scorer.probability = lambda score: 0.45
        ids = [(await gateway.ask(f"charged {n}")).json()["rerank"]["review_id"] for n in range(3)]
        anna, root = (
            add_key(gateway.keys_file, name, role, tenants=["*"])
            for name, role in (("anna", "operator"), ("root", "admin"))
        )
        for name in ids:
            url = f"{gateway.url}/v1/reviews/{name}/claim"
            assert (await gateway.http.post(url, headers={"Authorization": f"Bearer {anna}"})).status_code == 200
        assert (await _call(gateway, "/actions", anna)).status_code == 403
        newest, older = (await _call(gateway, "/actions?limit=2", root)).json()["data"]
        assert [row["subject"] for row in (newest, older)] == [ids[2], ids[1]]
        assert (newest["actor"], newest["action"]) == ("anna", "claim")
        (oldest,) = (await _call(gateway, f"/actions?before={older['id']}", root)).json()["data"]
        assert oldest["subject"] == ids[0]
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            answer = await gateway.http.request(
                method, f"{gateway.url}/v1/actions", headers={"Authorization": f"Bearer {root}"}
            )
            assert answer.status_code == 405
