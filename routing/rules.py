"""Operators' rules: keywords and regular expressions that decide a route before the classifier's opinion.

Patterns are RE2 syntax and run in time linear in the text: no pattern an operator can write, and no text a
client can send, backtracks. What RE2 lacks (look-around, back-references) is refused when settings are read,
with the pattern's own error. Rules read the same cleaned, bounded pieces of text that the classifier reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import re2
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints, model_validator

Route = Literal["billing", "fraud", "default"]
HIGH_STAKES: tuple[Route, ...] = ("billing", "fraud")

Keyword = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class TextRule(BaseModel):
    """What matches a text: any keyword (whole words, any case) or the pattern (RE2, any case)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Keyword
    keywords: tuple[Keyword, ...] = Field((), max_length=1_000)
    pattern: str | None = Field(None, min_length=1, max_length=1_000)

    _compiled: Any = PrivateAttr()

    @model_validator(mode="after")
    def _compile(self) -> Self:
        """Compile once; ValueError (a pydantic error at the rule's place) when RE2 refuses the pattern."""
        parts = [rf"(?:^|[^\pL\pN])(?:{_words(keyword)})(?:$|[^\pL\pN])" for keyword in self.keywords]
        if self.pattern is not None:
            parts.append(f"(?:{self.pattern})")
            _compile(self.pattern, self.name)
        if not parts:
            raise ValueError(f"rule {self.name!r} needs keywords or a pattern")
        self._compiled = _compile("|".join(parts), self.name)
        return self

    def matches(self, text: str) -> bool:
        """Whether the rule holds for one piece of cleaned text (valid Unicode, no control characters)."""
        return self._compiled.search(text) is not None


AnyRule = TypeVar("AnyRule", bound=TextRule)


class Rule(TextRule):
    """A text that it matches goes to `route`."""

    route: Route


class Thresholds(BaseModel):
    """Probability of high stakes from which each route is taken; None: the one chosen in training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    billing: float | None = Field(None, ge=0.0, le=1.0)
    fraud: float | None = Field(None, ge=0.0, le=1.0)


class RouterSettings(BaseModel):
    """The `[router]` table of winnow.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path | None = Field(None, description="Folder of a trained router; none: the bundled one.")
    thresholds: Thresholds = Field(Thresholds(), description="Probability of high stakes, by route.")
    rules: tuple[Rule, ...] = Field((), description="Keywords and patterns, first match decides.")

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        need_names(self.rules)
        return self


def need_names(rules: Iterable[TextRule]) -> None:
    """ValueError where two rules go by one name."""
    names = [rule.name for rule in rules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two rules go by the name {twice[0]!r}; every rule needs a name of its own")


def first_match(rules: Iterable[AnyRule], texts: Iterable[str]) -> AnyRule | None:
    """The first rule, in the operator's order, that holds for any of the texts."""
    texts = list(texts)
    return next((rule for rule in rules if any(rule.matches(text) for text in texts)), None)


def _words(keyword: str) -> str:
    """The keyword with any white space between its words."""
    return r"\s+".join(re2.escape(word) for word in keyword.split())


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
