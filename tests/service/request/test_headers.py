"""Header values that every HTTP server sends and every client reads."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import pytest

from service.request.headers import header_value
from service.upstream.scorer import ServedModel


@pytest.mark.parametrize("text", ["winnow-orm@3", "a b", "100%", "~!#", ""])
def test_what_a_header_holds_stays(text: str) -> None:
    assert header_value(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("奖励模型", "%E5%A5%96%E5%8A%B1%E6%A8%A1%E5%9E%8B"),
        ("modèle", "mod%C3%A8le"),
        ("two\r\nlines: x", "two%0D%0Alines: x"),
        ("100% 奖", "100%25 %E5%A5%96"),
        ("a\x00\x7f\t", "a%00%7F"),
        (" modèle\n", "mod%C3%A8le"),
    ],
)
def test_what_it_does_not_hold_is_percent_encoded(text: str, value: str) -> None:
    assert header_value(text) == value
    assert unquote(value) == text.strip()


def test_half_a_character_is_replaced() -> None:
    assert header_value("a\ud83d") == "a?"


async def test_an_answer_by_a_model_of_any_name_arrives(gateway: Any) -> None:
    async def resolve(orm: str, *, fresh: bool = False) -> ServedModel:
        return ServedModel("奖励\n模型")

    gateway.scorer.resolve = resolve
    response = await gateway.ask()
    assert response.status_code == 200
    assert response.headers["x-winnow-orm"] == "%E5%A5%96%E5%8A%B1%0A%E6%A8%A1%E5%9E%8B"
    assert response.json()["rerank"]["orm"] == "奖励\n模型"
