from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from reward_model.checkpoint.checkpoint import load_checkpoint
from reward_model.digests import sha256_of
from reward_model.errors import BadInput, IntegrityError, UnknownModel
from reward_model.labels import Pair, split_of
from reward_model.registry.history import history, rollback
from reward_model.registry.registry import read_aliases
from reward_model.training.evaluation.evaluate import score_pairs
from reward_model.training.release.promote import promote
from reward_model.training.release.publish import publish


@pytest.fixture
def registry(make: Callable[..., Path], tmp_path: Path) -> Path:
    """tiny@1, and tiny@2 that thinks the opposite of everything."""
    folder = tmp_path / "registry"
    publish(make(1), folder)
    contrary = make(2)
    head = load_file(contrary / "head.safetensors")
    save_file({name: -value for name, value in head.items()}, contrary / "head.safetensors")
    manifest = json.loads((contrary / "manifest.json").read_text())
    manifest["files"]["head.safetensors"] = sha256_of(contrary / "head.safetensors")
    (contrary / "manifest.json").write_text(json.dumps(manifest))
    publish(contrary, folder)
    return folder


@pytest.fixture
def pairs(registry: Path) -> list[Pair]:
    """80 billing pairs, each as tiny@1 would have it."""
    rows = [
        {
            "id": str(number),
            "group": str(number),
            "split": "test",
            "bucket": "billing",
            "prompt": [{"role": "user", "content": "My card was charged"}],
            "chosen": f"I refund {number} today.",
            "rejected": f"Call {number * 7}, please, some time",
        }
        for number in range(80)
    ]
    made = [Pair.model_validate(row) for row in rows]
    scores = score_pairs(load_checkpoint(registry / "tiny/1"), made)
    return [
        pair if better > worse else pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen})
        for pair, (better, worse) in zip(made, scores, strict=True)
    ]


def test_the_first_champion_passes_with_a_note_and_its_figures(registry: Path, pairs: list[Pair]) -> None:
    done = promote("tiny@1", registry, pairs, by="ann@desk")
    assert (done["promoted"], done["was"], done["forced"]) == (True, None, None)
    assert "nothing to compare with" in done["gate"]["note"]
    assert done["gate"]["figures"]["by_bucket"]["billing"]["accuracy"] == 1.0
    assert read_aliases(registry) == {"challenger": "tiny@2", "champion": "tiny@1"}
    event = history(registry)[-1]
    assert (event.event, event.orm, event.by) == ("promote", "tiny@1", "ann@desk")
    assert event.gate_sha256 == sha256_of(registry / ".history/000003/gate.json")


def test_a_better_challenger_takes_over_and_the_report_is_kept(registry: Path, pairs: list[Pair]) -> None:
    promote("tiny@2", registry, pairs)
    done = promote("tiny@1", registry, pairs)
    assert (done["promoted"], done["was"]) == (True, "tiny@2")
    assert (done["gate"]["challenger"], done["gate"]["champion"]) == ("tiny@1", "tiny@2")
    billing = done["gate"]["by_bucket"]["billing"]
    assert (billing["challenger"], billing["champion"], billing["verdict"]) == (1.0, 0.0, "held")
    assert json.loads((registry / ".history/000004/gate.json").read_text()) == done["gate"]
    assert rollback(registry, "champion").now == "tiny@2"


def test_a_regression_is_refused_and_kept_and_can_be_forced(registry: Path, pairs: list[Pair]) -> None:
    promote("tiny@1", registry, pairs)
    refused = promote("challenger", registry, pairs)
    assert (refused["promoted"], refused["orm"], refused["forced"]) == (False, "tiny@2", None)
    assert refused["gate"]["reasons"] == ["billing: the challenger is worse, 0.0 against 1.0 on 80 pairs"]
    assert read_aliases(registry)["champion"] == "tiny@1"
    assert history(registry)[-1].event == "refuse"
    with pytest.raises(BadInput, match="needs its reason"):
        promote("challenger", registry, pairs, force="")
    forced = promote("challenger", registry, pairs, force="a drill")
    assert (forced["promoted"], forced["forced"], forced["gate"]["passed"]) == (True, "a drill", False)
    assert history(registry)[-1].reason == "a drill"
    assert read_aliases(registry)["champion"] == "tiny@2"


def test_pairs_that_neither_can_tell_apart_do_not_count(registry: Path, pairs: list[Pair]) -> None:
    long = "refund " * 80
    update = {"chosen": long + "Yes.", "rejected": long + "No.", "group": "equal"}
    equal = [pairs[0].model_copy(update={**update, "id": f"equal {n}"}) for n in range(3)]
    first = promote("tiny@1", registry, [*pairs, *equal])["gate"]
    assert (first["equal_after_truncation"], first["figures"]["pairs"], first["figures"]["accuracy"]) == (3, 80, 1.0)
    second = promote("tiny@2", registry, [*pairs, *equal])["gate"]
    assert (second["equal_after_truncation"], second["pairs"], second["overall"]["challenger"]) == (3, 80, 0.0)
    with pytest.raises(BadInput, match=r"nothing to compare on: 3 of 3 pairs are left out"):
        promote("tiny@2", registry, equal)


def test_training_pairs_do_not_count(registry: Path, pairs: list[Pair]) -> None:
    promote("tiny@1", registry, pairs)
    seen = [pair.model_copy(update={"split": "train"}) for pair in pairs]
    with pytest.raises(BadInput, match="hold none that is held out"):
        promote("tiny@2", registry, seen)
    assert promote("tiny@2", registry, [*pairs[:40], *seen[40:]])["gate"]["pairs"] == 40


def test_pairs_without_a_split_count_only_if_training_holds_their_group_out(registry: Path, pairs: list[Pair]) -> None:
    promote("tiny@1", registry, pairs)
    silent = [pair.model_copy(update={"split": None}) for pair in pairs]
    held_out = [pair for pair in silent if split_of(pair.group) != "train"]
    assert 0 < len(held_out) < 40
    assert promote("tiny@2", registry, silent)["gate"]["pairs"] == len(held_out)
    trained_on = [pair for pair in silent if split_of(pair.group) == "train"]
    with pytest.raises(BadInput, match="that no run has trained on"):
        promote("tiny@2", registry, trained_on)


def test_what_the_champion_is_already_stays(registry: Path, pairs: list[Pair]) -> None:
    promote("tiny@1", registry, pairs)
    done = promote("tiny@1", registry, pairs)
    assert (done["promoted"], done["gate"], done["note"]) == (False, None, "champion points at tiny@1 already")
    assert len(history(registry)) == 3


def test_it_can_be_compared_with_another(registry: Path, pairs: list[Pair]) -> None:
    done = promote("tiny@2", registry, pairs, against="tiny@1")
    assert (done["promoted"], done["gate"]["champion"]) == (False, "tiny@1")


def test_what_is_gone_damaged_or_elsewhere_is_not_promoted(
    registry: Path, pairs: list[Pair], make: Callable[..., Path]
) -> None:
    promote("tiny@1", registry, pairs)
    with pytest.raises(UnknownModel, match="tiny@9"):
        promote("tiny@9", registry, pairs)
    with pytest.raises(UnknownModel, match="publish it there first"):
        promote(str(make(3)), registry, pairs)
    (registry / "tiny/2/calibration.json").write_text("{}")
    with pytest.raises(IntegrityError, match="calibration"):
        promote("tiny@2", registry, pairs)


def test_a_champion_that_is_gone_needs_force(registry: Path, pairs: list[Pair]) -> None:
    promote("tiny@1", registry, pairs)
    shutil.rmtree(registry / "tiny/1")
    with pytest.raises(UnknownModel, match="tiny@1 is gone"):
        promote("tiny@2", registry, pairs)
    done = promote("tiny@2", registry, pairs, force="it is gone")
    assert done["promoted"] is True
    assert "tiny@1 is gone" in done["gate"]["note"]


def test_the_same_weights_with_another_calibrator_pass_on_few_pairs(
    registry: Path, pairs: list[Pair], make: Callable[..., Path]
) -> None:
    publish(make(3), registry)
    promote("tiny@1", registry, pairs)
    done: dict[str, Any] = promote("tiny@3", registry, pairs[:5])
    assert done["promoted"] is True
    assert torch.isfinite(torch.tensor(done["gate"]["by_bucket"]["billing"]["bounds"])).all()
