"""Disguises change the text, and what routing reads is mostly the text again."""

from __future__ import annotations

from random import Random

import pytest

from routing.model.classifier import spelled_out
from routing.train.disguise import DISGUISES

TEXT = "Somebody charged my account twice without asking"


@pytest.mark.parametrize("name", DISGUISES)
def test_a_disguise_hides_the_text_and_is_undone(name: str) -> None:
    hidden = DISGUISES[name](TEXT, Random(1))
    assert hidden != TEXT
    assert DISGUISES[name](TEXT, Random(1)) == hidden
    assert spelled_out(hidden) == TEXT.lower()
