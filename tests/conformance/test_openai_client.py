"""Every method of openai-python's chat client against a real gateway, on the greedy and the best-of-n route."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel
from starlette.responses import JSONResponse

BILL, PLAIN = "I was charged twice for my subscription. What should I do?", "Name three trees."
ROUTES = pytest.mark.parametrize("text", [BILL, PLAIN])
TOOL = {
    "type": "function",
    "function": {
        "name": "find_charge",
        "strict": True,
        "parameters": {"type": "object", "properties": {"month": {"type": "string"}}, "additionalProperties": False},
    },
}
CALLS = [
    {"index": i, "id": f"call_{i}", "type": "function", "function": {"name": "find_charge", "arguments": text}}
    for i, text in enumerate(('{"month": "May"}', '{"month": "June"}'))
]


class Charge(BaseModel):
    """What a parsed answer is."""

    month: str
    amount: int


def asked(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "winnow", "messages": [{"role": "user", "content": text}], **fields}


@pytest.fixture
def words(demo: Any, script: Any) -> Any:
    """A gateway whose policy says `one two three`."""
    demo.policy.answer = lambda body, i: script(["one ", "two ", "three"])
    return demo


async def chunks_of(gateway: Any, text: str, **fields: Any) -> list[ChatCompletionChunk]:
    stream = await gateway.openai.chat.completions.create(**asked(text, **fields), stream=True)
    return [chunk async for chunk in stream]


@ROUTES
async def test_create(words: Any, text: str) -> None:
    answer = await words.openai.chat.completions.create(**asked(text))
    assert isinstance(answer, ChatCompletion)
    assert (answer.object, answer.model, answer.id[:9]) == ("chat.completion", "winnow", "chatcmpl-")
    [choice] = answer.choices
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "stop", "assistant")
    assert (choice.message.content, choice.message.refusal) == ("one two three", None)
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@ROUTES
async def test_without_include_usage_every_chunk_has_a_choice(words: Any, text: str) -> None:
    unasked: list[dict[str, Any]] = [{}, {"stream_options": {"include_usage": False}}, {"stream_options": {}}]
    for options in unasked:
        chunks = await chunks_of(words, text, **options)
        # The loop that every tutorial has.
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three"
        assert all(chunk.usage is None for chunk in chunks)
        assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
        assert (chunks[-1].model_extra or {})["rerank"]["strategy"] == ("best_of_n" if text == BILL else "greedy")
        assert sum("rerank" in (chunk.model_extra or {}) for chunk in chunks) == 1


@ROUTES
async def test_with_include_usage_the_last_chunk_alone_has_none(words: Any, text: str) -> None:
    chunks = await chunks_of(words, text, stream_options={"include_usage": True})
    assert [bool(chunk.choices) for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == (24 if text == BILL else 3)
    assert all(chunk.usage is None for chunk in chunks[:-1])


@ROUTES
async def test_labels_of_chunks_stay_the_same(words: Any, text: str) -> None:
    chunks = await chunks_of(words, text, stream_options={"include_usage": True})
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].model == "winnow"


async def test_n_choices_stream_under_their_indices(demo: Any, script: Any) -> None:
    demo.policy.answer = lambda body, i: script(["x" * (i + 1)])
    chunks = await chunks_of(demo, BILL, n=2)
    said = {0: "", 1: ""}
    reasons = []
    for chunk in chunks:
        choice = chunk.choices[0]
        said[choice.index] += choice.delta.content or ""
        reasons += [(choice.index, choice.finish_reason)] if choice.finish_reason else []
    assert said == {0: "x" * 8, 1: "x" * 7}
    assert reasons == [(0, "stop"), (1, "stop")]


@ROUTES
async def test_stream_helper(words: Any, text: str) -> None:
    async with words.openai.chat.completions.stream(**asked(text)) as stream:
        types = [event.type async for event in stream]
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "one two three"
    assert {"chunk", "content.delta", "content.done"} <= set(types)


@ROUTES
async def test_stream_helper_puts_calls_together(demo: Any, script: Any, text: str) -> None:
    demo.policy.answer = lambda body, i: script([], tool_calls=CALLS, finish_reason="tool_calls")
    async with demo.openai.chat.completions.stream(**asked(text, tools=[TOOL])) as stream:
        types = [event.type async for event in stream]
        final = await stream.get_final_completion()
    assert types.count("tool_calls.function.arguments.done") == 2
    calls = final.choices[0].message.tool_calls
    assert [(call.id, json.loads(call.function.arguments)) for call in calls] == [
        ("call_0", {"month": "May"}),
        ("call_1", {"month": "June"}),
    ]
    assert final.choices[0].finish_reason == "tool_calls"


@ROUTES
async def test_calls_come_back_and_their_results_are_taken(demo: Any, script: Any, text: str) -> None:
    demo.policy.answer = lambda body, i: (
        script(["Two charges."])
        if any(turn["role"] == "tool" for turn in body["messages"])
        else script([], tool_calls=CALLS, finish_reason="tool_calls")
    )
    first = await demo.openai.chat.completions.create(**asked(text, tools=[TOOL], tool_choice="auto"))
    message = first.choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "1"} for call in message.tool_calls]
    turns = [{"role": "user", "content": text}, message, *results]
    second = await demo.openai.chat.completions.create(model="winnow", messages=turns, tools=[TOOL])
    assert second.choices[0].message.content == "Two charges."
    turns = [{"role": "user", "content": text}, message.to_dict(), *results]
    again = await demo.openai.chat.completions.create(model="winnow", messages=turns, tools=[TOOL])
    assert again.choices[0].message.content == "Two charges."


@ROUTES
async def test_parse(demo: Any, script: Any, text: str) -> None:
    demo.policy.answer = lambda body, i: script(['{"month": "May", ', '"amount": 5}'])
    answer = await demo.openai.chat.completions.parse(**asked(text), response_format=Charge)
    assert answer.choices[0].message.parsed == Charge(month="May", amount=5)
    sent = demo.policy.bodies[0]["response_format"]
    assert (sent["type"], sent["json_schema"]["name"]) == ("json_schema", "Charge")
    async with demo.openai.chat.completions.stream(**asked(text), response_format=Charge) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == Charge(month="May", amount=5)


async def test_a_held_answer_is_a_refusal_where_json_was_asked_for(gateway: Any) -> None:
    gateway.scorer.probability = lambda score: 0.01
    answer = await gateway.openai.chat.completions.parse(**asked(BILL), response_format=Charge)
    message = answer.choices[0].message
    assert (message.content, message.parsed) == (None, None)
    assert "person" in (message.refusal or "")
    async with gateway.openai.chat.completions.stream(**asked(BILL), response_format=Charge) as stream:
        types = [event.type async for event in stream]
        final = await stream.get_final_completion()
    assert "refusal.done" in types
    assert final.choices[0].message.refusal == message.refusal
    # And the refusal is taken back as part of the history.
    turns = [{"role": "user", "content": BILL}, message.to_dict(), {"role": "user", "content": PLAIN}]
    again = await gateway.openai.chat.completions.create(model="winnow", messages=turns)
    assert again.choices[0].message.role == "assistant"


@ROUTES
async def test_raw_and_streaming_responses(words: Any, text: str) -> None:
    raw = await words.openai.chat.completions.with_raw_response.create(**asked(text))
    assert raw.headers["x-winnow-route"] == ("billing" if text == BILL else "default")
    assert raw.request_id == raw.headers["x-request-id"]
    assert raw.parse().choices[0].message.content == "one two three"
    async with words.openai.chat.completions.with_streaming_response.create(**asked(text), stream=True) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


@ROUTES
async def test_log_probabilities(demo: Any, text: str) -> None:
    entry = {"token": "hi", "logprob": -0.5, "bytes": [104, 105], "top_logprobs": []}

    def answer(body: dict[str, Any], i: int) -> Any:
        choice = {"index": 0, "finish_reason": "stop", "logprobs": {"content": [entry]}}
        usage = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
        if not body.get("stream"):
            choices = [choice | {"message": {"role": "assistant", "content": "hi"}}]
            return JSONResponse({"id": "x", "model": "m", "choices": choices, "usage": usage})
        return _events([choice | {"delta": {"role": "assistant", "content": "hi"}}], usage)

    demo.policy.answer = answer
    fields = asked(text, logprobs=True, top_logprobs=0)
    whole = await demo.openai.chat.completions.create(**fields)
    assert whole.choices[0].logprobs.content[0].logprob == -0.5
    stream = await demo.openai.chat.completions.create(**fields, stream=True)
    seen = [choice.logprobs async for chunk in stream for choice in chunk.choices if choice.logprobs]
    assert [content.logprob for logprobs in seen for content in logprobs.content] == [-0.5]


def _events(choices: list[dict[str, Any]], usage: dict[str, int]) -> Any:
    from starlette.responses import StreamingResponse

    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}

    def lines() -> Iterator[str]:
        for body in (head | {"choices": choices, "usage": None}, head | {"choices": [], "usage": usage}):
            yield f"data: {json.dumps(body)}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


async def _raised(call: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        await call
    return caught.value


async def test_each_status_is_its_error_class(gateway: Any, script: Any) -> None:
    create = gateway.openai.chat.completions.create
    error = await _raised(create(**asked(PLAIN, temperature=9)))
    assert type(error) is openai.BadRequestError
    assert (error.param, error.type, error.request_id) == (
        "temperature",
        "invalid_request_error",
        error.response.headers["x-request-id"],
    )
    stranger = gateway.openai.with_options(api_key="nobody")
    assert type(await _raised(stranger.chat.completions.create(**asked(PLAIN)))) is openai.AuthenticationError
    assert type(await _raised(create(**asked(PLAIN) | {"model": "gpt-9"}))) is openai.NotFoundError
    assert type(await _raised(gateway.openai.embeddings.create(model="winnow", input="x"))) is openai.NotFoundError
    gateway.policy.answer = lambda body, i: JSONResponse({"error": {"message": "dead"}}, 500)
    assert type(await _raised(create(**asked(PLAIN)))) is openai.InternalServerError


async def test_too_many_requests_are_a_rate_limit_error(start_gateway: Any) -> None:
    async with start_gateway(requests_per_minute=1) as gateway:
        await gateway.openai.chat.completions.create(**asked(PLAIN))
        error = await _raised(gateway.openai.chat.completions.create(**asked(PLAIN)))
    assert type(error) is openai.RateLimitError
    assert int(error.response.headers["retry-after"]) >= 1


@ROUTES
async def test_an_error_in_mid_stream_is_raised(demo: Any, script: Any, text: str) -> None:
    demo.policy.answer = lambda body, i: script(["half", "way"], die_after=1)
    with pytest.raises(openai.APIError):
        await chunks_of(demo, text)


async def test_models(gateway: Any) -> None:
    models = [model async for model in gateway.openai.models.list()]
    assert [(model.id, model.object, model.owned_by) for model in models] == [("winnow", "model", "winnow")]
    assert (await gateway.openai.models.retrieve("winnow")).id == "winnow"
    assert type(await _raised(gateway.openai.models.retrieve("gpt-9"))) is openai.NotFoundError


async def test_a_client_that_closes_its_stream_early_leaves_nothing_running(demo: Any, script: Any) -> None:
    demo.policy.answer = lambda body, i: script(["word "] * 200, pause=0.05)
    stream: AsyncIterator[Any] = await demo.openai.chat.completions.create(**asked(PLAIN), stream=True)
    await anext(stream)
    await stream.close()  # type: ignore[attr-defined]
    import asyncio

    async with asyncio.timeout(5):
        while not demo.policy.cut_off:
            await asyncio.sleep(0.02)
