from __future__ import annotations

from pathlib import Path

import pytest

from reward_model.errors import CheckpointError, UnknownModel
from reward_model.registry.registry import checkpoints, identify, read_aliases, resolve


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    for identity in ("billing/1", "billing/9", "billing/10", "fraud/2026.1"):
        (tmp_path / identity).mkdir(parents=True)
        (tmp_path / identity / "manifest.json").write_text("{}")
    (tmp_path / "unfinished/1").mkdir(parents=True)
    return tmp_path


def test_names_versions_aliases_and_folders(registry: Path) -> None:
    assert resolve("billing@9", registry) == registry / "billing/9"
    assert resolve("billing", registry) == registry / "billing/10"
    assert resolve("fraud", registry) == registry / "fraud/2026.1"
    assert resolve(str(registry / "billing/1")) == registry / "billing/1"
    (registry / "aliases.json").write_text('{"champion": "billing@1", "challenger": "fraud@2026.1"}')
    assert resolve("champion", registry) == registry / "billing/1"
    assert resolve("challenger", registry) == registry / "fraud/2026.1"


def test_the_bundled_model_is_the_champion_where_nobody_says_otherwise(registry: Path) -> None:
    assert resolve("champion") == resolve("winnow-orm") == resolve("winnow-orm@3", registry)
    assert {"winnow-orm@3", "billing@10"} <= checkpoints(registry).keys()
    assert "unfinished@1" not in checkpoints(registry)


def test_an_unknown_name_lists_the_known_ones(registry: Path) -> None:
    for name in ("nothing", "billing@2", str(registry)):
        with pytest.raises(UnknownModel, match=r"billing@1, billing@10, billing@9, fraud@2026\.1"):
            resolve(name, registry)


@pytest.mark.parametrize("text", ["{", "[]", '{"champion": 3}'])
def test_a_broken_alias_file_is_named(registry: Path, text: str) -> None:
    (registry / "aliases.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"aliases\.json"):
        resolve("champion", registry)


def test_a_registry_that_is_no_folder_and_an_alias_to_nothing_are_named(registry: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        resolve("champion", registry / "typo")
    (registry / "aliases.json").write_text('{"champion": "billing@77"}')
    with pytest.raises(UnknownModel, match="'champion', which stands for billing@77"):
        resolve("champion", registry)


def test_a_name_or_an_alias_is_identified_and_a_folder_elsewhere_is_not(registry: Path, tmp_path: Path) -> None:
    (registry / "aliases.json").write_text('{"challenger": "billing@9"}')
    names = ("billing", "billing@1", "challenger", "champion", str(registry / "fraud/2026.1"))
    assert [identify(name, registry) for name in names] == [
        "billing@10",
        "billing@1",
        "billing@9",
        identify("winnow-orm", None),
        "fraud@2026.1",
    ]
    with pytest.raises(UnknownModel, match="publish it there first"):
        identify(str(registry / "billing/1"), None)
    assert read_aliases(registry) == {"challenger": "billing@9"}
    assert read_aliases(None) == read_aliases(registry / "billing") == {}


def test_what_is_still_being_written_is_no_checkpoint(registry: Path) -> None:
    before = checkpoints(registry)
    unfinished = registry / ".incoming/tmp1/checkpoint"
    unfinished.mkdir(parents=True)
    (unfinished / "manifest.json").write_text("{}")
    assert checkpoints(registry) == before
