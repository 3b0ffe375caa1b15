"""How each request is told of at its end: one line, its id everywhere, and no text of anybody's."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from starlette.responses import JSONResponse

from service.keys.key_file import add_key
from service.telemetry.logs import configure_logging

SECRET = "xyzzy-4111"


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    """Everything that this process logs, as JSON lines, down to `debug`."""
    root, gateway = logging.getLogger(), logging.getLogger("winnow")
    handlers, level, gateway_level = root.handlers[:], root.level, gateway.level
    stream = io.StringIO()
    configure_logging("json", "debug", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    gateway.setLevel(gateway_level)
    structlog.contextvars.clear_contextvars()


def _lines(output: io.StringIO, logger: str = "winnow.request", level: str = "info") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    return [line for line in lines if line["logger"] == logger and line["level"] == level]


async def _line(output: io.StringIO) -> dict[str, Any]:
    """The line of the only request; it is written after the last byte was sent."""
    for _ in range(500):
        if lines := _lines(output):
            break
        await asyncio.sleep(0.01)
    (line,) = lines
    return line


async def test_a_sane_id_is_kept_and_another_replaced(gateway: Any) -> None:
    kept = await gateway.post(headers={"x-request-id": "abc-123"}, json={})
    assert kept.headers["x-request-id"] == "abc-123"
    for odd in ("a b\tc", "x" * 129, ""):
        made = await gateway.post(headers={"x-request-id": odd}, json={})
        assert made.headers["x-request-id"].startswith("req-")


async def test_a_refused_request_has_a_line_with_its_code(gateway: Any, output: io.StringIO) -> None:
    answer = await gateway.ask(temperature=9)
    line = await _line(output)
    assert line.pop("seconds") > 0
    assert line.pop("timestamp")
    assert line == {
        "event": "request",
        "level": "info",
        "logger": "winnow.request",
        "request_id": answer.headers["x-request-id"],
        "method": "POST",
        "path": "/v1/chat/completions",
        "tenant": "acme",
        "code": answer.json()["error"]["code"] or answer.json()["error"]["type"],
        "status": 400,
    }


async def test_nobody_and_nowhere_have_lines_without_their_words(gateway: Any, output: io.StringIO) -> None:
    await gateway.http.get(f"{gateway.url}/{SECRET}?q={SECRET}", headers={"authorization": f"Bearer {SECRET}"})
    line = await _line(output)
    assert (line["status"], line["code"], line.get("path"), line.get("tenant")) == (404, "unknown_url", None, None)
    assert SECRET not in output.getvalue()


async def test_probes_are_told_at_debug(gateway: Any, output: io.StringIO) -> None:
    await gateway.http.get(f"{gateway.url}/livez")
    await gateway.http.get(f"{gateway.url}/v1/models", headers={"authorization": f"Bearer {gateway.key}"})
    line = await _line(output)
    assert line["path"] == "/v1/models"
    (probe,) = _lines(output, level="debug")
    assert (probe["path"], probe["status"]) == ("/livez", 200)


async def test_an_error_in_mid_stream_is_the_status_of_its_line(gateway: Any, output: io.StringIO, script: Any) -> None:
    gateway.policy.answer = lambda body, i: script(["a", "b"], die_after=1)
    answer = await gateway.ask("hello", stream=True)
    assert answer.status_code == 200
    assert (await _line(output))["status"] == 502


async def test_a_client_that_leaves_is_a_499(gateway: Any, output: io.StringIO, script: Any) -> None:
    gateway.policy.answer = lambda body, i: script(["word "] * 1000, pause=0.02)
    body = {"model": "winnow", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    url, headers = f"{gateway.url}/v1/chat/completions", {"authorization": f"Bearer {gateway.key}"}
    async with gateway.http.stream("POST", url, json=body, headers=headers) as response:
        await anext(response.aiter_lines())
    assert (await _line(output))["status"] == 499


class BrokenRouter:
    """A defect that quotes what it was given."""

    def quick(self, messages: Any) -> Any:
        return None

    def route(self, messages: Any) -> Any:
        raise ValueError(f"cannot route {messages}")


async def test_a_defect_is_logged_under_the_requests_id(start_gateway: Any, output: io.StringIO) -> None:
    async with start_gateway(router=BrokenRouter()) as gateway:
        answer = await gateway.ask(SECRET)
        line = await _line(output)
    assert (answer.status_code, line["status"], line["code"]) == (500, 500, "internal")
    (error,) = _lines(output, "winnow.gateway", "error")
    assert error["request_id"] == line["request_id"] == answer.headers["x-request-id"]
    assert error["event"].startswith("request failed: ValueError\n")
    assert SECRET not in output.getvalue()


def _secret_request() -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": f"tool_{SECRET}", "description": SECRET, "parameters": {}}}
    return {
        "model": "winnow",
        "messages": [
            {"role": "system", "content": SECRET},
            {"role": "user", "content": f"I was charged twice {SECRET}", "name": "n-xyzzy-4111"},
        ],
        "user": f"user-{SECRET}",
        "metadata": {"order": SECRET},
        "tools": [tool],
        "max_tokens": 16,
    }


async def _provoke(gateway: Any, script: Any, store: Path) -> set[int]:
    """Every way for a request to end, with a secret wherever somebody's words can stand; the statuses seen."""
    body, statuses = _secret_request(), set[int]()

    async def send(body: Any, **kwargs: Any) -> None:
        given = {"content": body} if isinstance(body, bytes) else {"json": body}
        statuses.add((await gateway.post(**given, **kwargs)).status_code)

    gateway.policy.answer = lambda _, i: script([f"reply {SECRET}"])
    for variant in (body, body | {"stream": True}, body | {"rerank": {"mode": "off"}}):
        await send(variant)
    for broken in (
        json.dumps(body).encode()[:-9],
        json.dumps(body | {"temperature": SECRET}).encode(),
        json.dumps(body | {SECRET: 1, "n": SECRET}).encode(),
        json.dumps(body | {"model": SECRET}).encode(),
        b"\xff\xfe" + SECRET.encode(),
    ):
        await send(broken)
    await send(body, headers={"Authorization": f"Bearer wk-{SECRET}"})
    failures = (
        lambda _, i: JSONResponse({"error": {"message": f"CUDA OOM {SECRET}"}}, 500),
        lambda _, i: JSONResponse({"error": {"message": f"too long {SECRET}"}}, 400),
        lambda _, i: script([SECRET, SECRET], die_after=1),
    )
    for gateway.policy.answer in failures:
        await send(body)
        await send(body | {"stream": True, "rerank": {"mode": "off"}})
    gateway.policy.answer = lambda _, i: script([f"reply {SECRET}"])
    gateway.scorer.down = True
    await send(body)
    gateway.scorer.down = False
    with closing(sqlite3.connect(store)) as connection:
        connection.execute("DROP TABLE candidates")
        connection.commit()
    gateway.scorer.probability = lambda score: 0.4
    await send(body)
    client = {"authorization": f"Bearer {gateway.key}"}
    for path in (f"/v1/rerank/{SECRET}", f"/v1/reviews?before={SECRET}"):
        await gateway.http.get(f"{gateway.url}{path}", headers=client)
    return statuses


async def test_no_text_key_or_name_reaches_any_log(
    start_gateway: Any, script: Any, output: io.StringIO, tmp_path: Path
) -> None:
    store = tmp_path / "winnow.db"
    async with start_gateway(store={"url": f"sqlite:///{store}"}) as gateway:
        add_key(gateway.keys_file, "other", "admin")
        statuses = await _provoke(gateway, script, store)
        await asyncio.sleep(0.1)
        assert gateway.key not in output.getvalue()
    # It really went wrong in all these ways, and was told of.
    assert {200, 400, 401, 404, 502, 503} <= statuses
    assert len(_lines(output)) >= 15
    assert _lines(output, "winnow.store", "error")
    assert SECRET not in output.getvalue()
    assert "xyzzy" not in output.getvalue()


async def test_the_line_is_written_even_if_the_answer_cannot_be(gateway: Any, output: io.StringIO) -> None:
    """A client that closes before it has read a whole answer."""
    async with httpx.AsyncClient() as impatient:
        with pytest.raises(httpx.ReadTimeout):
            gateway.scorer.pause = 1.0
            body = {"model": "winnow", "messages": [{"role": "user", "content": "I was charged twice"}]}
            headers = {"authorization": f"Bearer {gateway.key}"}
            await impatient.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=0.3)
    assert (await _line(output))["status"] == 499


async def _counted(gateway: Any, **labels: str) -> tuple[float | None, float | None]:
    """Requests with these labels, and how many durations were taken of them."""
    for _ in range(200):
        if (total := gateway.registry.get_sample_value("winnow_requests_total", labels)) is not None:
            break
        await asyncio.sleep(0.01)
    timed = {name: value for name, value in labels.items() if name != "decision"}
    return total, gateway.registry.get_sample_value("winnow_request_seconds_count", timed)


async def test_an_answer_is_told_of_whole(gateway: Any, output: io.StringIO) -> None:
    answer = (await gateway.ask()).json()
    line, rerank = await _line(output), answer["rerank"]
    assert (line["response_id"], line["route"], line["n"], line["stream"]) == (answer["id"], "billing", 8, False)
    assert (line["decision"], line["sent"], line["status"]) == (rerank["decision"], rerank["sent"], 200)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (7, 8)
    assert line["timings_ms"] == rerank["timings_ms"]
    assert {"route", "sampling", "scoring_tail", "total"} <= line["timings_ms"].keys()
    labels = {"route": "billing", "model": gateway.settings.policy_model, "decision": rerank["decision"]}
    assert await _counted(gateway, **labels, status="200") == (1, 1)


async def test_a_failed_request_is_counted_with_its_time_and_its_tokens(gateway: Any, script: Any) -> None:
    gateway.policy.answer = lambda body, i: script(["a", "b"], die_after=1)
    assert (await gateway.ask()).status_code == 502
    labels = {"route": "billing", "model": gateway.settings.policy_model}
    assert await _counted(gateway, **labels, decision="none", status="502") == (1, 1)
    # Each of the eight streams sent one token before it broke off.
    tokens = gateway.registry.get_sample_value("winnow_tokens_total", labels | {"kind": "completion"})
    assert tokens == 8
    assert gateway.registry.get_sample_value("winnow_request_errors_total", {"code": "policy_unavailable"}) == 1


async def test_a_cancelled_request_is_counted_as_499_with_its_tokens(gateway: Any, script: Any) -> None:
    gateway.policy.answer = lambda body, i: script(["word "] * 1000, pause=0.02)
    body = {"model": "winnow", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    url, headers = f"{gateway.url}/v1/chat/completions", {"authorization": f"Bearer {gateway.key}"}
    async with gateway.http.stream("POST", url, json=body, headers=headers) as response:
        lines = response.aiter_lines()
        for _ in range(6):
            await anext(lines)
    labels = {"route": "default", "model": gateway.settings.policy_model}
    assert await _counted(gateway, **labels, decision="none", status="499") == (1, 1)
    tokens = gateway.registry.get_sample_value("winnow_tokens_total", labels | {"kind": "completion"})
    assert tokens is not None
    assert tokens >= 2


async def test_a_request_without_a_route_is_counted_too_and_a_probe_is_not(gateway: Any) -> None:
    await gateway.ask(temperature=9)
    await gateway.http.get(f"{gateway.url}/livez")
    assert await _counted(gateway, route="none", model="none", decision="none", status="400") == (1, 1)
    counted = [m for m in gateway.registry.collect() if m.name == "winnow_requests"]
    assert sum(sample.value for sample in counted[0].samples if sample.name.endswith("_total")) == 1
