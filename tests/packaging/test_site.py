"""The documentation site builds without a warning, and reads from disk without the network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
# Tags that make a browser fetch something, and the attribute that says what.
FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """What a page fetches, where its links lead, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors.update(value for name in ("id", "name") if (value := values.get(name)))
        if tag in FETCHED and (value := values.get(FETCHED[tag])):
            self.fetched.append(value)
        if tag == "a" and (value := values.get("href")):
            self.links.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a warning fails."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Every page of ours; the plots' pages under reports/ are whole by themselves."""
    paths = [path for path in site.rglob("*.html") if "reports" not in path.parts and path.name != "404.html"]
    return {path: Page(path) for path in paths}


def test_every_document_is_a_page(site: Path, pages: dict[Path, Page]) -> None:
    documents = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert documents == {path.relative_to(site) for path in pages}


def test_nothing_is_fetched_from_elsewhere(pages: dict[Path, Page]) -> None:
    away = [(path.name, url) for path, page in pages.items() for url in page.fetched if urlsplit(url).netloc]
    assert not away
    missing = [
        (path.name, url)
        for path, page in pages.items()
        for url in page.fetched
        if not (path.parent / unquote(urlsplit(url).path)).is_file()
    ]
    assert not missing


def test_styles_fetch_nothing_from_elsewhere(site: Path) -> None:
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"url\(\s*[\"']?(?:https?:)?//|@import", sheet.read_text()), sheet


def test_every_link_and_anchor_leads_somewhere(pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages.get(target)
            if not target.exists() or (parts.fragment and known and unquote(parts.fragment) not in known.anchors):
                broken.append((path.name, link))
    assert not broken


def test_the_menu_has_every_page(site: Path, pages: dict[Path, Page]) -> None:
    home = site / "index.html"
    linked = {(home.parent / unquote(urlsplit(link).path)).resolve() for link in pages[home].links}
    assert set(pages) - linked == set()
