"""Numbers of persons, told by check digits (python-stdnum); short ones by a word before them too."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

import re2
from stdnum import bic

from service.store.redaction.context import follows


class _Scheme(NamedTuple):
    """`module` of stdnum that verifies what `pattern` finds; `words`: one of them must stand before it."""

    module: str
    pattern: str
    words: str | None = None


_SCHEMES = (
    _Scheme("us.ssn", r"\b\d{3}[- ]\d{2}[- ]\d{4}\b"),
    _Scheme("us.ssn", r"\b\d{9}\b", r"(?i)\b(?:ssn|social security)\b"),
    _Scheme("gb.nhs", r"\b\d{3}[ -]?\d{3}[ -]?\d{4}\b", r"(?i)\bnhs\b"),
    _Scheme("it.codicefiscale", r"\b[A-Za-z]{6}\d{2}[A-Za-z]\d{2}[A-Za-z]\d{3}[A-Za-z]\b"),
    _Scheme("es.dni", r"\b\d{8}[ -]?[A-Za-z]\b"),
    _Scheme("es.nie", r"\b[XYZxyz][ -]?\d{7}[ -]?[A-Za-z]\b"),
    _Scheme("fr.nir", r"\b[12][ ]?\d{2}[ ]?\d{2}[ ]?\d[\dABab][ ]?\d{3}[ ]?\d{3}[ ]?\d{2}\b"),
    _Scheme("de.idnr", r"\b\d{2}[ ]?\d{3}[ ]?\d{3}[ ]?\d{3}\b", r"(?i)(?:steuer|idnr|tin\b|tax)"),
    _Scheme("nl.bsn", r"\b\d{4}[. ]?\d{2}[. ]?\d{3}\b", r"(?i)\b(?:bsn|burgerservice\w*|sofi)\b"),
    _Scheme("pl.pesel", r"\b\d{11}\b", r"(?i)\bpesel\b"),
    _Scheme("be.nn", r"\b\d{2}[.]\d{2}[.]\d{2}-\d{3}[.]\d{2}\b"),
    _Scheme("ch.ssn", r"\b756[. ]?\d{4}[. ]?\d{4}[. ]?\d{2}\b"),
    _Scheme("se.personnummer", r"\b(?:\d{2})?\d{6}[-+]\d{4}\b"),
    _Scheme("fi.hetu", r"\b\d{6}[-+A-Fa-f]\d{3}[0-9A-Za-z]\b"),
    _Scheme("tr.tckimlik", r"\b\d{11}\b", r"(?i)\b(?:tc|kimlik)\b"),
    _Scheme("br.cpf", r"\b\d{3}[.]\d{3}[.]\d{3}-\d{2}\b"),
    _Scheme("br.cpf", r"\b\d{11}\b", r"(?i)\bcpf\b"),
    _Scheme("mx.curp", r"\b[A-Za-z]{4}\d{6}[A-Za-z]{6}[0-9A-Za-z]\d\b"),
    _Scheme("in_.aadhaar", r"\b\d{4}[ -]?\d{4}[ -]?\d{4}\b", r"(?i)\baadha+r\b"),
    _Scheme("cn.ric", r"\b\d{17}[\dXx]\b"),
    _Scheme("ca.sin", r"\b\d{3}[ -]?\d{3}[ -]?\d{3}\b", r"(?i)\b(?:sin|social insurance)\b"),
    _Scheme("au.tfn", r"\b\d{3}[ ]?\d{3}[ ]?\d{2,3}\b", r"(?i)\b(?:tfn|tax file)\b"),
)
_BIC = re2.compile(r"\b[A-Za-z]{6}[A-Za-z0-9]{2}(?:[A-Za-z0-9]{3})?\b")
_BIC_WORDS = re2.compile(r"(?i)\b(?:bic|swift)\b")
# A passport's and the like have no public check digits; British insurance numbers have a shape of their own.
_NINO = re2.compile(r"\b[A-CEGHJ-PR-TW-Za-ceghj-pr-tw-z]{2}[ ]?\d{2}[ ]?\d{2}[ ]?\d{2}[ ]?[A-Da-d]\b")


def find_identifiers(text: str) -> Iterator[tuple[int, int, str]]:
    """Spans of numbers that name a person."""
    yield from find_banks(text)
    for match in _NINO.finditer(text):
        yield match.start(), match.end(), "id"
    for scheme, pattern, verify in _compiled():
        for match in pattern.finditer(text):
            if (scheme.words is None or follows(text, match.start(), scheme.words)) and verify(match.group()):
                yield match.start(), match.end(), "id"


def find_banks(text: str) -> Iterator[tuple[int, int, str]]:
    """Spans of BICs, which may have no digit, and look like words."""
    if _BIC_WORDS.search(text):
        for match in _BIC.finditer(text):
            if follows(text, match.start(), _BIC_WORDS.pattern) and bic.is_valid(match.group()):
                yield match.start(), match.end(), "bic"


@lru_cache(1)
def _compiled() -> list[tuple[_Scheme, Any, Any]]:
    return [
        (scheme, re2.compile(scheme.pattern), import_module(f"stdnum.{scheme.module}").is_valid) for scheme in _SCHEMES
    ]
