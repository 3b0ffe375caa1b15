"""A whole training run, tiny: from a data folder to a folder that loads and routes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from routing.cli import route_train_app
from routing.model.manifest import read_manifest
from routing.router import Router

BILLING = "{} charged me a fee twice on invoice {}"
FRAUD = "a thief has stolen my card from {} at {}"
CALM = "tell {} a story of dragon number {}"


@pytest.fixture
def data(write_jsonl: Callable[[str, list[object]], Path]) -> Path:
    names, words = ("they", "you", "ann", "tom", "eve", "sam"), ("north", "south", "east", "west", "red", "blue")
    rows: list[object] = [
        {"text": pattern.format(name, word), "route": route}
        for route, pattern in (("billing", BILLING), ("fraud", FRAUD), ("other", CALM))
        for name in names
        for word in words
    ]
    return write_jsonl("data/tiny_all.jsonl", rows).parent


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_from_data_to_a_router(data: Path, tiny_bert: Path, tmp_path: Path) -> None:
    out = tmp_path / "router"
    options = [str(data), "--encoder", str(tiny_bert), "--out", str(out), "--epochs", "1"]
    result = CliRunner().invoke(route_train_app, options)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report == json.loads((out / "manifest.json").read_text())
    assert report["calibration"]["labels"] > report["calibration"]["positives"] > 0
    router = Router.load(out)
    assert router.manifest == read_manifest(out)
    high = router.route(BILLING.format("tom", "green")).probability
    assert high > router.route(CALM.format("tom", "green")).probability


def test_missing_parts_are_said(data: Path, tiny_bert: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    empty = tmp_path / "empty"
    empty.mkdir()
    no_data = [str(empty), "--encoder", str(tiny_bert), "--out", str(tmp_path / "o")]
    result = runner.invoke(route_train_app, no_data)
    assert (result.exit_code, "to train on" in result.stderr) == (2, True)
    no_encoder = [str(data), "--encoder", str(empty), "--out", str(tmp_path / "o")]
    result = runner.invoke(route_train_app, no_encoder)
    assert (result.exit_code, "no vocab.txt" in result.stderr) == (2, True)
    neither = [str(data), "--encoder", str(tiny_bert)]
    assert runner.invoke(route_train_app, neither).exit_code == 2


RETURNS = "parcel {} came back from {} and I want to send it again"
TECH = "the {} light of my modem blinks since {}"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_other_classes_without_an_encoder(write_jsonl: Callable[[str, list[object]], Path], tmp_path: Path) -> None:
    names, places = [f"n{chr(97 + number)}{number}x" for number in range(26)], ("north", "south", "east", "west")
    rows: list[object] = [
        {"text": pattern.format(name, place), "route": route}
        for route, pattern in (("returns-eu", RETURNS), ("tech_help", TECH), ("default", CALM), ("ambiguous", FRAUD))
        for name in names
        for place in places
    ]
    folder = write_jsonl("data/shop_all.jsonl", rows).parent
    out = tmp_path / "router"
    result = CliRunner().invoke(route_train_app, [str(folder), "--out", str(out)])
    assert result.exit_code == 0, result.output
    manifest = read_manifest(out)
    assert manifest.classes == ("default", "returns-eu", "tech_help")
    assert set(manifest.files) == {"ngrams.npz"}
    router = Router.load(out)
    assert router.routes == {"default", "returns-eu", "tech_help"}
    assert router.route(RETURNS.format("nz9x", "Rome")).route == "returns-eu"
    assert router.route(TECH.format("red", "Monday")).route == "tech_help"
    assert router.route(CALM.format("tom", "green")).route == "default"
    # Without an encoder nothing waits for one.
    assert router.quick(TECH.format("red", "Monday")) == router.route(TECH.format("red", "Monday"))
    measured = CliRunner().invoke(route_train_app, [str(folder), "--evaluate", str(out)])
    assert json.loads(measured.stdout)["told_apart"] == manifest.figures["told_apart"]


def test_one_route_alone_cannot_be_told_from_anything(
    write_jsonl: Callable[[str, list[object]], Path], tmp_path: Path
) -> None:
    folder = write_jsonl("data/few.jsonl", [{"text": "parcel", "route": "returns"}]).parent
    result = CliRunner().invoke(route_train_app, [str(folder), "--out", str(tmp_path / "o")])
    assert (result.exit_code, "too few texts of" in result.stderr) == (2, True)
