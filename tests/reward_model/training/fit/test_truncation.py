from __future__ import annotations

from typing import Any

import pytest

from reward_model.labels import Pair
from reward_model.text.formatting import Completion, Formatter
from reward_model.training.fit.truncation import describe, distinct_pairs, distinct_sources, is_equal

# The fixture's formatter leaves a reply 64 tokens: 63 and the end of its turn. "refund" is one token or more.
LONG = "refund " * 70


def _pair(chosen: str, rejected: str, **extra: Any) -> Pair:
    prompt = [{"role": "user", "content": "My card was charged"}]
    return Pair.model_validate(
        {"id": chosen[-9:], "group": "g", "prompt": prompt, "chosen": chosen, "rejected": rejected, **extra}
    )


@pytest.mark.parametrize(
    ("chosen", "rejected", "equal"),
    [
        (LONG + "Then confirm.", LONG + "Then shout.", True),
        ("Confirm. " + LONG, "Shout. " + LONG, False),
        ("Same.", "Same.", True),
        ("Yes", "yes", False),
        # No character of it can be encoded: both become a question mark.
        ("a\ud800", "a?", True),
    ],
)
def test_replies_are_equal_if_the_model_reads_the_same_tokens(
    formatter: Formatter, chosen: str, rejected: str, equal: bool
) -> None:
    assert is_equal(_pair(chosen, rejected), formatter) is equal


def test_the_last_token_that_is_read_still_tells(formatter: Formatter) -> None:
    alike = "x" * 62
    assert len(formatter.full_completion_ids(Completion(content=alike))) == 63
    assert not is_equal(_pair(alike + "y" + "x" * 9, alike + "z" + "x" * 9), formatter)
    assert is_equal(_pair(alike + "xy", alike + "xz"), formatter)


def test_sources_lose_them_in_every_split_and_say_how_many(formatter: Formatter) -> None:
    good, bad = _pair("Yes.", "No."), _pair(LONG + "a", LONG + "b")
    found = distinct_sources(
        {
            "one": {"train": [good, bad, bad], "validation": [bad], "test": [good]},
            "two": {"train": [good], "validation": [], "test": []},
        },
        formatter,
    )
    assert found.equal == {"one": 3, "two": 0}
    assert found.sources["one"] == {"train": [good], "validation": [], "test": [good]}
    assert distinct_pairs([bad, good], formatter) == [good]
    assert describe(3, 5).startswith("3 of 5 pairs are left out")
