"""What chat front-ends, editors and frameworks send, as they send it, is answered on both routes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from routing.router import Router
from routing.settings import RouterSettings

BILL, PLAIN = "I was charged twice for my subscription. What should I do?", "Name three trees."
PART = {"type": "text", "text": "Answer in one sentence."}
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
READ_FILE = {"type": "function", "function": {"name": "read_file", "description": "Reads.", "parameters": SCHEMA}}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


# Name, headers, and the body beside `model`; TEXT stands for what the user says.
TEXT = "TEXT"
CLIENTS: list[tuple[str, dict[str, str], dict[str, Any]]] = [
    (
        "Open WebUI",
        {"HTTP-Referer": "https://openwebui.com/", "X-Title": "Open WebUI", "X-OpenWebUI-User-Role": "user"},
        {"stream": True, "stream_options": {"include_usage": True}, "messages": [user(TEXT)], "tools": []},
    ),
    (
        "Open WebUI, a title",
        {"X-Title": "Open WebUI"},
        {"stream": False, "max_completion_tokens": 1000, "messages": [user(TEXT)]},
    ),
    (
        "LibreChat",
        {"User-Agent": "LibreChat"},
        {
            "user": "66f1c0ffee",
            "stream": True,
            "temperature": 1,
            "top_p": 1,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "messages": [{"role": "system", "content": "You are helpful."}, user([{"type": "text", "text": TEXT}])],
            "max_tokens": None,
            "stop": None,
        },
    ),
    (
        "LobeChat",
        {"X-Lobe-Trace": "e30="},
        {
            "frequency_penalty": 0,
            "presence_penalty": 0,
            "temperature": 1,
            "top_p": 1,
            "stream": True,
            "stream_options": {"include_usage": True},
            "user": "lobe",
            "messages": [user(TEXT)],
        },
    ),
    (
        "Cursor",
        {"User-Agent": "Cursor"},
        {
            "temperature": 0,
            "user": "google-oauth2|1",
            "stream": True,
            "stream_options": {"include_usage": True},
            "tool_choice": "auto",
            "tools": [READ_FILE | {"cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "system", "content": [PART | {"cache_control": {"type": "ephemeral"}}]},
                user([{"type": "text", "text": TEXT, "cache_control": {"type": "ephemeral"}}]),
            ],
        },
    ),
    (
        "Cline",
        {"HTTP-Referer": "https://cline.bot", "X-Title": "Cline"},
        {
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [
                {"role": "system", "content": "You edit files."},
                user([{"type": "text", "text": TEXT}, {"type": "text", "text": "# Visible files"}]),
                {"role": "assistant", "content": ""},
                user("Go on."),
            ],
        },
    ),
    (
        "LangChain",
        {"X-Stainless-Lang": "python"},
        {
            "stream": False,
            "n": 1,
            "temperature": 0.7,
            "max_completion_tokens": 64,
            "parallel_tool_calls": True,
            "tools": [READ_FILE],
            "messages": [
                user(TEXT),
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "type": "function",
                            "id": "c1",
                            "function": {"name": "read_file", "arguments": '{"path": "a"}'},
                        }
                    ],
                },
                {"role": "tool", "content": [{"type": "text", "text": "empty"}], "tool_call_id": "c1", "name": None},
            ],
        },
    ),
    (
        "LiteLLM",
        {"X-Stainless-Lang": "python"},
        {
            "messages": [user(TEXT) | {"cache_control": None}],
            "metadata": {"user_api_key": "hash", "tags": ["a"], "spend": 0.5},
            "functions": None,
            "function_call": None,
            "logit_bias": {},
            "user": "",
            "stop": [],
        },
    ),
    (
        "LlamaIndex",
        {},
        {
            "messages": [
                {"role": "system", "content": "Use the context.", "additional_kwargs": {}},
                user([{"type": "text", "text": "Context: none."}, {"type": "text", "text": TEXT}]),
            ],
            "stream": False,
            "temperature": 0.1,
            "max_tokens": 256,
            "tools": None,
            "tool_choice": None,
        },
    ),
    (
        "Vercel AI SDK",
        {"User-Agent": "ai-sdk/openai-compatible"},
        {
            "messages": [{"role": "developer", "content": "Be brief."}, user([{"type": "text", "text": TEXT}])],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "reasoning_effort": "low",
            "verbosity": "low",
            "store": False,
        },
    ),
    (
        "n8n, everything unset",
        {},
        {
            "messages": [user(TEXT) | {"name": None}],
            **dict.fromkeys(
                ("n", "seed", "stop", "tools", "response_format", "max_tokens", "stream", "user", "logprobs")
            ),
        },
    ),
]


@pytest.mark.parametrize("text", [BILL, PLAIN])
@pytest.mark.parametrize(("name", "headers", "fields"), CLIENTS, ids=[client[0] for client in CLIENTS])
async def test_a_clients_request_is_answered(
    demo: Any, name: str, headers: dict[str, str], fields: dict[str, Any], text: str
) -> None:
    body = {"model": "winnow", **fields}
    response = await demo.post(json=json.loads(json.dumps(body).replace(TEXT, text)), headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["x-winnow-route"] == ("billing" if text == BILL else "default")
    if not fields.get("stream"):
        assert response.json()["choices"][0]["message"]["content"].startswith("reply")
        return
    payloads = [line[6:] for line in response.text.split("\n\n") if line.startswith("data: ")]
    assert payloads[-1] == "[DONE]"
    chunks = [json.loads(payload) for payload in payloads[:-1]]
    said = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert said.startswith("reply")
    assert ("usage" in chunks[-1]) == bool(fields.get("stream_options"))


FRONT_END_FIELDS = {"chat_id": "c", "session_id": "s", "id": "m", "background_tasks": {"title_generation": True}}


async def test_fields_that_front_ends_add_can_be_ignored(start_gateway: Any) -> None:
    async with start_gateway(unknown_parameters="ignore") as gateway:
        response = await gateway.ask(PLAIN, **FRONT_END_FIELDS)
    assert response.status_code == 200
    assert response.headers["x-winnow-ignored"].split(",") == list(FRONT_END_FIELDS)


async def test_agents_of_the_responses_api_are_answered(demo: Any) -> None:
    """The body of OpenAI's Agents SDK and of the AI SDK's `openai.responses`."""
    for text in (BILL, PLAIN):
        body = {
            "model": "winnow",
            "instructions": None,
            "input": [{"role": "system", "content": "Be brief."}, user([{"type": "input_text", "text": text}])],
            "include": [],
            "tools": [{"type": "function", "strict": True, **READ_FILE["function"]}],  # type: ignore[dict-item]
            "store": False,
            "truncation": None,
            "reasoning": {"effort": None, "summary": None},
            "stream": True,
        }
        headers = {"Authorization": f"Bearer {demo.key}"}
        response = await demo.http.post(f"{demo.url}/v1/responses", json=body, headers=headers)
        assert response.status_code == 200, response.text
        assert "event: response.completed\n" in response.text


TITLE = f"""### Task:
Write a title of three to five words for this chat.
### Output:
JSON: {{ "title": "..." }}
<chat_history>
USER: {BILL}
ASSISTANT: Please check the statement.
</chat_history>"""


async def test_housekeeping_is_kept_from_best_of_n_by_a_rule_or_by_its_request(start_gateway: Any) -> None:
    rule = {"name": "titles and tags", "route": "default", "pattern": "^### Task:"}
    router = Router.load(settings=RouterSettings.model_validate({"rules": [rule]}))
    async with start_gateway(router=router) as gateway:
        response = await gateway.ask(TITLE, max_tokens=64)
        assert (response.json()["rerank"]["route"], response.json()["rerank"]["n_requested"]) == ("default", 1)
        assert response.json()["choices"][0]["message"]["content"].startswith("reply")
        assert (await gateway.ask(BILL)).json()["rerank"]["route"] == "billing"
