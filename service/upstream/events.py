"""Server-sent events as policies send them: the payloads of a byte stream, in the blocks that the network delivers.

Own code, because the payloads stay bytes: a greedy answer is passed on without being decoded. Beside the
specification's line endings, comments, fields and data of several lines it takes what servers do: no space after the
colon, and events that no blank line separates.
"""

from __future__ import annotations

import orjson

from service.errors import PolicyUnavailable

DONE = b"[DONE]"
# A line of a stream is one token with its log-probabilities; far below this.
MAX_EVENT_BYTES = 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FAILED = b'{"error":{"type":"event"}}'


class EventDecoder:
    """Turns blocks of bytes into the data of whole events."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False
        self._data: list[bytes] = []
        self._failed = False

    def feed(self, block: bytes) -> list[bytes]:
        """The payloads that this block completes. Raises PolicyUnavailable for one of more than a megabyte."""
        text = self._text(block)
        *lines, self._rest = text.split(b"\n")
        payloads: list[bytes] = []
        for line in lines:
            if not line:
                payloads += self._dispatch()
            elif line.startswith(b"data:"):
                self._data.append(line[5:].strip())
            elif line.startswith(b"event:"):
                self._failed = line[6:].strip() == b"error"
        if self._data and not self._failed:
            payloads += self._whole()
        if len(self._rest) + sum(map(len, self._data)) > MAX_EVENT_BYTES:
            raise PolicyUnavailable(f"the policy sent an event of more than {MAX_EVENT_BYTES} bytes")
        return payloads

    def end(self) -> list[bytes]:
        """The payloads of an event that the end of the stream completes."""
        return self.feed(b"\n\n")

    def _text(self, block: bytes) -> bytes:
        if not self._begun:
            self._begun, block = True, block.removeprefix(_BYTE_ORDER_MARK)
        text = self._rest + block
        if b"\r" not in text:
            return text
        # A carriage return at the end may be half of a line ending.
        body, half = (text[:-1], b"\r") if text.endswith(b"\r") else (text, b"")
        return body.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + half

    def _dispatch(self) -> list[bytes]:
        """What a blank line ends: one payload of all its lines, or one of each where that is what makes sense."""
        data, failed = self._data, self._failed
        self._data, self._failed = [], False
        if failed:
            return [_FAILED]
        if len(data) < 2:
            return data
        joined = b"\n".join(data)
        return [joined] if _is_json(joined) else data

    def _whole(self) -> list[bytes]:
        """Payloads that need no blank line: some servers send none until the stream ends."""
        if any(not _is_json(line) and line != DONE for line in self._data):
            return []
        data, self._data = self._data, []
        return data


def _is_json(text: bytes) -> bool:
    if not text.startswith(b"{") or not text.endswith(b"}"):
        return False
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
