"""A policy that only keeps time: OpenAI's chat API, vLLM's shape of answers, and the pace it is told.

Sequences decode in step, as vLLM's do: each step gives every running sequence a token and takes `step_ms`, plus
`sequence_ms` for each sequence beyond the first; more than `most` wait. With a step of 0 answers come at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

MODEL = "paced"
_SENTENCE = "your refund of the second charge will be paid to the card within five days and we are sorry"
_CHUNK = '{"id":"chatcmpl-paced","object":"chat.completion.chunk","created":1,"model":"paced","choices":'


@dataclass(frozen=True)
class Pace:
    """Times in ms; `tokens` is the most of a completion, `shortest` the least."""

    prefill_ms: float = 0.0
    step_ms: float = 0.0
    sequence_ms: float = 0.0
    most: int = 64
    tokens: int = 96
    shortest: int = 96


class FakeEngine:
    """Wakes its sequences once a step."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._running = 0
        self._stepped = asyncio.Event()
        self._slots = asyncio.Semaphore(pace.most)
        self._loop: asyncio.Task[None] | None = None

    async def decode(self, count: int) -> AsyncIterator[int]:
        """The numbers of `count` tokens, each when it is decoded."""
        if not self.pace.step_ms:
            for number in range(count):
                yield number
            return
        async with self._slots:
            await asyncio.sleep(self.pace.prefill_ms / 1e3)
            with self._sequence():
                for number in range(count):
                    await self._stepped.wait()
                    yield number

    @contextmanager
    def _sequence(self) -> Iterator[None]:
        self._running += 1
        if self._loop is None:
            self._loop = asyncio.create_task(self._steps())
        try:
            yield
        finally:
            self._running -= 1

    async def _steps(self) -> None:
        due = time.perf_counter()
        while self._running:
            due += (self.pace.step_ms + self.pace.sequence_ms * (self._running - 1)) / 1e3
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            stepped, self._stepped = self._stepped, asyncio.Event()
            stepped.set()
        self._loop = None


def app(pace: Pace) -> web.Application:
    """The server."""
    engine: list[FakeEngine] = []

    async def start(_: web.Application) -> None:
        engine.append(FakeEngine(pace))

    async def models(_: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def complete(request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        words = _words(pace, body)
        if not body.get("stream"):
            async for _ in engine[0].decode(len(words)):
                pass
            return web.Response(text=_whole(words), content_type="application/json")
        return await _stream(request, engine[0], words, body.get("stream_options") or {})

    made = web.Application()
    made.router.add_get("/v1/models", models)
    made.router.add_get("/health", models)
    made.router.add_post("/v1/chat/completions", complete)
    made.on_startup.append(start)
    return made


async def _stream(
    request: web.Request, engine: FakeEngine, words: list[str], options: dict[str, Any]
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    always = options.get("continuous_usage_stats")
    await response.write(_event([_choice({"role": "assistant", "content": ""})], 0 if always else None))
    async for number in engine.decode(len(words)):
        reason = "stop" if number == len(words) - 1 else None
        await response.write(_event([_choice({"content": words[number]}, reason)], number + 1 if always else None))
    if options.get("include_usage"):
        await response.write(_event([], len(words)))
    await response.write(b"data: [DONE]\n\n")
    return response


def _words(pace: Pace, body: dict[str, Any]) -> list[str]:
    chance, words = random.Random(body.get("seed")), _SENTENCE.split()
    length = min(body.get("max_tokens") or pace.tokens, chance.randint(pace.shortest, pace.tokens))
    return [f" {chance.choice(words)}" for _ in range(length)]


def _choice(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def _event(choices: list[dict[str, Any]], tokens: int | None) -> bytes:
    usage = "" if tokens is None else f',"usage":{json.dumps(_usage(tokens))}'
    return f"data: {_CHUNK}{json.dumps(choices, separators=(',', ':'))}{usage}}}\n\n".encode()


def _whole(words: list[str]) -> str:
    message = {"role": "assistant", "content": "".join(words)}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = {"id": "chatcmpl-paced", "object": "chat.completion", "created": 1, "model": MODEL}
    return json.dumps(body | {"choices": [choice], "usage": _usage(len(words))})


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 60, "completion_tokens": tokens, "total_tokens": 60 + tokens}


def main() -> None:
    """Serve until killed; every field of Pace is an option."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--port", type=int, required=True)
    fields = Pace.__dataclass_fields__
    for name, field in fields.items():
        options.add_argument(f"--{name.replace('_', '-')}", type=type(field.default), default=field.default)
    given = options.parse_args()
    pace = Pace(**{name: getattr(given, name) for name in fields})
    web.run_app(app(pace), host="127.0.0.1", port=given.port, access_log=None, print=None)


if __name__ == "__main__":
    main()
