"""Spellings worked out by hand: invisible characters, width, case, homoglyphs, spaced letters, digits for letters."""

from __future__ import annotations

import pytest

from routing.text.spelling import cleaned, deobfuscated, folded, unaccented


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x00b\tc \n", "a b c"),
        ("ch\u200barged tw\u00adice\ufeff", "charged twice"),
        ("\u202ereverse\u202c", "reverse"),
        ("call\u00a0me\u2003now", "call me now"),
        ("\ud800 lone", "? lone"),
        ("☎\ufe0f", "☎"),
        ("\u200b\u200d", ""),
    ],
)
def test_cleaned(text: str, expected: str) -> None:
    assert cleaned(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ＣＨＡＲＧＥＤ　１２", "charged 12"),
        ("Straße", "strasse"),
        ("I’ve “paid” — twice‑over", 'i\'ve "paid" - twice-over'),
        ("ﾍﾝｷﾝ", "ヘンキン"),
        ("u\u0308ber", "über"),
        ("𝒄𝒉𝒂𝒓𝒈𝒆", "charge"),
    ],
)
def test_folded(text: str, expected: str) -> None:
    assert folded(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Cyrillic а, е, о, с among Latin letters, a word of homoglyphs only, Greek omicron, Cyrillic capitals folded.
        ("сhаrgеd twiсe", "charged twice"),
        ("сосоа", "cocoa"),
        ("stοlen", "stolen"),
        (folded("СНАRGЕD"), "charged"),
        # Words of other scripts stay.
        ("верните деньги", "верните деньги"),
        ("χρέωση", "χρέωση"),
        ("退款", "退款"),
        ("s t o l e n card", "stolen card"),
        ("f.r.a.u.d and c-h-a-r-g-e", "fraud and charge"),
        # Short runs, lists and abbreviations stay.
        ("plan a b or c", "plan a b or c"),
        ("e.g. the u.s.", "e.g. the u.s."),
        ("ch4rged tw1ce, bi11ed my acc0unt, re$tore ch@rge", "charged twice, billed my account, restore charge"),
        ("4471 at 5pm, 2nd mp3", "4471 at 5pm, 2nd mp3"),
        ("c\u0336h\u0336a\u0336rge", "charge"),
    ],
)
def test_deobfuscated(text: str, expected: str) -> None:
    assert deobfuscated(text) == expected


def test_unaccented_keeps_other_scripts_whole() -> None:
    assert unaccented("chárgéd twíce") == "charged twice"
    assert unaccented("ガス") == "ガス"
    assert unaccented("환불") == "환불"
