"""What may not be stored is taken out, and what looks like it stays."""

from __future__ import annotations

import time
from importlib.util import find_spec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import SetupError
from service.store.redaction import Redactor, redact
from service.store.redaction.names import load_names

KEY = "sk-" + "a1B2" * 6


@pytest.mark.parametrize(
    ("text", "expected", "kinds"),
    [
        # The card schemes' published test numbers.
        ("paid with 4111111111111111 today", "paid with [card] today", {"card"}),
        ("4111 1111 1111 1111 12/28 737", "[card] 12/28 737", {"card"}),
        ("Amex 3782-822463-10005.", "Amex [card].", {"card"}),
        ("order 20412 card 5555 5555 5555 4444", "order 20412 card [card]", {"card"}),
        # The examples of the IBAN registry.
        ("to DE89 3704 0044 0532 0130 00 please", "to [iban] please", {"iban"}),
        ("to gb29nwbk60161331926819 now", "to [iban] now", {"iban"}),
        ("write to a.b+c@mail.example.org, please", "write to [email], please", {"email"}),
        ("call +49 30 1234567", "call [phone]", {"phone"}),
        ("call (030) 123-4567 or 555-123-4567", "call [phone] or [phone]", {"phone"}),
        ("0171 2345678", "[phone]", {"phone"}),
        (f"my key is {KEY}!", "my key is [key]!", {"key"}),
        ("AKIAIOSFODNN7EXAMPLE", "[key]", {"key"}),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", "[key]", {"key"}),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", "[key]", {"key"}),
        ("4111111111111111 or a@b.org", "[card] or [email]", {"card", "email"}),
    ],
)
def test_taken_out(text: str, expected: str, kinds: set[str]) -> None:
    assert redact(text) == (expected, kinds)


@pytest.mark.parametrize(
    "text",
    [
        "I paid 49,90 on 12.03.2026 and 1.234.567,89 before.",
        "on 2026-11-23 10:00:00",
        "order 1234567890123456, invoice 20260001",
        "4111 1111 1111 1112",
        "the code ends in 4711; paragraph 12.3",
        "me @ home",
        "",
    ],
)
def test_left_alone(text: str) -> None:
    assert redact(text) == (text, set())


CARD = "4111111111111111"
BETWEEN = (
    "\u00a0 \u2009 \u202f \u3000 - \u2010 \u2011 \u2013 \u2014 \u2212 _ . / \u200b \u200d \ufeff \u00ad \u2060 \u00b7"
)


@pytest.mark.parametrize("separator", [*BETWEEN.split(" "), "\u2028", "\n", "\r\n", "\t", " - "])
def test_a_card_with_any_separator(separator: str) -> None:
    grouped = separator.join(CARD[i : i + 4] for i in range(0, 16, 4))
    assert redact(f"paid with {grouped} – ünd «so»\u00a0on") == ("paid with [card] – ünd «so»\u00a0on", {"card"})


@pytest.mark.parametrize("zero", ["0", "\uff10", "\u0660", "\u06f0", "\u0966", "\U0001d7ce"])
def test_a_card_in_any_digits(zero: str) -> None:
    digits = "".join(chr(ord(zero) + int(digit)) for digit in CARD)
    assert redact(f"<{digits}>") == ("<[card]>", {"card"})


def test_a_card_digit_by_digit_and_as_keycaps() -> None:
    assert redact(" ".join(CARD))[0] == "[card]"
    assert redact("".join(f"{digit}\ufe0f\u20e3" for digit in CARD))[0].startswith("[card]")
    assert redact("1 2 3 4 5 6 7 8 9 10 11 12 13 14")[1] == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail ann@münchen.example now", "mail [email] now"),
        ("写信给 用户@例子.公司 谢谢", "写信给 [email] 谢谢"),
        ("<mailto:ann@bank.example>", "<mailto:[email]>"),
        ("ann (at) bank.example or bob[at]bank[dot]example", "[email] or [email]"),
        ("ann＠bank．example", "[email]"),
        ("IBAN DE 89 37 04 0044-0532 0130.00, thanks", "IBAN [iban], thanks"),
        ("XY12 DE89 3704 0044 0532 0130 00", "XY12 [iban]"),
        ("SSN 536-90-4399", "SSN [id]"),
        ("my social security number is 536904399", "my social security number is [id]"),
        ("CF RCCMNL83S18D969H", "CF [id]"),
        ("DNI 54362315-K", "DNI [id]"),
        ("NIR 2 95 10 99 126 111 93", "NIR [id]"),
        ("Steuer-ID 36 574 261 809", "Steuer-ID [id]"),
        ("CPF 390.533.447-05", "CPF [id]"),
        ("AHV 756.9217.0769.85", "AHV [id]"),
        ("NI number AB 12 34 56 C", "NI number [id]"),
        ("BIC AGRIFRPP882 please", "BIC [bic] please"),
        ("https://ann:hunter2@db.example/x", "https://[key]@db.example/x"),
        ("Authorization: Bearer abcdef0123456789abcdef", "Authorization: Bearer [key]"),
        ("password: hunter2!x", "password: [key]"),
        ("ghp_" + "a1" * 18, "[key]"),
        ("xoxb-1234567890-abcdefghij", "[key]"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEvQ", "[key]"),
        ("ring me on 6502530000", "ring me on [phone]"),
        ("Tel. 0171\u20132345678", "Tel. [phone]"),
        ("+1 (650) 253-0000", "[phone]"),
        ("0049 30 1234567", "[phone]"),
    ],
)
def test_more_that_is_taken_out(text: str, expected: str) -> None:
    assert redact(text)[0] == expected


@pytest.mark.parametrize(
    "text",
    [
        "order 302-1234567, invoice 2026-000123 and ticket 12-345-678",
        "under § 823 Abs. 1 BGB, Art. 6 (1) 2016/679",
        "10.000.000 EUR, $ 12 345 678 and 99.999.999,00 €",
        "from 192.168.10.100 at 2026-11-25T08:00:00",
        "a transfer, a NATIONAL one, at ACME (at noon)",
        "the basic understanding of responsibilities: token economics",
        "meet me at 10 at example",
        "1.2.3 and 4.5.6-rc1",
        "\u200bé\u00ad\u202fü – ¾ ﬁ\U0001f600\u200d\U0001f680",
    ],
)
def test_more_that_is_left_alone(text: str) -> None:
    assert redact(text) == (text, set())


_PIECES = [
    CARD,
    "4111 1111",
    "@",
    ".",
    " ",
    "-",
    "\u200b",
    "\n",
    "DE89370400440532013000",
    "+49 30 1234567",
    "call ",
    "sk-",
]
_PIECES += [
    "a1b2c3d4e5f6a7b8",
    "[card]",
    "[phone]",
    "ann@bank.example",
    "AKIAIOSFODNN7EXAMPLE",
    "0",
    "x",
    "://",
    ":",
    "bearer ",
]


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.text(), st.lists(st.sampled_from(_PIECES), max_size=25).map("".join)))
def test_any_text_is_redacted_once_and_for_all(text: str) -> None:
    once, kinds = redact(text)
    assert redact(once) == (once, set())
    assert (once == text) or kinds


class _Names:
    """Finds Anna, as Presidio would."""

    def __call__(self, text: str) -> list[tuple[int, int]]:
        return [(text.index("Anna"), text.index("Anna") + 4)] if "Anna" in text else []


def test_names_are_found_by_whoever_is_given() -> None:
    assert Redactor(names=_Names())("\u200bAnna paid with 4111111111111111")[0] == "\u200b[name] paid with [card]"


@pytest.mark.skipif(find_spec("presidio_analyzer") is not None, reason="Presidio is installed")
def test_without_presidio_names_are_refused_with_what_to_install() -> None:
    with pytest.raises(SetupError, match=r"winnow-rerank\[names\]"):
        load_names()


def test_long_input_costs_what_its_length_costs() -> None:
    def spent(times: int) -> float:
        began = time.process_time()
        parts = ("1 ", "a@", "123 ", "DE12A", "4111 ", "-----BEGIN PRIVATE KEY-----", "a at ", "://a:", "+1-")
        for part in (*parts, "\u200b1", "password:"):
            redact(part * times)
        return time.process_time() - began

    spent(1_000)
    # Four times the length; the square of it would be sixteen times the work.
    assert spent(80_000) < 9 * spent(20_000)
