"""Keys and tokens: by their prefixes, their framing, or the word before them."""

from __future__ import annotations

from collections.abc import Iterator

import re2

# re2 reads a text once, whatever is in it: nobody can send one that takes long.
_KEY = re2.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----[A-Za-z0-9+/=\s:,.-]*"
    r"(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----)?"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
    r"|\b(?:sk|pk|rk|wk|gh[opsru]|github_pat|glpat|hf|npm|pypi|dop_v1|xapp|xox[abeoprs]|whsec)[-_][\w-]{16,}"
    r"|\b(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b"
    r"|\bAIza[\w-]{35}|\bya29\.[\w.-]{20,}|\bSG\.[\w-]{16,}\.[\w-]{16,}"
    r"|https://hooks\.slack\.com/services/[\w/]{20,}"
)
# The user and the password of a URL; its host stays.
_IN_URL = re2.compile(r"://([^\s/@:\x00]*:[^\s/@\x00]+)@")
_HEADER = re2.compile(r"(?i)\b(?:bearer|basic|token)[ ]+([A-Za-z0-9._~+/=-]{16,})")
_NAMED = re2.compile(
    r"(?i)(?:api[ _-]?key|access[ _-]?key|secret|token|passwo?r?d|passwort|pwd|passphrase)[\w-]{0,32}[\"']?"
    r"[ ]{0,3}[:=][ ]{0,3}"
    r"[\"']?([^\s\"',;\x00]{6,})"
)


def find_keys(text: str) -> Iterator[tuple[int, int, str]]:
    """Spans of keys in a folded text."""
    for match in _KEY.finditer(text):
        yield match.start(), match.end(), "key"
    for match in _IN_URL.finditer(text):
        yield match.start(1), match.end(1), "key"
    for pattern in (_HEADER, _NAMED):
        for match in pattern.finditer(text):
            # A word of prose has no digit.
            if any(character.isdigit() for character in match.group(1)):
                yield match.start(1), match.end(1), "key"
