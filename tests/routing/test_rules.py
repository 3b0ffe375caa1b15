"""Rules: keywords as whole words, patterns in RE2, mistakes refused with their place."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from routing.rules import RouterSettings, Rule, first_match


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a LATE   fee!", True),
        ("late fee", True),
        ("the plate fees", False),
        ("late feeling", False),
        ("übung späte", False),
        ("C++ (x) again", True),
        ("ticket PO-17 is wrong", True),
        ("XPO-17", False),
    ],
)
def test_matches(text: str, expected: bool) -> None:
    rule = Rule(name="r", route="billing", keywords=("late fee", "c++ (x)"), pattern=r"\bpo-\d+")
    assert rule.matches(text) is expected


def test_a_keyword_is_never_part_of_a_longer_word_of_any_script() -> None:
    rule = Rule(name="r", route="fraud", keywords=("späte",))
    assert rule.matches("SPÄTE Gebühr")
    assert not rule.matches("verspätete")


def test_the_first_rule_in_order_decides_over_all_texts() -> None:
    first = Rule(name="first", route="default", keywords=("tea",))
    second = Rule(name="second", route="fraud", keywords=("scam",))
    assert first_match((first, second), ["a scam", "some tea"]) is first
    assert first_match((second,), ["some tea"]) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pattern": "("}, "rule 'r': the pattern is not a regular expression of RE2"),
        ({"pattern": "(?=look)"}, "invalid perl operator"),
        ({"pattern": r"(a)\1"}, "invalid escape sequence"),
        ({"pattern": "a)|(b"}, "unexpected )"),
        ({"pattern": "x{1001}"}, "invalid repetition size"),
        ({}, "needs keywords or a pattern"),
        ({"keywords": ("  ",)}, "at least 1 character"),
        ({"keywords": ("x",), "route": "other"}, "'billing', 'fraud' or 'default'"),
        ({"keywords": ("x",), "probability": 1}, "Extra inputs"),
    ],
)
def test_mistakes_are_refused_when_settings_are_read(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=r"1 validation error") as caught:
        Rule.model_validate({"name": "r", "route": "fraud", **fields})
    assert message in str(caught.value)


def test_two_rules_of_one_name_are_refused() -> None:
    rule = {"name": "twin", "route": "fraud", "keywords": ["x"]}
    with pytest.raises(ValidationError, match="two rules go by the name 'twin'"):
        RouterSettings.model_validate({"rules": [rule, rule]})


def test_thresholds_are_probabilities() -> None:
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        RouterSettings.model_validate({"thresholds": {"billing": 1.5}})


def test_no_pattern_backtracks() -> None:
    rule = Rule(name="r", route="fraud", pattern=r"(a+)+(b|c)*.*(a*)*$x")
    start = time.perf_counter()
    assert not rule.matches("a" * 600)
    assert time.perf_counter() - start < 0.5
