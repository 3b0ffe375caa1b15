"""Rules: keywords as whole words, patterns in RE2, mistakes refused with their place."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from routing.rules import Rule, first_match
from routing.settings import RouterSettings


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


REFUND = Rule(name="refund-zh", route="billing", keywords=("退款", "返金", "c++", "§ 75"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("退款", True),
        ("请问怎么申请退款呢", True),
        ("返金してください", True),
        ("I write C++.", True),
        ("My claim under § 75, please", True),
        ("c++x", False),
        ("§75", True),
        ("gemäß §\u00a075 BGB", True),
        ("§ 751", False),
        ("退\u200b款", True),
        ("（Ｃ＋＋）", True),
        ("使用c++的人", True),
    ],
)
def test_scripts_without_spaces_and_symbols(text: str, expected: bool) -> None:
    assert REFUND.matches(text) is expected


@pytest.mark.parametrize(
    ("keyword", "text", "expected"),
    [
        ("คืนเงิน", "ฉันต้องการคืนเงินด่วน", True),
        ("エラー", "支払いエラーが出る", True),
        ("ｶｰﾄﾞ", "私のカードは", True),
        # Korean: particles follow, but a syllable in front makes another word ("복사기" is a copier).
        ("환불", "환불을 원해요", True),
        ("사기", "복사기가 고장", False),
        ("환불", "VISA환불", True),
        # Latin words beside scripts without spaces or particles.
        ("refund", "请refund我", True),
        ("refund", "refund를 주세요", True),
        ("refund", "REFUND!", True),
        ("refund", "the refund's late", True),
        ("refund", "re-refund", True),
        ("refund", "refundable", False),
        ("refund", "refund2day", False),
        ("refund", "refund\u0301", True),
        # German compounds are one word.
        ("Rechnung", "die Stromrechnung", False),
        ("Rechnung", "Rechnungsnummer", False),
        ("straße", "STRASSE", True),
        ("über", "uber", False),
        ("uber", "über", False),
        ("don't pay", "I don’t  pay", True),
        ("sign-up", "Sign‑up", True),
        ("💳", "lost💳today", True),
        ("☎️", "☎ me", True),
        ("कर", "करें", False),
        ("कर", "यह कर है", True),
        # Spellings that hide a word.
        ("chargeback", "I want a сhаrgebаck", True),
        ("chargeback", "c h a r g e b a c k now", True),
        ("chargeback", "CH4RGEB4CK", True),
        ("chargeback", "ｃｈａｒｇｅｂａｃｋ", True),
        ("chargeback", "charge\u00adback", True),
    ],
)
def test_keywords_by_script_and_spelling(keyword: str, text: str, expected: bool) -> None:
    assert Rule(name="r", route="fraud", keywords=(keyword,)).matches(text) is expected


def test_patterns_read_the_text_as_written_and_folded() -> None:
    rule = Rule(name="r", route="fraud", pattern=r"\bFR-\d{6}\b")
    assert rule.matches("case fr-123456 here")
    assert rule.matches("ＦＲ－１２３４５６")
    assert not rule.matches("FR-1234567")


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
        ({"keywords": ("x",), "route": "No such name"}, "String should match pattern"),
        ({"keywords": ("x",), "route": "a" * 33}, "String should match pattern"),
        ({"keywords": ("\u200b\u00ad",)}, "has no visible character"),
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
