"""A policy's stream as ours: other labels on the same chunks."""

from __future__ import annotations

from typing import Any

import orjson

from service.request.respond import chunk_of
from service.request.work import Work
from service.upstream.policy import parse

_LABELS, _CHOICES = {"id", "object", "created", "model"}, b'"choices":'


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
        self._ending: list[bytes] = []
        self.count = 0

    def __call__(self, payload: bytes) -> bytes | None:
        """The chunk to send; None for the policy's usage chunk, which our last one replaces.

        Raises PolicyUnavailable for what is no chunk.
        """
        theirs = self._theirs
        if theirs is None or not payload.startswith(theirs):
            return self._learn(payload)
        if payload[len(theirs) : len(theirs) + 4].lstrip().startswith(b"[]"):
            self._ending.append(payload)
            return None
        self.count += 1
        self._ending = [payload]
        return self._ours + payload[len(theirs) :]

    def ending(self) -> list[dict[str, Any]]:
        """The last chunk with a choice and what came after it: how it ended, and the usage."""
        return [parse(payload) for payload in self._ending]

    def _learn(self, payload: bytes) -> bytes | None:
        chunk = parse(payload)
        if not chunk.get("choices"):
            self._ending.append(payload)
            return None
        names = list(chunk)
        before, after = names[: names.index("choices")], names[names.index("choices") + 1 :]
        if set(before) <= _LABELS and not (_LABELS | {"usage"}) & set(after):
            self._theirs = payload[: payload.index(_CHOICES) + len(_CHOICES)]
            return self(payload)
        self.count += 1
        self._ending = [payload]
        return orjson.dumps(chunk_of(self._work, chunk["choices"]))
