"""Server-sent events in every form in which servers send them, cut anywhere."""

from __future__ import annotations

import pytest

from service.errors import PolicyUnavailable
from service.upstream.events import MAX_EVENT_BYTES, EventDecoder

ONE, TWO = '{"a": "é奖"}'.encode(), b'{"b": 2}'
STREAMS = {
    "as specified": b"data: " + ONE + b"\n\ndata: " + TWO + b"\n\ndata: [DONE]\n\n",
    "carriage returns": b"data: " + ONE + b"\r\n\r\ndata: " + TWO + b"\r\n\r\ndata: [DONE]\r\n\r\n",
    "carriage returns alone": b"data: " + ONE + b"\r\rdata: " + TWO + b"\r\rdata: [DONE]\r\r",
    "no space": b"data:" + ONE + b"\n\ndata:" + TWO + b"\n\ndata:[DONE]\n\n",
    "comments": b": hello\n\ndata: " + ONE + b"\n\n: ping\n\n:\ndata: " + TWO + b"\n\ndata: [DONE]\n\n",
    "fields": b"event: chunk\nid: 7\ndata: "
    + ONE
    + b"\nretry: 3\n\nevent: chunk\ndata: "
    + TWO
    + b"\n\ndata: [DONE]\n\n",
    "no blank lines": b"data: " + ONE + b"\ndata: " + TWO + b"\ndata: [DONE]\n",
    "byte order mark": b"\xef\xbb\xbfdata: " + ONE + b"\n\ndata: " + TWO + b"\n\ndata: [DONE]\n\n",
    "an end without a line ending": b"data: " + ONE + b"\n\ndata: " + TWO + b"\n\ndata: [DONE]",
}


def decoded(blocks: list[bytes]) -> list[bytes]:
    decoder = EventDecoder()
    return [payload for block in blocks for payload in decoder.feed(block)] + decoder.end()


@pytest.mark.parametrize("name", STREAMS)
def test_every_form_has_the_same_payloads_wherever_it_is_cut(name: str) -> None:
    stream = STREAMS[name]
    assert decoded([stream]) == [ONE, TWO, b"[DONE]"]
    if name != "byte order mark":
        assert decoded([stream[i : i + 1] for i in range(len(stream))]) == [ONE, TWO, b"[DONE]"]
    for cut in range(4, len(stream)):
        assert decoded([stream[:cut], stream[cut:]]) == [ONE, TWO, b"[DONE]"], cut


def test_data_of_several_lines_is_one_payload() -> None:
    assert decoded([b'data: {"a":\ndata: [1,\n', b"data: 2]}\n\n"]) == [b'{"a":\n[1,\n2]}']


def test_a_line_ending_cut_in_half_ends_no_event() -> None:
    stream = b'data: {"a":\r\ndata: 1}\r\n\r\n'
    for cut in range(1, len(stream)):
        assert decoded([stream[:cut], stream[cut:]]) == [b'{"a":\n1}'], cut


def test_a_payload_does_not_wait_for_a_blank_line_that_a_server_never_sends() -> None:
    decoder = EventDecoder()
    assert decoder.feed(b"data: " + ONE + b"\n") == [ONE]
    assert decoder.feed(b"data: " + TWO + b"\n") == [TWO]


def test_an_error_event_is_an_error_whatever_its_data() -> None:
    assert decoded([b'event: error\ndata: {"message": "secret"}\n\n']) == [b'{"error":{"type":"event"}}']
    assert decoded([b"event: err", b"or\ndata: secret\n", b"\n"]) == [b'{"error":{"type":"event"}}']


@pytest.mark.parametrize("block", [b"data: " + b"x" * 1000, b"data: {" + b"x" * 1000 + b"\n"])
def test_an_endless_event_is_refused(block: bytes) -> None:
    decoder = EventDecoder()
    with pytest.raises(PolicyUnavailable, match="more than 1048576 bytes"):
        for _ in range(MAX_EVENT_BYTES // 1000 + 2):
            decoder.feed(block)
