"""Card numbers, IBANs and telephone numbers in a folded text.

Cards and IBANs are told by their check digits (Luhn's of ISO/IEC 7812, ISO 7064), so that an order number stays.
Telephone numbers have none: what is written like one goes, a bare row of digits only after a word such as `call`, or
with a leading 0 or +.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import phonenumbers
import re2
from stdnum import iban, luhn, numdb

from service.store.redaction.context import follows

_RUN = re2.compile(r"\d(?:[ ()./_|:*-]{0,3}\d){12,}")
_DIGITS = re2.compile(r"\d+")
# No card begins with another digit, and none is written in shorter groups, but for a digit or a pair at a time.
_CARD, _CARD_BEGINS, _CARD_GROUP = range(13, 20), "23456", 3
_EVENLY = (15, 16)
_IBAN_BEGINS = re2.compile(r"\b[A-Za-z]{2}[ ._-]{0,2}\d[ ]?\d")
# Its 34 characters with separators between them.
_IBAN_REACH = 110
_BBAN_PART = re2.compile(r"(\d+)!")
_NUMBER = re2.compile(r"\+?\(?\d(?:[ ()./-]{0,3}\d){5,40}")
_DATE = re2.compile(r"\d{1,2}[./-] ?\d{1,2}[./-] ?\d{2,4}\b|\d{4}[./-]\d{1,2}[./-]\d{1,2}\b")
_PLAIN = re2.compile(r"\d{1,3}(?:[ .]\d{3})+$|[1-9]\d*$")
_ADDRESS = re2.compile(r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}$")
_BY_YEAR = re2.compile(r"(?:19|20)\d\d[-/. ]\d+$")
_MONEY = re2.compile(r"^(?:,\d| ?(?:[€$£¥%]|EUR|USD|GBP|CHF|euros?|dollars?)(?:\b|\s|$))")
_MONEY_BEFORE = re2.compile(r"(?:[€$£¥]|EUR|USD|GBP|CHF) ?$")
_PHONE_DIGITS, _SHORT_PHONE = range(8, 16), 7
_CALLED = (
    r"(?i)\b(?:phone|tele\w*|tel|mobile|mobil|cell|call\w*|ring|dial|fax|whatsapp|sms|handy\w*|anruf\w*|rufnummer|rufen?"
    r"|t[ée]l[ée]phone|portable|m[óo]vil|celular|telefono)\b"
)
_COUNTED = (
    r"(?i)(?:\b(?:order|invoice|ticket|case|ref|reference|booking|tracking|parcel|article|section|paragraph|para|policy|"
    r"contract|isbn|version|bestell\w*|rechnung\w*|kunden\w*|vertrags?\w*|auftrags?\w*|aktenzeichen|az|art|"
    r"commande|facture|pedido|factura)\b|§|#)"
)


def find_cards(text: str) -> Iterator[tuple[int, int, str]]:
    """A card's number stands in whole groups of digits, with other numbers perhaps before or behind it."""
    for run in _RUN.finditer(text):
        groups = [(run.start() + g.start(), run.start() + g.end()) for g in _DIGITS.finditer(run.group())]
        digits = "".join(text[first:last] for first, last in groups)
        sizes = {last - first for first, last in groups}
        if len(digits) in _EVENLY and sizes in ({1}, {2}) and _is_card(digits):
            yield run.start(), run.end(), "card"
            continue
        first = 0
        while first < len(groups):
            end = _card_from(text, groups, first)
            if end is not None:
                yield groups[first][0], groups[end][1], "card"
            first = first + 1 if end is None else end + 1


def _card_from(text: str, groups: Sequence[tuple[int, int]], first: int) -> int | None:
    """The last group of the card that begins with group `first`."""
    digits = ""
    for last in range(first, len(groups)):
        begins, ends = groups[last]
        if ends - begins < _CARD_GROUP or len(digits) + ends - begins > _CARD.stop:
            return None
        digits += text[begins:ends]
        if _is_card(digits):
            return last
    return None


def _is_card(digits: str) -> bool:
    return len(digits) in _CARD and digits[0] in _CARD_BEGINS and luhn.is_valid(digits)


def find_ibans(text: str) -> Iterator[tuple[int, int, str]]:
    """The words after an IBAN may look like more of it: its country says how long it is."""
    over = 0
    for begin in _IBAN_BEGINS.finditer(text):
        length = _iban_length(begin.group()[:2].upper())
        if begin.start() < over or length is None:
            continue
        places: list[int] = []
        for place in range(begin.start(), min(len(text), begin.start() + _IBAN_REACH)):
            if text[place].isascii() and text[place].isalnum():
                places.append(place)
            elif text[place] not in " ._-/":
                break
            if len(places) == length:
                break
        if len(places) == length and iban.is_valid("".join(text[place] for place in places)):
            over = places[-1] + 1
            yield begin.start(), over, "iban"


@lru_cache(1_000)
def _iban_length(country: str) -> int | None:
    """By the registry that stdnum ships; None for what is no country with IBANs."""
    known = numdb.get("iban").info(country)[0][1]
    return 4 + sum(int(size) for size in _BBAN_PART.findall(known["bban"])) if "bban" in known else None


def find_phones(text: str, regions: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Rows of digits that are written like a telephone number."""
    for match in _NUMBER.finditer(text):
        first, last = match.span()
        # Within a longer word or number it is a part of a name.
        if (first and (text[first - 1].isalnum() or text[first - 1] in "_")) or text[last : last + 1].isalnum():
            continue
        if _is_phone(text, first, last, regions):
            yield first, last, "phone"


def _is_phone(text: str, first: int, last: int, regions: Sequence[str]) -> bool:
    span = text[first:last]
    count = sum(map(str.isdigit, span))
    if _DATE.match(span) or _ADDRESS.match(span) or _MONEY.match(text[last : last + 12]):
        return False
    if _MONEY_BEFORE.search(text[max(0, first - 5) : first]):
        return False
    called = follows(text, first, _CALLED)
    # A short one only after a word, or with the 0 of a trunk, and only if it can be dialled somewhere.
    national = span.startswith(("+", "0", "("))
    if count not in _PHONE_DIGITS and not (count == _SHORT_PHONE and (called or national) and _valid(span, regions)):
        return False
    if called:
        return True
    if follows(text, first, _COUNTED):
        return False
    return national or not (_PLAIN.match(span) or _BY_YEAR.match(span))


def _valid(span: str, regions: Sequence[str]) -> bool:
    for region in regions:
        try:
            if phonenumbers.is_valid_number(phonenumbers.parse(span, region)):
                return True
        except phonenumbers.NumberParseException:
            continue
    return False
