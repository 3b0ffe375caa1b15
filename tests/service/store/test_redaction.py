"""What may not be stored is taken out, and what looks like it stays."""

from __future__ import annotations

import time

import pytest

from service.store.redaction import redact

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


def test_long_input_costs_what_its_length_costs() -> None:
    def spent(times: int) -> float:
        began = time.process_time()
        for part in ("1 ", "a@", "123 ", "DE12A"):
            redact(part * times)
        return time.process_time() - began

    spent(1_000)
    # Four times the length; the square of it would be sixteen times the work.
    assert spent(80_000) < 9 * spent(20_000)
