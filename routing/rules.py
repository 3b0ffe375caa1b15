"""Operators' rules: keywords and regular expressions that decide a route before the classifier's opinion.

Patterns are RE2 syntax and run in time linear in the text: no pattern an operator can write, and no text a
client can send, backtracks. What RE2 lacks (look-around, back-references) is refused when settings are read,
with the pattern's own error.

A keyword is a whole word, in any case and width. What "whole" means depends on the script at each of its ends:
Chinese, Japanese, Thai, Lao, Khmer, Burmese and Tibetan put no spaces between words, so a keyword in them matches
anywhere; Korean attaches particles, so a keyword in it need only begin a word; a keyword without letters or digits
("💳", "§") matches anywhere. A keyword and a text are also compared as `text.spelling.deobfuscated` spells them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple, Self, TypeVar

import re2
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints, model_validator

from routing.routes import Route
from routing.text.spelling import cleaned, deobfuscated, folded

Keyword = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]

# The prolonged sound marks of Japanese belong to no one script.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_INSIDE = r"\pL\pM\pN"
_START = rf"(?:^|[^{_INSIDE}]|[{_UNSPACED}\p{{Hangul}}])"
_END = rf"(?:$|[^{_INSIDE}]|[{_UNSPACED}\p{{Hangul}}])"
_START_OF_HANGUL = r"(?:^|\P{Hangul})"


class Spellings(NamedTuple):
    """One text as rules read it."""

    cleaned: str
    folded: str
    deobfuscated: str

    @classmethod
    def of(cls, text: str) -> Self:
        """Every spelling of a raw text."""
        line = cleaned(text)
        return cls(line, folded(line), deobfuscated(text))


class TextRule(BaseModel):
    """Matches a text by any keyword (a whole word, in any case) or by the pattern (RE2, in any case)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Keyword = Field(description="Name of the rule, unique among its kind.")
    keywords: tuple[Keyword, ...] = Field((), max_length=1_000, description="Whole words or phrases, in any case.")
    pattern: str | None = Field(
        None, min_length=1, max_length=1_000, description="Regular expression in RE2 syntax, in any case."
    )

    _keywords: Any = PrivateAttr(None)
    _pattern: Any = PrivateAttr(None)

    @model_validator(mode="after")
    def _compile(self) -> Self:
        """Compile once; ValueError (a pydantic error at the rule's place) when RE2 refuses the pattern."""
        if not self.keywords and self.pattern is None:
            raise ValueError(f"rule {self.name!r} needs keywords or a pattern")
        if self.keywords:
            self._keywords = _compile("|".join(_keyword(keyword, self.name) for keyword in self.keywords), self.name)
        if self.pattern is not None:
            self._pattern = _compile(self.pattern, self.name)
        return self

    def matches(self, text: str | Spellings) -> bool:
        """Whether the rule holds for the text."""
        spellings = Spellings.of(text) if isinstance(text, str) else text
        return _any(self._keywords, spellings[1:]) or _any(self._pattern, spellings)


AnyRule = TypeVar("AnyRule", bound=TextRule)


class Rule(TextRule):
    """A text that it matches goes to `route`."""

    route: Route = Field(description="Route of the texts that it matches.")


def need_names(rules: Iterable[TextRule]) -> None:
    """ValueError if two rules share a name."""
    names = [rule.name for rule in rules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two rules go by the name {twice[0]!r}; every rule needs a name of its own")


def first_match(rules: Iterable[AnyRule], texts: Iterable[str]) -> AnyRule | None:
    """The first rule, in the operator's order, that holds for any of the texts."""
    rules = tuple(rules)
    spellings = [Spellings.of(text) for text in texts] if rules else []
    return next((rule for rule in rules if any(rule.matches(each) for each in spellings)), None)


def _any(compiled: Any, texts: Iterable[str]) -> bool:
    return compiled is not None and any(compiled.search(text) is not None for text in dict.fromkeys(texts))


def _keyword(keyword: str, rule: str) -> str:
    """The pattern of a keyword in a folded text."""
    words = folded(cleaned(keyword)).split()
    if not words:
        raise ValueError(f"rule {rule!r}: the keyword {keyword!r} has no visible character")
    pattern = re2.escape(words[0])
    for left, right in itertools.pairwise(words):
        # "§ 75" is also written "§75", and scripts without spaces have none to insist on.
        pattern += (r"\s+" if _spaced(left[-1]) and _spaced(right[0]) else r"\s*") + re2.escape(right)
    if not re2.search(r"[\pL\pN]", pattern):
        return f"(?:{pattern})"
    return f"(?:{_start(words[0][0])}{pattern}{_end(words[-1][-1])})"


def _spaced(character: str) -> bool:
    """Whether the character is a letter or digit of a script that puts spaces between words."""
    return re2.search(rf"[{_INSIDE}]", character) is not None and re2.search(rf"[{_UNSPACED}]", character) is None


def _start(first: str) -> str:
    if re2.search(r"\p{Hangul}", first):
        return _START_OF_HANGUL
    return "" if re2.search(rf"[{_UNSPACED}]", first) else _START


def _end(last: str) -> str:
    return "" if re2.search(rf"[{_UNSPACED}\p{{Hangul}}]", last) else _END


def _compile(pattern: str, name: str) -> Any:
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0]
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(error)
        raise ValueError(f"rule {name!r}: the pattern is not a regular expression of RE2 ({text})") from None
