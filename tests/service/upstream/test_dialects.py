"""Requests in the dialect of each kind of server; `Strict` refuses what OpenAI's API refuses."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from service.errors import InvalidRequest
from service.request.plan import candidate_seed
from service.settings import PolicySettings
from service.settings.parameters import PASSED_PARAMETERS
from service.settings.policy import Dialect
from service.upstream.dialects import folded_seed, spoken
from service.upstream.policy import HttpPolicy
from tests.service.upstream.servers import serving

BODY = {
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 9,
    "temperature": 0.8,
    "top_p": 0.9,
    "seed": 2**62 + 12345,
    "cache_salt": "tenant",
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}
OPENAI = {
    "messages",
    "model",
    "n",
    "stream",
    "stream_options",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "seed",
    "tools",
    "response_format",
}
MINIMAL = OPENAI - {"stream_options", "max_completion_tokens"} | {"max_tokens"}


class Strict:
    """A server that refuses unknown fields by name; it streams usage at the end if it is asked to, or never."""

    def __init__(self, fields: set[str]) -> None:
        self.fields = fields
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        if unknown := sorted(body.keys() - self.fields):
            return _refused(f"Unrecognized request argument supplied: {unknown[0]}")
        if not -(2**31) <= body["seed"] < 2**31:
            return _refused("Invalid 'seed': integer above maximum value")
        options = body.get("stream_options", {})
        if unknown := sorted(options.keys() - {"include_usage"}):
            return _refused(f"Unknown parameter: 'stream_options.{unknown[0]}'.")
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": "one two"}, "finish_reason": "stop"}
            return web.json_response({"choices": [choice], "usage": usage})
        deltas = [({"role": "assistant", "content": ""}, None), ({"content": "one "}, None), ({"content": "two"}, None)]
        chunks: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
            for delta, reason in (*deltas, ({}, "stop"))
        ]
        chunks += [{"choices": [], "usage": usage}] if options.get("include_usage") else []
        text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        return web.Response(text=text, content_type="text/event-stream")


def _refused(message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "invalid_request_error"}}, status=400)


@pytest.mark.parametrize(("dialect", "fields"), [("openai", OPENAI), ("minimal", MINIMAL)])
async def test_a_strict_server_takes_every_request(
    dialect: Dialect, fields: set[str], session: aiohttp.ClientSession
) -> None:
    strict = Strict(fields)
    async with serving(web.post("/prefix/v1/chat/completions", strict.complete)) as url:
        endpoint = PolicySettings(
            url=f"{url}/prefix/", model="m", api_key="k", dialect=dialect, headers={"x-project": "winnow"}
        )
        policy = HttpPolicy(endpoint, session)
        sampled = [chunk async for chunk in policy.sample(dict(BODY))]
        relayed = [json.loads(p) async for block in policy.relay(dict(BODY)) for p in block]
        whole = await policy.complete(dict(BODY))
    text = [choice["delta"].get("content") or "" for chunk in sampled for choice in chunk["choices"]]
    assert "".join(text) == "one two"
    # The role's empty text is no token; the estimate rises with each piece, so that marks can be reached.
    counts = [chunk["usage"]["completion_tokens"] for chunk in sampled]
    assert counts == ([0, 1, 2, 2, 2] if dialect == "openai" else [0, 1, 2, 2])
    assert "".join(c["delta"].get("content") or "" for chunk in relayed for c in chunk["choices"]) == "one two"
    assert whole["choices"][0]["message"]["content"] == "one two"
    limit = "max_completion_tokens" if dialect == "openai" else "max_tokens"
    assert all(request[limit] == 9 and request["top_p"] == 0.9 for request in strict.requests)
    assert all(headers["x-project"] == "winnow" for headers in strict.headers)
    assert all(headers["Authorization"] == "Bearer k" for headers in strict.headers)


async def test_a_strict_server_refuses_vllms_dialect_by_name(session: aiohttp.ClientSession) -> None:
    strict = Strict(OPENAI)
    async with serving(web.post("/v1/chat/completions", strict.complete)) as url:
        policy = HttpPolicy(PolicySettings(url=url, model="m"), session)
        with pytest.raises(InvalidRequest):
            await policy.complete({**BODY, "min_p": 0.5})


@pytest.mark.parametrize(("name", "value"), [("top_k", 40), ("min_p", 0.1), ("chat_template_kwargs", {"a": 1})])
def test_a_wish_that_would_be_ignored_is_refused_by_name(name: str, value: Any) -> None:
    assert spoken({name: value}, "vllm") == {name: value}
    with pytest.raises(InvalidRequest) as caught:
        spoken({name: value}, "openai")
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize("name", sorted(set(PASSED_PARAMETERS) - {"reasoning_effort"}))
def test_no_extra_of_vllms_reaches_another_server(name: str) -> None:
    with pytest.raises(InvalidRequest):
        spoken({name: "something"}, "minimal")
    assert spoken({name: None}, "minimal") == {}


def test_vllm_is_sent_everything() -> None:
    assert spoken(dict(BODY), "vllm") == BODY


def test_a_tool_or_a_format_is_never_dropped() -> None:
    wish = {"tools": [{}], "response_format": {"type": "json_object"}}
    assert spoken(dict(wish), "minimal") == wish


def test_seeds_are_folded_and_stay_apart() -> None:
    seeds = [0, 1, -1, 2**31 + 3, 2**63 - 1, -(2**63) + 1]
    folded = [folded_seed(seed) for seed in seeds]
    assert all(0 <= seed < 2**31 for seed in folded)
    assert folded[:4] == [0, 1, 2**31 - 2, 4]
    # A candidate's seed has 63 bits.
    assert len({folded_seed(candidate_seed(1, index)) for index in range(64)}) == 64


@pytest.mark.parametrize(("dialect", "role"), [("vllm", "system"), ("minimal", "system"), ("openai", "developer")])
def test_only_openai_knows_the_role_developer(dialect: Dialect, role: str) -> None:
    messages = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "hello"}]
    turns = spoken(BODY | {"messages": messages}, dialect)["messages"]
    assert turns == [{"role": role, "content": "be brief"}, {"role": "user", "content": "hello"}]
    assert messages[0]["role"] == "developer", "the conversation that is scored and stored stays as it was sent"
