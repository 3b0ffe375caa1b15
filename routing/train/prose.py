"""`python -m routing.train.prose PAIRS.jsonl.gz OUT.jsonl.gz`: long prompts and replies of preference pairs as prose.

Rows for a training folder: `{"text", "route": "default", "group"}` of every text that is read in windows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from routing.jsonl import open_text, read_jsonl
from routing.model.classifier import SHORT


def rows(pairs: str) -> Iterator[dict[str, str]]:
    """Each long text once, with the group of its pair."""
    seen = set()
    for _, pair in read_jsonl(pairs):
        for text in (*(turn["content"] for turn in pair["prompt"]), pair["chosen"], pair["rejected"]):
            if len(text) > SHORT and text not in seen:
                seen.add(text)
                yield {"text": text, "route": "default", "group": str(pair["group"])}


def main(pairs: str, out: str) -> None:
    """Write the rows of one file of pairs."""
    with open_text(out, "w") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(pairs))


if __name__ == "__main__":
    main(*sys.argv[1:])
