"""A greedy completion: whole, or relayed as it decodes under our labels."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import orjson

from service.errors import DeadlineMissed
from service.request.candidate import Candidate
from service.request.respond import chunk_of
from service.request.sampling.calls import completion_call
from service.request.work import Work
from service.telemetry.metrics import Metrics
from service.upstream.policy import Policy, parse

_LABELS, _CHOICES = {"id", "object", "created", "model"}, b'"choices":'
# An unescaped quotation mark stands only between JSON's own tokens, so no reply can hold these.
_UNFINISHED = re.compile(rb'"finish_reason": ?null')


class Passthrough:
    """The greedy completion of one request: `complete` it or `relay` it, and find it in `candidate`."""

    def __init__(self, work: Work, policy: Policy, metrics: Metrics) -> None:
        self._work, self._policy, self._metrics = work, policy, metrics
        self.candidate = Candidate(0)
        # The chunk that ends the stream. It is held back, for the `rerank` object to ride on.
        self.last_choices: list[dict[str, Any]] = []
        work.candidates.append(self.candidate)

    async def complete(self) -> None:
        """As a whole. Raises DeadlineMissed, PolicyUnavailable, or what the policy refuses."""
        began = time.perf_counter()
        with self._reaching():
            async with asyncio.timeout(self._work.deadline.remaining()):
                chunk = await self._policy.complete(self._work.plan.body(0))
            now = time.perf_counter()
            self.candidate.feed(chunk, now)
        self._metrics.observe("sampling", now - began, self._work.timings_ms)

    async def relay(self) -> AsyncGenerator[list[bytes], None]:
        """Chunks as they come, within the deadline; the one that ends the completion is held back."""
        relabelled, began = Relabelled(self._work), time.perf_counter()
        with self._reaching():
            try:
                async with aclosing(self._policy.relay(self._work.plan.body(0))) as blocks:
                    while True:
                        async with asyncio.timeout(self._work.deadline.remaining()):
                            block = await anext(blocks, None)
                        if block is None:
                            break
                        self.candidate.first_token_at = self.candidate.first_token_at or time.perf_counter()
                        if shown := [chunk for payload in block if (chunk := relabelled(payload)) is not None]:
                            yield shown
                for last in relabelled.ending:
                    self.candidate.feed(last, time.perf_counter())
                self.last_choices = relabelled.last_choices
            finally:
                # Of a stream that was cut off no usage is known: a chunk is a token at least.
                self.candidate.completion_tokens = self.candidate.completion_tokens or relabelled.count
                self._observe(began)

    def _observe(self, began: float) -> None:
        first, now = self.candidate.first_token_at, time.perf_counter()
        if first is not None:
            self._metrics.observe("first_token", first - began, self._work.timings_ms)
        self._metrics.observe("sampling", (self.candidate.finished_at or now) - began, self._work.timings_ms)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            with completion_call(self._work.plan, self.candidate):
                yield
        except TimeoutError as error:
            raise DeadlineMissed(f"the completion was not ready within {self._work.plan.budget_ms} ms") from error


class Relabelled:
    """A policy's chunks under our id, model and time, without parsing each.

    The chunks of a stream begin alike up to their choices; once it is known that `id`, `object`, `created` and `model`
    stand there and nowhere else, one beginning is exchanged for the other. What begins otherwise is parsed, as is a
    stream that tells its usage with every chunk: ours tells it when it is asked to, at the end.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._ours = orjson.dumps(chunk_of(work, [])).removesuffix(b"[]}")
        self._theirs: bytes | None = None
        self.ending: list[dict[str, Any]] = []
        self.last_choices: list[dict[str, Any]] = []
        self.count = 0

    def __call__(self, payload: bytes) -> bytes | None:
        """The chunk to send now; None for the chunk that ends the completion and for the policy's usage.

        Raises PolicyUnavailable for what is no chunk.
        """
        theirs = self._theirs
        if theirs is None or not payload.startswith(theirs):
            return self._learn(payload)
        if _UNFINISHED.search(payload) is None:
            return self._parsed(parse(payload))
        self.count += 1
        return self._ours + payload[len(theirs) :]

    def _learn(self, payload: bytes) -> bytes | None:
        chunk = parse(payload)
        names = list(chunk)
        if "choices" in names:
            before, after = names[: names.index("choices")], names[names.index("choices") + 1 :]
            if set(before) <= _LABELS and not (_LABELS | {"usage"}) & set(after):
                self._theirs = payload[: payload.index(_CHOICES) + len(_CHOICES)]
        return self._parsed(chunk)

    def _parsed(self, chunk: dict[str, Any]) -> bytes | None:
        choices = chunk.get("choices") or []
        if any(choice.get("finish_reason") for choice in choices):
            self.count += 1
            self.last_choices = choices
            self.ending.append(chunk)
            return None
        if chunk.get("usage"):
            self.ending.append({"choices": [], "usage": chunk["usage"]})
        if not choices:
            return None
        self.count += 1
        return orjson.dumps(chunk_of(self._work, choices))
