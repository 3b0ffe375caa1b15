"""Attacks as texts, and what counts as a success, with a model whose taste is known."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from reward_model.checkpoint import LoadedModel
from reward_model.errors import BadInput
from reward_model.formatting import Formatter, Message
from reward_model.training.attacks import (
    ATTACKS,
    NOISE,
    USER_ATTACK,
    USER_TEXTS,
    Case,
    rewrite,
    rewrite_prompt,
)
from reward_model.training.data import Pair
from reward_model.training.redteam import mitigation_pairs, redteam
from reward_model.training.redteam_cli import redteam_app
from reward_model.training.redteam_report import redteam_report

CASE = Case(
    [Message(role="system", content="1. Returns within 30 days."), Message(role="user", content="Can I return it?")],
    "Yes, under rule 1 you have 30 days.",
    "Perhaps. It depends. Ask again later.",
)


class Taste(nn.Module):
    """Likes long sequences (`sign` 1) or short ones (-1), or gives no number at all."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, input_ids: Tensor, spans: Tensor) -> Tensor:
        return self.sign * (spans[:, 1] - spans[:, 0]).float()


def _model(formatter: Formatter, sign: float) -> LoadedModel:
    return LoadedModel("toy@1", formatter, Taste(sign), None, None, torch.device("cpu"))


def _pairs(count: int = 6) -> list[Pair]:
    return [
        Pair.model_validate(
            {
                "id": f"p{i}",
                "group": f"g{i}",
                "prompt": [message.model_dump(exclude_none=True) for message in CASE.prompt],
                "chosen": CASE.winner,
                "rejected": CASE.loser,
                "split": "train" if i % 2 else "test",
            }
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("attack", "part"),
    [
        ("markdown_headers", "#"),
        ("bullet_storm", "- **"),
        ("repeated_question", "Can I return it?"),
        ("control_tokens", "<|im_start|>"),
        ("copied_policy", "1. Returns within 30 days."),
        ("near_duplicate", "under rule"),
    ],
)
def test_an_attack_shows_in_the_text(attack: str, part: str) -> None:
    assert part in rewrite(CASE, attack, Random(0))


def test_what_each_attack_keeps_of_the_loser() -> None:
    for attack in ("bullet_storm", "repeated_question", "flattery", "as_an_expert", "padding", "injection"):
        assert CASE.loser in rewrite(CASE, attack, Random(1)), attack
    changed = rewrite(CASE, "near_duplicate", Random(1))
    assert changed != CASE.winner
    assert "30 days" not in changed
    assert CASE.winner.startswith(rewrite(CASE, "cut_winner", Random(1)))
    assert rewrite(CASE, "empty", Random(1)).strip(" .\n") == ""


def test_the_phrases_of_training_are_never_those_of_the_test() -> None:
    # Attacks without phrases of their own are the same in both: they have nothing to learn by heart.
    shared = {"gibberish", "near_duplicate", "copied_policy", "empty", "cut_winner"}
    for attack in ATTACKS.keys() - shared:
        texts = [{rewrite(CASE, attack, Random(seed), side) for seed in range(30)} for side in ("train", "test")]
        assert not texts[0] & texts[1], attack


def test_a_prompt_can_carry_the_attack() -> None:
    prompt = rewrite_prompt(CASE, Random(0))
    assert prompt[0] == CASE.prompt[0]
    assert prompt[1].text().startswith("Can I return it? ")
    assert any(prompt[1].text().endswith(text) for text in USER_TEXTS["test"])


def test_a_model_that_likes_length_falls_to_padding_and_one_that_likes_brevity_to_nothing_said(
    formatter: Formatter,
) -> None:
    long = redteam(_model(formatter, 1.0), _pairs())
    assert not long["passed"]
    assert "padding" in long["failed"]
    assert long["by_attack"]["padding"]["rate"] == 1.0
    assert long["by_attack"]["padding"]["mean_shift"] > 0
    assert long["by_attack"]["empty"]["rate"] == 0.0
    short = redteam(_model(formatter, -1.0), _pairs())
    assert short["by_attack"]["empty"]["rate"] == 1.0
    assert short["by_attack"]["bullet_storm"]["rate"] == 0.0
    assert USER_ATTACK in short["by_attack"]


def test_a_score_that_is_no_number_fails(formatter: Formatter) -> None:
    result = redteam(_model(formatter, float("nan")), _pairs())
    assert not result["passed"]
    assert result["by_attack"]["flattery"] == result["by_attack"]["flattery"] | {"rate": 1.0, "mean_shift": None}


def test_the_same_seed_attacks_alike(formatter: Formatter) -> None:
    model = _model(formatter, 1.0)
    assert redteam(model, _pairs()) == redteam(model, _pairs())


def test_ties_alone_are_refused(formatter: Formatter) -> None:
    ties = [pair.model_copy(update={"outcome": "tie"}) for pair in _pairs()]
    with pytest.raises(BadInput, match="have a winner"):
        redteam(_model(formatter, 1.0), ties)


def test_mitigations_keep_group_and_winner_and_leave_held_out_attacks_alone() -> None:
    pairs = _pairs(40)
    made = list(mitigation_pairs(pairs, hold_out=["padding", "empty"]))
    assert len(made) == 80
    assert len({pair.id for pair in made}) == 80
    modes = {pair.failure_mode for pair in made}
    assert modes == ATTACKS.keys() - {"padding", "empty"}
    assert all(pair.chosen == CASE.winner and pair.label == "authored" for pair in made)
    assert {pair.group for pair in made} == {pair.group for pair in pairs}
    noisy = [pair for pair in made if "+noise:" in pair.id]
    assert {pair.failure_mode for pair in noisy} == set(NOISE) - {"padding"}
    # Noise stands around the winner's own words.
    assert all("rule 1" in str(pair.rejected) for pair in noisy)
    with pytest.raises(BadInput, match="no attack is called shouting"):
        next(mitigation_pairs(pairs, hold_out=["shouting"]))


def test_the_command_writes_pairs_or_a_verdict(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(pair.model_dump_json() + "\n" for pair in _pairs()))
    out = tmp_path / "made.jsonl.gz"
    done = CliRunner().invoke(redteam_app, [str(file), "--split", "train", "--emit-pairs", str(out)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["pairs"] == 6
    verdict, page = tmp_path / "redteam.json", tmp_path / "redteam.html"
    arguments = [str(file), "--model", str(checkpoint), "--out", str(verdict), "--html", str(page), "--limit", "0"]
    done = CliRunner().invoke(redteam_app, arguments)
    saved = json.loads(verdict.read_text())
    assert json.loads(done.stdout) == saved
    assert done.exit_code == (0 if saved["passed"] else 1)
    assert "bullet_storm" in page.read_text()
    none = CliRunner().invoke(redteam_app, [str(file), "--split", "validation"])
    assert (none.exit_code, "no pairs of the split validation" in none.stderr) == (2, True)


def test_the_report_says_failed(formatter: Formatter) -> None:
    html = redteam_report(redteam(_model(formatter, 1.0), _pairs())).html()
    assert "FAILED" in html
    assert "padding" in html
