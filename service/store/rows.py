"""A reranked request as rows of the store, and what is taken out of them before they are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.store.redaction import redact

Row = dict[str, Any]


@dataclass
class Record:
    """Rows of `responses`, `candidates` and perhaps `reviews`. `redacted` is called before they are written, off the
    event loop."""

    response: Row
    candidates: list[Row]
    review: Row | None = None

    def redacted(self) -> Record:
        """Without what names a person, a card, an account or a key; what was taken out is said."""
        found: set[str] = set()

        def clean(value: Any) -> Any:
            if isinstance(value, str):
                # Neither store keeps what is no Unicode text, and Postgres no zero byte.
                text, kinds = redact(value.encode("utf-8", "replace").decode().replace("\x00", "\ufffd"))
                found.update(kinds)
                return text
            if isinstance(value, list):
                return [clean(item) for item in value]
            if isinstance(value, dict):
                return {key: clean(item) for key, item in value.items()}
            return value

        prompt = clean(self.response["prompt"])
        texts = [{name: clean(row[name]) for name in ("content", "tool_calls")} for row in self.candidates]
        rows = [row | text for row, text in zip(self.candidates, texts, strict=True)]
        return Record(self.response | {"prompt": prompt, "redacted": sorted(found)}, rows, self.review)
