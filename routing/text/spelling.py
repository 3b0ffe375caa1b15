"""One spelling for what reads alike: what rules and the classifier compare.

`cleaned` is the text on one line without invisible characters; regular expressions read it.
`folded` also ignores case, width and the shape of quotes and hyphens; keywords read it.
`deobfuscated` also undoes spellings that hide a word from a filter: homoglyphs of other scripts, spaced
letters, digits for letters, stacked marks.
`unaccented` drops what accents are left; only the classifier, which learned English, reads it.

None of them raises on any text.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

# Unicode's Default_Ignorable_Code_Point: soft hyphens, zero-width and bidirectional marks, variation selectors.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
_BLANK = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffd\s]+")
_QUOTES_AND_HYPHENS = str.maketrans(
    {**dict.fromkeys("‘’‚‛ʼ′`´", "'"), **dict.fromkeys("“”„‟″«»", '"'), **dict.fromkeys("‐‑‒–—―−﹣", "-")}
)
_LATIN = re.compile(r"[a-z]")
_NOT_ASCII_WORD = re.compile(r"[^\W\d_]*[^\W\d_\x00-\x7f][^\W\d_]*")
_STACKED = re.compile("(?<=[a-z])[\u0300-\u036f\u0489\u20d0-\u20f0]+")
# Four or more single letters with one and the same separator: "s t o l e n", "f.r.a.u.d".
_SPACED = re.compile(r"(?<![^\W_])[^\W_]([ ._*-])(?:[^\W_]\1){2,}[^\W_](?![^\W_])")
_LEET = re.compile(r"(?<=[^\W\d_])[013457@$!]{1,2}(?=[^\W\d_])")
_LETTERS = str.maketrans("0134578@$!", "oieastbasi")


def cleaned(text: str) -> str:
    """Valid Unicode on one line, without invisible characters."""
    if not text.isascii():
        text = _INVISIBLE.sub("", text.encode("utf-8", "replace").decode("utf-8"))
    return _BLANK.sub(" ", text).strip()


def folded(text: str) -> str:
    """A cleaned text in compatibility form (NFKC), case-folded, with straight quotes and plain hyphens."""
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", text.translate(_QUOTES_AND_HYPHENS)).casefold()
    return unicodedata.normalize("NFKC", text).translate(_QUOTES_AND_HYPHENS)


def deobfuscated(text: str) -> str:
    """A raw or cleaned text, folded, with disguised words spelled out."""
    # Before runs of blanks shrink to one: wider gaps stand between words whose letters are spaced.
    text = folded(cleaned(_SPACED.sub(_joined, text)))
    if not text.isascii():
        text = _NOT_ASCII_WORD.sub(_latin, _STACKED.sub("", text))
    return _LEET.sub(_spelled, text)


def unaccented(text: str) -> str:
    """A folded text whose Latin letters have no accents."""
    if text.isascii():
        return text
    decomposed = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFC", _STACKED.sub("", decomposed))


def _joined(match: re.Match[str]) -> str:
    return match[0].replace(match[1], "")


def _spelled(match: re.Match[str]) -> str:
    return "ll" if match[0] == "11" else match[0].translate(_LETTERS)


def _latin(match: re.Match[str]) -> str:
    """The word in Latin letters, if it mixes scripts or consists of nothing but homoglyphs."""
    word, table = match[0], _homoglyphs()
    if _LATIN.search(word) or all(ord(letter) in table for letter in word):
        return word.translate(table)
    return word


@cache
def _homoglyphs() -> dict[int, str]:
    """Lower-case letters of other scripts that look like a Latin letter, to that letter (Unicode's confusables)."""
    # Reads its tables on import, 50 ms that an English text never needs.
    from confusable_homoglyphs.confusables import confusables_data

    letters: dict[str, str] = {}
    for letter, alike in confusables_data.items():
        latin = [each["c"].lower() for each in alike if _is_letter(each["c"]) and each["c"].isascii()]
        if latin and _is_letter(letter) and not letter.isascii():
            letters.setdefault(letter, latin[0])
    # A folded text has capitals that look Latin in lower case; the lower case's own likeness comes first.
    capitals = {letter.lower(): latin for letter, latin in letters.items() if len(letter.lower()) == 1}
    return {ord(letter): latin for letter, latin in {**capitals, **letters}.items()}


def _is_letter(text: str) -> bool:
    return len(text) == 1 and text.isalpha()
