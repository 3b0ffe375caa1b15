"""Pages that people read: whole, escaped, the same for the same figures."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from reward_model.labels import Pair
from reward_model.report import Report, new_figure
from reward_model.training.evaluation.metrics import figures_by, length_controlled, pair_figures
from reward_model.training.evaluation.report import evaluation_report

VOID = {"meta", "img", "br"}


class Balanced(HTMLParser):
    """Fails on a tag that is closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _page() -> Report:
    report = Report("A <b>bold</b> title")
    report.heading("One")
    report.text("a < b & c")
    report.code("winnow evaluate <FILE>")
    report.warning("look here")
    report.table(["name", "value"], [["<script>", 0.51239], ["none", None], ["count", 3]], "what it holds")
    figure, axes = new_figure(2, 2)
    axes.plot([0, 1], [1, 0])
    report.figure(figure, "a line that falls")
    return report


def _parse(html: str) -> Balanced:
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    return parser


def test_a_page_is_whole_escaped_and_fits_a_phone(tmp_path: Path) -> None:
    _page().write(tmp_path / "deep" / "page.html")
    html = (tmp_path / "deep" / "page.html").read_text()
    parser = _parse(html)
    assert "script" not in parser.seen
    assert parser.seen.count("img") == 1
    assert "&lt;script&gt;" in html
    assert "0.512" in html
    assert "–" in html
    assert 'content="width=device-width' in html
    assert 'alt="a line that falls"' in html
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["page.html"]


def test_the_same_figures_are_the_same_bytes() -> None:
    assert _page().html() == _page().html()


def test_an_evaluation_s_page_has_its_figures() -> None:
    prompt = [{"role": "user", "content": "q"}]
    pairs = [
        Pair.model_validate(
            {
                "id": str(i),
                "group": str(i),
                "prompt": prompt,
                "chosen": "good" * (1 + i % 3),
                "rejected": "evil" * (1 + i % 2),
                "outcome": "tie" if i % 5 == 0 else "win",
                "bucket": "billing" if i % 2 else "fraud",
                "risk": "high",
            }
        )
        for i in range(60)
    ]
    scores = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    result = {
        "orm": "toy@1",
        **pair_figures(pairs, scores),
        "equal_after_truncation": 0,
        "by_risk": figures_by(pairs, scores, lambda pair: pair.risk),
        "by_origin": figures_by(pairs, scores, lambda _: "authored over policy"),
        "by_length": figures_by(pairs, scores, lambda _: "winner_longer"),
        "by_failure_mode": figures_by(pairs, scores, lambda _: "unknown"),
        "length_controlled": length_controlled(pairs, scores),
    }
    html = evaluation_report(result, pairs, scores, "pairs.jsonl").html()
    _parse(html)
    assert f"{result['accuracy']:.3f}" in html
    assert "billing" in html
    assert "authored over policy" in html
    assert "12 ties" in html
