"""A policy's chunks keep everything but their labels, whatever shape they come in."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from service.errors import PolicyUnavailable
from service.request.passthrough import Relabelled

WORK: Any = SimpleNamespace(id="chatcmpl-ours", created=7)
LABELS = {"id": "chatcmpl-ours", "object": "chat.completion.chunk", "created": 7, "model": "winnow"}
THEIRS = {"id": "theirs", "object": "chat.completion.chunk", "created": 1, "model": "upstream"}


def choice(text: str, reason: str | None = None) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]


def dump(body: dict[str, Any], spaces: bool = False) -> bytes:
    return json.dumps(body, separators=None if spaces else (",", ":")).encode()


TEXTS = ["", 'a "choices":[] of words, ', "\u00e9\n", "{}"]


@pytest.mark.parametrize("spaces", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        lambda choices: THEIRS | {"choices": choices},
        lambda choices: THEIRS | {"choices": choices, "system_fingerprint": "x"},
        lambda choices: {"choices": choices} | THEIRS,
        lambda choices: {"id": "theirs", "choices": choices, "model": "upstream", "created": 1},
        lambda choices: THEIRS | {"choices": choices, "usage": {"completion_tokens": 1}},
        lambda choices: {"provider": "x"} | THEIRS | {"choices": choices},
    ],
)
def test_every_chunk_has_our_labels_and_their_choices(shape: Any, spaces: bool) -> None:
    relabelled = Relabelled(WORK)
    for text in TEXTS:
        shown = relabelled(dump(shape(choice(text)), spaces))
        assert shown is not None
        body = json.loads(shown)
        assert {name: body[name] for name in LABELS} == LABELS
        assert body["choices"] == choice(text)
        assert "usage" not in body
        assert b"theirs" not in shown
        assert b"upstream" not in shown
    assert relabelled.count == len(TEXTS)


def test_chunks_that_begin_alike_are_not_parsed() -> None:
    relabelled = Relabelled(WORK)
    first, second = (dump(THEIRS | {"choices": choice(text)}) for text in ("a", "b"))
    relabelled(first)
    # Were it parsed, this would not be JSON.
    broken = second[:-1] + b', "broken'
    assert (relabelled(broken) or b"").endswith(b', "broken')


@pytest.mark.parametrize("text", ['"finish_reason":null', '"finish_reason": null'])
def test_no_reply_can_look_like_the_marks_of_a_chunk(text: str) -> None:
    relabelled = Relabelled(WORK)
    assert relabelled(dump(THEIRS | {"choices": choice("a")})) is not None
    assert relabelled(dump(THEIRS | {"choices": choice(text, "stop")})) is None
    assert relabelled.last_choices == choice(text, "stop")


def test_the_ending_tells_reason_and_usage() -> None:
    relabelled = Relabelled(WORK)
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    assert relabelled(dump(THEIRS | {"choices": choice("a")})) is not None
    assert relabelled(dump(THEIRS | {"choices": choice("b", "stop")})) is None, "held back: `rerank` rides on it"
    assert relabelled.last_choices == choice("b", "stop")
    assert relabelled(dump(THEIRS | {"choices": [], "usage": usage})) is None
    last, told = relabelled.ending
    assert last["choices"][0]["finish_reason"] == "stop"
    assert told["usage"] == usage


def test_a_stream_whose_labels_change_is_parsed_again() -> None:
    relabelled = Relabelled(WORK)
    for name in ("theirs", "others"):
        shown = relabelled(dump(THEIRS | {"id": name, "choices": choice(name)}))
        assert json.loads(shown or b"")["id"] == "chatcmpl-ours"


@pytest.mark.parametrize(
    ("payload", "message"),
    [(b'{"error": {"message": "out of memory"}}', "^the policy failed while it sampled$"), (b"{nonsense", "not JSON")],
)
def test_what_is_no_chunk_is_an_error(payload: bytes, message: str) -> None:
    relabelled = Relabelled(WORK)
    relabelled(dump(THEIRS | {"choices": choice("a")}))
    with pytest.raises(PolicyUnavailable, match=message):
        relabelled(payload)
