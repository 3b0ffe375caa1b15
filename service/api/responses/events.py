"""A chat's chunks as the events of the Responses API, in OpenAI's order, each with its number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import orjson

from service.api.responses.response import (
    Item,
    call_item,
    ended,
    message_item,
    new_id,
    reasoning_item,
    text_part,
)
from service.errors import ApiError

Said = Literal["text", "refusal", "reasoning"]
_EVENTS = {"text": "output_text", "refusal": "refusal", "reasoning": "reasoning_text"}


class ResponseEvents:
    """Turns chunks into events: an item is open at a time, and another kind of delta closes it."""

    def __init__(self, response: dict[str, Any]) -> None:
        self._response = response
        self._number = 0
        self._items: list[Item] = []
        self._open: _OpenItem | None = None
        self._finish_reason = "stop"
        self._rerank: Any = None
        self._usage: Mapping[str, Any] = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}

    def begin(self) -> bytes:
        """The response was taken on."""
        return self._frame("response.created", response=self._response) + self._frame(
            "response.in_progress", response=self._response
        )

    def feed(self, chunk: Mapping[str, Any]) -> bytes:
        """What a chunk adds."""
        self._rerank = chunk.get("rerank", self._rerank)
        self._usage = chunk.get("usage") or self._usage
        return b"".join(frame for choice in chunk["choices"] for frame in self._choice(choice))

    def end(self) -> bytes:
        """The last item and the response are done."""
        frames = [] if self._open or self._items else self._switch(_OpenItem("text", 0, new_id("msg")))
        frames += self._close()
        response = ended(self._response, self._items, self._finish_reason, self._usage, self._rerank)
        return b"".join(frames) + self._frame(f"response.{response['status']}", response=response)

    def fail(self, error: ApiError) -> bytes:
        """The response broke off."""
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        shown = {"code": code, "message": str(error)}
        response = self._response | {"status": "failed", "error": shown, "output": self._items}
        return self._frame("response.failed", response=response)

    def _choice(self, choice: Mapping[str, Any]) -> Iterator[bytes]:
        delta = choice["delta"]
        thought = delta.get("reasoning") or delta.get("reasoning_content")
        parts: tuple[tuple[Said, Any], ...] = (
            ("reasoning", thought),
            ("text", delta.get("content")),
            ("refusal", delta.get("refusal")),
        )
        for kind, text in parts:
            if text:
                yield from self._say(kind, text)
        for call in delta.get("tool_calls") or []:
            yield from self._call(call)
        self._finish_reason = choice.get("finish_reason") or self._finish_reason

    def _say(self, kind: Said, text: str) -> Iterator[bytes]:
        if self._open is None or self._open.kind != kind:
            item = _OpenItem(kind, 0, new_id("rs" if kind == "reasoning" else "msg"))
            yield from self._switch(item)
        assert self._open is not None
        self._open.text += text
        yield self._frame(f"response.{_EVENTS[kind]}.delta", **self._open.place(), delta=text, **_logprobs(kind))

    def _call(self, call: Mapping[str, Any]) -> Iterator[bytes]:
        function, index = call.get("function") or {}, call.get("index") or 0
        if self._open is None or self._open.call_index != index:
            item = _OpenItem("call", 0, new_id("fc"))
            item.call_index, item.call_id, item.name = index, call.get("id"), function.get("name") or ""
            yield from self._switch(item)
        assert self._open is not None
        if arguments := function.get("arguments"):
            self._open.text += arguments
            place = {"item_id": self._open.id, "output_index": self._open.index}
            yield self._frame("response.function_call_arguments.delta", **place, delta=arguments)

    def _switch(self, item: _OpenItem) -> list[bytes]:
        frames = list(self._close())
        item.index = len(self._items)
        self._open = item
        frames.append(self._frame("response.output_item.added", output_index=item.index, item=item.shown(False)))
        if item.kind != "call":
            frames.append(self._frame("response.content_part.added", **item.place(), part=item.part("")))
        return frames

    def _close(self) -> Iterator[bytes]:
        item, self._open = self._open, None
        if item is None:
            return
        place = item.place()
        if item.kind == "call":
            done = {"item_id": item.id, "output_index": item.index, "name": item.name, "arguments": item.text}
            yield self._frame("response.function_call_arguments.done", **done)
        else:
            name = "refusal" if item.kind == "refusal" else "text"
            fields = {name: item.text, **_logprobs(item.kind)}
            yield self._frame(f"response.{_EVENTS[item.kind]}.done", **place, **fields)
            yield self._frame("response.content_part.done", **place, part=item.part(item.text))
        shown = item.shown(True)
        self._items.append(shown)
        yield self._frame("response.output_item.done", output_index=item.index, item=shown)

    def _frame(self, kind: str, **fields: Any) -> bytes:
        payload = orjson.dumps({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + payload + b"\n\n"


def _logprobs(kind: Said) -> dict[str, Any]:
    """Clients expect them with text, if only as none."""
    return {"logprobs": []} if kind == "text" else {}


class _OpenItem:
    """An item that more may be added to."""

    def __init__(self, kind: Said | Literal["call"], index: int, number: str) -> None:
        self.kind, self.index, self.id = kind, index, number
        self.text, self.name = "", ""
        self.call_id: str | None = None
        self.call_index: int | None = None

    def place(self) -> dict[str, Any]:
        """Where its only part stands."""
        return {"item_id": self.id, "output_index": self.index, "content_index": 0}

    def part(self, text: str) -> dict[str, Any]:
        """Its only part."""
        if self.kind == "text":
            return text_part(text)
        return (
            {"type": "refusal", "refusal": text} if self.kind == "refusal" else {"type": "reasoning_text", "text": text}
        )

    def shown(self, done: bool) -> Item:
        """The item, empty when it begins."""
        status, text = ("completed", self.text) if done else ("in_progress", "")
        if self.kind == "call":
            return call_item(self.id, self.call_id, self.name, text, status)
        if self.kind == "reasoning":
            return reasoning_item(self.id, text) if done else reasoning_item(self.id, "") | {"content": []}
        return message_item(self.id, [self.part(text)] if done else [], status)
