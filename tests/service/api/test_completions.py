"""The legacy completions API, by openai-python's client."""

from __future__ import annotations

from typing import Any

import openai
import pytest

BILL, PLAIN = "I was charged twice", "Name three trees."


async def test_a_prompt_is_a_user_turn(gateway: Any) -> None:
    answer = await gateway.openai.completions.create(model="winnow", prompt=PLAIN, max_tokens=9, stop=["\n"], seed=4)
    assert (answer.object, answer.id[:5], answer.model) == ("text_completion", "cmpl-", "winnow")
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("reply 0", "stop")
    assert answer.usage.total_tokens == 8
    [body] = gateway.policy.bodies
    assert body["messages"] == [{"role": "user", "content": PLAIN}]
    assert (body["max_tokens"], body["stop"]) == (9, ["\n"])


async def test_it_is_reranked_and_returns_n_choices(gateway: Any, script: Any) -> None:
    gateway.policy.answer = lambda body, i: script(["x" * (i + 1)])
    answer = await gateway.openai.completions.create(model="winnow", prompt=[BILL], n=2)
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "x" * 8), (1, "x" * 7)]
    assert answer.model_extra["rerank"]["n_scored"] == 8
    found = await gateway.http.get(
        f"{gateway.url}/v1/rerank/{answer.id}", headers={"Authorization": f"Bearer {gateway.key}"}
    )
    assert found.json()["rerank"]["winner"]["index"] == 7


@pytest.mark.parametrize("prompt", [BILL, PLAIN])
@pytest.mark.parametrize("usage", [False, True])
async def test_it_streams(gateway: Any, script: Any, prompt: str, usage: bool) -> None:
    gateway.policy.answer = lambda body, i: script(["one ", "two"])
    options = {"stream_options": {"include_usage": True}} if usage else {}
    stream = await gateway.openai.completions.create(model="winnow", prompt=prompt, stream=True, **options)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "one two"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert (chunks[-1].usage is not None) is usage


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"echo": True}, "echo is not supported: the prompt is not sent back"),
        ({"suffix": "end"}, "suffix is not supported: text is continued at its end only"),
        ({"best_of": 4}, 'best_of is not supported: send {"rerank": {"mode": "best_of_n", "n": ...}}'),
        ({"logprobs": 0}, "logprobs is not supported: use /v1/chat/completions"),
        ({"prompt": [1, 2]}, "prompt must be one string; send each prompt in a request of its own, as text"),
        ({"prompt": ["a", "b"]}, "prompt must be one string; send each prompt in a request of its own, as text"),
        ({"prompt": ""}, "prompt must have at least 1 character"),
        ({"messages": []}, "messages is a parameter of /v1/chat/completions; send it there"),
        ({"n": True}, "n must be a whole number"),
        ({"nonsense": 1}, "nonsense is not a parameter of this API"),
    ],
)
async def test_what_it_does_not_do_is_refused_in_a_sentence(
    gateway: Any, fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await gateway.openai.completions.create(model="winnow", prompt=PLAIN, extra_body=fields)
    body: Any = caught.value.body
    assert body["message"] == sentence
    assert body["param"] == next(iter(fields))


async def test_nulls_and_switched_off_options_are_absent(gateway: Any) -> None:
    fields = dict.fromkeys(("suffix", "logprobs", "best_of", "n", "stop", "user", "stream_options")) | {"echo": False}
    answer = await gateway.openai.completions.create(model="winnow", prompt=PLAIN, extra_body=fields)
    assert answer.choices[0].text == "reply 0"
