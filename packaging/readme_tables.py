"""Writes the README's tables of settings from the settings classes; `--check` only says whether they are current."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from reward_model.serving.settings import ScorerSettings
from service.settings import markdown_table, settings_table

README = Path(__file__).parents[1] / "README.md"


def current() -> str:
    """The README as it should be."""
    text = README.read_text()
    tables = {
        "settings": settings_table(),
        "scorer-settings": "\n".join(markdown_table(ScorerSettings, "WINNOW_SCORER_")),
    }
    for name, table in tables.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        text = re.sub(f"{begin}.*?{end}", lambda _, t=table, b=begin, e=end: f"{b}\n{t}\n{e}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    wanted = current()
    if "--check" in sys.argv:
        sys.exit(None if wanted == README.read_text() else "README.md: its tables are old; run `make readme`")
    README.write_text(wanted)
