"""Takes out of a text what names a person, a card, an account or a key, and keeps the rest byte for byte.

The text is folded for finding (`folding.py`). Each finder masks what it found, so that no other finds a part of it;
what masking uncovers is found in the next round. A text that was redacted is not changed by being redacted again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import re2

from service.settings import StoreSettings
from service.store.redaction.folding import MASK, fold
from service.store.redaction.identifiers import find_banks, find_identifiers
from service.store.redaction.keys import find_keys
from service.store.redaction.names import FindNames, load_names
from service.store.redaction.numbers import find_cards, find_ibans, find_phones

# Countries whose national telephone numbers are recognised if the settings name no others.
REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "NL")
_ROUNDS = 6
_PLACEHOLDER = re2.compile(r"\[(?:card|iban|email|phone|key|id|bic|name)\]")
_EMAIL = re2.compile(r"[\pL\pN\pM_.%+'-]+@[\pL\pN\pM-]+(?:\.[\pL\pN\pM-]+)+")
_AT = re2.compile(r"(?i)[(\[{] ?at ?[)\]}]")
_SPELLED = re2.compile(
    r"(?i)[a-z0-9_.%+-]+ ?[(\[{] ?at ?[)\]}] ?[a-z0-9-]+(?: ?(?:\.|[(\[{] ?dot ?[)\]}]) ?[a-z0-9-]+)+"
)
# What has no six digits near each other has no number that is looked for.
_DIGITS = re2.compile(r"(?:\d[ ()./_|:*A-Za-z+-]{0,3}){6}")
Span = tuple[int, int, str]


@dataclass(frozen=True)
class Redactor:
    """`regions` are those of national telephone numbers; `names`, if given, finds people's names."""

    regions: tuple[str, ...] = REGIONS
    names: FindNames | None = None

    def __call__(self, text: str) -> tuple[str, set[str]]:
        """The text with `[card]`, `[email]` and so on in place of what they name; which there were."""
        folded = fold(text)
        masked, spans = self._find(folded.text)
        if self.names is not None:
            spans += [(first, last, "name") for first, last in self.names(masked) if MASK not in masked[first:last]]
        parts, position = [], 0
        for first, last, kind in sorted(spans):
            begins, ends = folded.original(first, last)
            if begins < position:
                continue
            parts += [text[position:begins], f"[{kind}]"]
            position = ends
        return "".join([*parts, text[position:]]), {kind for _, _, kind in spans}

    def _find(self, text: str) -> tuple[str, list[Span]]:
        masked = _mask(text, ((match.start(), match.end(), "") for match in _PLACEHOLDER.finditer(text)))
        spans: list[Span] = []
        has_digits = _DIGITS.search(masked) is not None
        for _ in range(_ROUNDS):
            known = len(spans)
            for finder in (
                find_keys,
                _find_emails,
                *((find_ibans, find_cards, find_identifiers) if has_digits else (find_banks,)),
            ):
                masked = self._take(masked, finder(masked), spans)
            if has_digits:
                masked = self._take(masked, find_phones(masked, self.regions), spans)
            if len(spans) == known:
                break
        return masked, spans

    def _take(self, masked: str, matches: Iterable[Span], spans: list[Span]) -> str:
        """Keep the spans that overlap none before them, and mask them."""
        taken, over = [], 0
        for span in sorted(matches):
            if span[0] >= over and MASK not in masked[span[0] : span[1]]:
                taken.append(span)
                over = span[1]
        spans += taken
        return _mask(masked, taken)


def _find_emails(text: str) -> Iterable[Span]:
    patterns = [_EMAIL] if "@" in text else []
    if _AT.search(text):
        patterns.append(_SPELLED)
    for pattern in patterns:
        for match in pattern.finditer(text):
            yield match.start(), match.end(), "email"


def _mask(text: str, spans: Iterable[Span]) -> str:
    parts, position = [], 0
    for first, last, _ in spans:
        parts += [text[position:first], MASK * (last - first)]
        position = last
    return "".join([*parts, text[position:]])


redact = Redactor()


def redactor_of(settings: StoreSettings) -> Redactor:
    """As the settings say. Raises SetupError if they want names found, and what finds them is missing."""
    return Redactor(tuple(settings.phone_regions), load_names() if settings.redact_names else None)


async def redact_note(redactor: Redactor, text: str | None) -> str | None:
    """What a person wrote, as it may be kept; on a thread, since finding names takes a while."""
    return (await asyncio.to_thread(redactor, text))[0] if text else None
