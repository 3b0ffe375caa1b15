"""Text in HTTP headers, which hold printable ASCII characters."""

from __future__ import annotations

from urllib.parse import quote

_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))


def header_value(text: str) -> str:
    """`text` if a header can hold it, else with every other character percent-encoded (UTF-8)."""
    plain = text.isascii() and text.isprintable() and text == text.strip()
    return text if plain else quote(text.strip(), safe=_PRINTABLE.replace("%", ""), errors="replace")
