"""Removes card numbers, IBANs, e-mail addresses, telephone numbers and keys before a text is stored.

Cards and IBANs are told by their check digits (Luhn's of ISO/IEC 7812, ISO 7064), so that an order number stays.
Telephone numbers have none: what is written like one goes, a bare row of digits without a leading 0 or + does not.
"""

from __future__ import annotations

from collections.abc import Callable

import re2
from stdnum import iban, luhn

# re2 reads a text once, whatever is in it: nobody can send one that takes long.
_KEY = re2.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?-----END [A-Z ]*PRIVATE KEY-----"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
    r"|\b(?:sk|pk|rk|wk|ghp|gho|ghs|github_pat|glpat|hf|npm|xox[abpsr])[-_][\w-]{16,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bAIza[\w-]{35}"
)
_EMAIL = re2.compile(r"[\w.%+'-]+@[\w-]+(?:\.[\w-]+)+")
_IBAN = re2.compile(r"\b[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,30}\b")
_NUMBER = re2.compile(r"\+?\(?\d(?:[ ()./-]{0,2}\d){6,40}")
_DIGITS = re2.compile(r"\d+")
_DATE = re2.compile(r"\d{1,2}[./-]\d{1,2}[./-]\d{2,4}\b|\d{4}[./-]\d{1,2}[./-]\d{1,2}\b")
_PLAIN = re2.compile(r"\d{1,3}(?:[.]\d{3})+$|[1-9]\d*$")
# No card begins with another digit, and none is written in shorter groups.
_CARD, _CARD_BEGINS, _CARD_GROUP = range(13, 20), "23456", 3
_PHONE_DIGITS = range(8, 16)


def redact(text: str) -> tuple[str, set[str]]:
    """The text with `[card]`, `[iban]`, `[email]`, `[phone]`, `[key]` in place of what they name; which there were."""
    found: set[str] = set()

    def taken(kind: str) -> str:
        found.add(kind)
        return f"[{kind}]"

    text = _KEY.sub(lambda _: taken("key"), text)
    if "@" in text:
        text = _EMAIL.sub(lambda _: taken("email"), text)
    if _DIGITS.search(text) is None:
        return text, found
    text = _IBAN.sub(lambda match: _without_iban(match.group(), taken), text)
    return _NUMBER.sub(lambda match: _without_numbers(match.group(), taken), text), found


def _without_iban(span: str, taken: Callable[[str], str]) -> str:
    """The words after an IBAN may look like more of it: the longest beginning that is one goes."""
    for end in range(len(span), 14, -1):
        if span[end - 1] != " " and iban.is_valid(span[:end]):
            return taken("iban") + span[end:]
    return span


def _without_numbers(span: str, taken: Callable[[str], str]) -> str:
    """A card's number stands in whole groups of digits, with other numbers perhaps before or behind it."""
    count = sum(map(str.isdigit, span))
    groups = list(_DIGITS.finditer(span)) if count >= _CARD.start else []
    for first in range(len(groups)):
        for last in range(first + 1, len(groups) + 1):
            if len(groups[last - 1].group()) < _CARD_GROUP:
                break
            digits = "".join(group.group() for group in groups[first:last])
            if len(digits) in _CARD and digits[0] in _CARD_BEGINS and luhn.is_valid(digits):
                before, after = span[: groups[first].start()], span[groups[last - 1].end() :]
                return _without_numbers(before, taken) + taken("card") + _without_numbers(after, taken)
    phone = count in _PHONE_DIGITS and not _DATE.match(span) and not _PLAIN.match(span)
    return taken("phone") if phone else span
