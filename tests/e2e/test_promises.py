"""What clients of such gateways reported as broken elsewhere, tried on the real stack: odd bodies, streams, tools."""

from __future__ import annotations

import itertools
import json
from typing import Any

import httpx
import openai
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

BILL = "I was charged twice for my subscription. What should I do?"
PLAIN = "Name three trees."
BOTH = pytest.mark.parametrize("text", [BILL, PLAIN], ids=["billing", "default"])
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
TOOL = {
    "type": "function",
    "function": {
        "name": "find_charge",
        "parameters": {"type": "object", "properties": {"month": {"type": "string"}}, "required": ["month"]},
    },
}


class Client:
    """Asks the stack over plain HTTP."""

    def __init__(self, stack: Any) -> None:
        self.url, self.headers = stack.url, {"Authorization": f"Bearer {stack.key}"}

    def ask(self, text: str, **fields: Any) -> httpx.Response:
        # Two candidates make a best-of-N answer; eight of them take four times as long on two cores.
        few = {"max_tokens": 16, "rerank": {"n": 2}}
        body = {"model": "winnow", "messages": [{"role": "user", "content": text}], **few, **fields}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=self.headers, timeout=150)

    def metric(self, name: str) -> float:
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


@pytest.fixture
def client(stack: Any) -> Client:
    return Client(stack)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The chunks of a stream that ended as it should."""
    lines = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data:")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert not any("error" in chunk for chunk in chunks), chunks
    return chunks


def reply(response: httpx.Response, stream: bool) -> dict[str, Any]:
    """Message, finish reason and rerank of an answer, streamed or not."""
    assert response.status_code == 200, response.text
    if not stream:
        body = response.json()
        choice = body["choices"][0]
        return {"message": choice["message"], "finish_reason": choice["finish_reason"], "rerank": body["rerank"]}
    chunks = events(response)
    message: dict[str, Any] = {"content": "", "tool_calls": {}}
    for chunk in chunks:
        delta = chunk["choices"][0]["delta"]
        message["content"] += delta.get("content") or ""
        for part in delta.get("tool_calls") or []:
            call = message["tool_calls"].setdefault(part["index"], {"id": None, "name": "", "arguments": ""})
            call["id"] = part.get("id") or call["id"]
            call["name"] += (part.get("function") or {}).get("name") or ""
            call["arguments"] += (part.get("function") or {}).get("arguments") or ""
    return {
        "message": message,
        "finish_reason": chunks[-1]["choices"][0]["finish_reason"],
        "rerank": chunks[-1]["rerank"],
    }


@BOTH
@pytest.mark.parametrize("usage", [None, False, True])
def test_the_usual_loop_of_openai_python(stack: Any, text: str, usage: bool | None) -> None:
    options: dict[str, Any] = {} if usage is None else {"stream_options": {"include_usage": usage}}
    api = openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=0)
    messages: list[Any] = [{"role": "user", "content": text}]
    chunks = list(api.chat.completions.create(model="winnow", stream=True, max_tokens=16, messages=messages, **options))
    without = [index for index, chunk in enumerate(chunks) if not chunk.choices]
    assert without == ([len(chunks) - 1] if usage else [])
    assert (chunks[-1].usage is not None) == bool(usage)


NULLS = [
    *("n", "stream", "stream_options", "temperature", "top_p", "max_completion_tokens", "seed", "stop", "tools"),
    *("tool_choice", "parallel_tool_calls", "functions", "function_call", "response_format", "logprobs"),
    *("top_logprobs", "logit_bias", "user", "metadata", "store", "rerank"),
]


@BOTH
def test_null_is_absent(client: Client, text: str) -> None:
    message = {"role": "user", "content": text, "name": None, "tool_calls": None}
    answered = client.ask(text, messages=[message], **dict.fromkeys(NULLS))
    assert answered.status_code == 200, answered.text
    streamed = client.ask(text, stream=True, stream_options={"include_usage": None})
    assert all(chunk["choices"] for chunk in events(streamed))


@BOTH
@STREAMED
@pytest.mark.parametrize("more", [{"tools": []}, {"tools": [], "tool_choice": "auto"}, {"tool_choice": "none"}])
def test_no_tools_is_no_tools(client: Client, text: str, stream: bool, more: dict[str, Any]) -> None:
    failures = client.metric("winnow_upstream_errors_total")
    assert reply(client.ask(text, stream=stream, **more), stream)["message"]["content"]
    assert client.metric("winnow_upstream_errors_total") == failures


@BOTH
def test_marks_of_agent_frameworks_in_content_parts_change_nothing(client: Client, text: str) -> None:
    def parts(**mark: Any) -> list[dict[str, Any]]:
        system = [{"type": "text", "text": "Be brief.", **mark}]
        return [{"role": "system", "content": system}, {"role": "user", "content": [{"type": "text", "text": text}]}]

    plain, marked = (
        client.ask(text, messages=parts(**mark)).json()["usage"]["prompt_tokens"]
        for mark in ({}, {"cache_control": {"type": "ephemeral"}})
    )
    assert plain == marked


CONTENTS: list[Any] = [None, "", []]
ARGUMENTS: list[Any] = ['{"month": "May"}', '{"month": "Ma', "", {"month": "May"}]


@BOTH
def test_an_odd_turn_in_the_history_does_not_fail_the_conversation(client: Client, text: str) -> None:
    for content, arguments in itertools.product(CONTENTS, ARGUMENTS):
        call = {"id": "c1", "type": "function", "function": {"name": "find_charge", "arguments": arguments}}
        messages = [
            {"role": "user", "content": text},
            {"role": "assistant", "content": content, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "two charges found"},
            {"role": "user", "content": "So what now?"},
        ]
        answered = client.ask(text, messages=messages)
        if isinstance(arguments, str) and not arguments.endswith("}"):
            assert answered.status_code in (200, 400)
            if answered.status_code == 400:
                assert answered.json()["error"]["param"].startswith("messages.1")
        else:
            assert answered.status_code == 200, answered.text


@BOTH
@STREAMED
def test_tool_calls_arrive_streamed_or_not(client: Client, text: str, stream: bool) -> None:
    choice = {"type": "function", "function": {"name": "find_charge"}}
    answer = reply(client.ask(text, tools=[TOOL], tool_choice=choice, max_tokens=64, stream=stream), stream)
    calls = answer["message"]["tool_calls"]
    (call,) = calls.values() if stream else calls
    name, arguments, number = (
        (call["name"], call["arguments"], call["id"])
        if stream
        else (call["function"]["name"], call["function"]["arguments"], call["id"])
    )
    assert (name, bool(number)) == ("find_charge", True)
    assert answer["finish_reason"] in ("tool_calls", "stop", "length")
    # What stands in them is up to the policy, and this one is small.
    assert arguments


TITLE = """### Task:
Write a title of three to five words for this chat.
### Output:
JSON: { "title": "..." }
<chat_history>
USER: I was charged twice for my subscription.
ASSISTANT: Please check the statement.
</chat_history>"""


@pytest.mark.parametrize("rerank", [{}, {"mode": "off"}])
def test_a_front_ends_housekeeping_is_one_greedy_completion(client: Client, rerank: dict[str, Any]) -> None:
    body = client.ask(TITLE, max_tokens=64, rerank=rerank).json()
    assert (body["rerank"]["n_requested"], body["rerank"]["strategy"]) == (1, "greedy")


@pytest.mark.parametrize("follow_ups", range(6))
def test_a_conversation_about_money_stays_one(client: Client, follow_ups: int) -> None:
    turns = ["yes", "the second one", "ok, and then?", "in May", "both of them"][:follow_ups]
    messages: list[dict[str, str]] = [{"role": "user", "content": BILL}]
    for turn in turns:
        messages += [{"role": "assistant", "content": "Which one?"}, {"role": "user", "content": turn}]
    assert client.ask("", messages=messages, rerank={"n": 1}).json()["rerank"]["route"] == "billing"


@pytest.mark.parametrize("at", [0, 500, 700, 1475, 2250, 2950])
def test_a_question_within_a_long_message_is_found(client: Client, at: int) -> None:
    fill = "The garden was quiet and the rain had stopped before noon. " * 50
    cut = fill.rfind(" ", 0, at) + 1 if at else 0
    text = fill[:cut] + "I was charged twice for my subscription. " + fill[cut:]
    assert client.ask(text, rerank={"n": 1}).json()["rerank"]["route"] == "billing"


def test_probes_and_browsers(stack: Any) -> None:
    for path in ("/livez", "/readyz", "/health"):
        assert httpx.head(stack.url + path).status_code == httpx.get(stack.url + path).status_code == 200
    assert httpx.head(f"{stack.scorer_url}/health").status_code == 200


def test_a_policy_that_refuses_is_a_400_streamed_or_not(client: Client) -> None:
    for stream in (False, True):
        refused = client.ask("word " * 5_000, stream=stream)
        assert refused.status_code == 400, refused.text
        assert refused.json()["error"]["type"] == "invalid_request_error"
