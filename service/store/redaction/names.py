"""Names of people, found by Presidio (`pip install 'winnow-rerank[names]'`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from service.errors import SetupError

# spaCy refuses longer texts.
_MOST = 100_000
FindNames = Callable[[str], list[tuple[int, int]]]


@cache
def load_names(language: str = "en") -> FindNames:
    """What finds names in a text; its model is loaded once. Raises SetupError if Presidio or its model is missing."""
    try:
        from presidio_analyzer import AnalyzerEngine

        engine = AnalyzerEngine()
    except (ImportError, OSError, SystemExit) as error:
        raise SetupError(
            "store.redact_names needs Presidio and its model: pip install 'winnow-rerank[names]' and "
            "`python -m spacy download en_core_web_lg`, or set store.redact_names=false"
        ) from error

    def find(text: str) -> list[tuple[int, int]]:
        return [
            (start + result.start, start + result.end)
            for start in range(0, len(text), _MOST)
            for result in engine.analyze(text[start : start + _MOST], language=language, entities=["PERSON"])
        ]

    return find
