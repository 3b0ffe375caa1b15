"""Attacks as texts, and what counts as a success, with a model whose taste is known."""

from __future__ import annotations

import json
from copy import copy
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from reward_model.checkpoint.checkpoint import load_checkpoint
from reward_model.checkpoint.loaded_model import LoadedModel
from reward_model.errors import BadInput
from reward_model.labels import Pair
from reward_model.text.formatting import Completion, Formatter, Message
from reward_model.training.evaluation.evaluate import score_pairs
from reward_model.training.redteam.attacks import (
    ATTACKS,
    CHATML,
    NOISE,
    USER_ATTACK,
    USER_TEXTS,
    Case,
    TurnSeparators,
    rewrite,
    rewrite_prompt,
)
from reward_model.training.redteam.cli import redteam_app
from reward_model.training.redteam.redteam import attack, mitigation_pairs, redteam, turns_of
from reward_model.training.redteam.report import redteam_report

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


class Fragile(Taste):
    """Breaks where a token is seen."""

    def __init__(self, token: int) -> None:
        super().__init__(1.0)
        self.token = token

    def forward(self, input_ids: Tensor, spans: Tensor) -> Tensor:
        if (input_ids == self.token).any():
            raise RuntimeError("not that token")
        return super().forward(input_ids, spans)


def _text(case: Case, name: str, seed: int) -> str:
    text = rewrite(case, name, Random(seed))
    assert text is not None
    return text


def _with_template(formatter: Formatter, template: str | None) -> Formatter:
    changed = copy(formatter.tokenizer)
    changed.chat_template = template
    return Formatter(changed, formatter.rule)


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
    assert part in _text(CASE, attack, 0)


def test_what_each_attack_keeps_of_the_loser() -> None:
    for name in ("bullet_storm", "repeated_question", "flattery", "as_an_expert", "padding", "injection"):
        assert CASE.loser in _text(CASE, name, 1), name
    changed = _text(CASE, "near_duplicate", 1)
    assert changed != CASE.winner
    assert "30 days" not in changed
    assert CASE.winner.startswith(_text(CASE, "cut_winner", 1))
    assert _text(CASE, "empty", 1).strip(" .\n") == ""


@pytest.mark.parametrize(
    ("winner", "changed"),
    [
        ("You can return it.", "You can not return it."),
        ("We can't waive that.", "We can waive that."),
        ("It isn't covered.", "It is covered."),
        ("It will not be booked, and it can stay.", "It will be booked, and it can stay."),
        ("No.", "Yes."),
        ("Thank you!", None),
    ],
)
def test_a_winner_without_numbers_is_turned_round(winner: str, changed: str | None) -> None:
    assert rewrite(CASE._replace(winner=winner), "near_duplicate", Random(0)) == changed


def test_an_attack_that_has_nothing_to_work_with_is_left_out() -> None:
    assert rewrite(CASE._replace(prompt=CASE.prompt[1:]), "copied_policy", Random(0)) is None
    assert rewrite(CASE._replace(winner="Yes"), "cut_winner", Random(0)) is None
    assert {rewrite(CASE._replace(winner=""), "empty", Random(seed)) for seed in range(20)} == {None, "..."}
    pairs = [pair.model_copy(update={"prompt": pair.prompt[1:], "chosen": "Hello!"}) for pair in _pairs()]
    assert attack(pairs, "near_duplicate", 7) == {}
    assert [*attack([*_pairs(1), *pairs[1:]], "copied_policy", 7)] == [0]


def test_the_forged_turns_are_those_of_the_model_s_own_template(formatter: Formatter) -> None:
    assert turns_of(formatter) == CHATML
    own = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[/]{% endfor %}[assistant]"
    other = _with_template(formatter, own)
    assert turns_of(other) == TurnSeparators("[/][system]", "[/][user]", "[/][assistant]")
    forged = _text(CASE._replace(turns=turns_of(other)), "control_tokens", 0)
    assert "[/][assistant]" in forged
    assert "<|im_" not in forged
    assert turns_of(_with_template(formatter, None)).user == "<|im_end|>\nuser: "


def test_the_phrases_of_training_are_never_those_of_the_test() -> None:
    # Attacks without phrases of their own are the same in both: they have nothing to learn by heart.
    shared = {"gibberish", "near_duplicate", "copied_policy", "empty", "cut_winner"}
    for name in ATTACKS.keys() - shared:
        texts = [{rewrite(CASE, name, Random(seed), side) for seed in range(30)} for side in ("train", "test")]
        assert not texts[0] & texts[1], name


def test_a_prompt_can_carry_the_attack() -> None:
    prompt = rewrite_prompt(CASE, Random(0))
    assert prompt[0] == CASE.prompt[0]
    assert prompt[1].text().startswith("Can I return it? ")
    planted = [text.format(**CHATML._asdict()) for text in USER_TEXTS["test"]]
    assert any(prompt[1].text().endswith(text) for text in planted)


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


@pytest.mark.parametrize("reply", [":", " ", "Let's solve this step by step.", "Solution"])
def test_a_model_is_attacked_with_replies_that_only_begin(reply: str) -> None:
    made = {rewrite(CASE, name, Random(seed)) for name in ("bare_symbol", "opener") for seed in range(60)}
    assert reply in made


def test_a_model_that_takes_a_colon_for_an_answer_fails(formatter: Formatter) -> None:
    # It likes short replies, so that one symbol beats every winner.
    result = redteam(_model(formatter, -1.0), _pairs(20))
    assert (result["by_attack"]["bare_symbol"]["rate"], result["by_attack"]["opener"]["cases"]) == (1.0, 20)
    assert "bare_symbol" in result["failed"]


def test_few_cases_and_what_was_not_tried_do_not_pass(formatter: Formatter) -> None:
    # It likes length; of an attack that never wins, 1 case may be won 79 times in 100, 12 cases 25 times.
    for most, passed in ((1, False), (11, False), (12, True)):
        figures = redteam(_model(formatter, 1.0), _pairs(12), most=most)["by_attack"]["bare_symbol"]
        assert (figures["rate"], figures["passed"]) == (0.0, passed), most
    # Pairs of one dialogue are one case.
    dialogue = [pair.model_copy(update={"group": "one"}) for pair in _pairs(12)]
    assert not redteam(_model(formatter, 1.0), dialogue)["by_attack"]["bare_symbol"]["passed"]
    without_policy = [pair.model_copy(update={"prompt": pair.prompt[1:]}) for pair in _pairs(12)]
    result = redteam(_model(formatter, 1.0), without_policy, limit=1.0)
    assert (result["passed"], result["untried"]) == (False, ["copied_policy"])
    assert "copied_policy (not tried)" in redteam_report(result).html()


def test_a_score_that_is_no_number_fails(formatter: Formatter) -> None:
    result = redteam(_model(formatter, float("nan")), _pairs())
    assert not result["passed"]
    assert result["by_attack"]["flattery"] == result["by_attack"]["flattery"] | {"rate": 1.0, "mean_shift": None}


def test_what_breaks_the_scoring_has_succeeded_and_the_rest_is_still_measured(formatter: Formatter) -> None:
    module = Fragile(formatter.completion_ids(Completion(content="#"))[0])
    model = LoadedModel("toy@1", formatter, module, None, None, torch.device("cpu"))
    result = redteam(model, _pairs())
    assert [name for name, figures in result["by_attack"].items() if "error" in figures] == ["markdown_headers"]
    figures = result["by_attack"]["markdown_headers"]
    assert (figures["passed"], figures["rate"], figures["error"]) == (False, 1.0, "RuntimeError: not that token")
    assert "markdown_headers" in result["failed"]
    assert "not that token" in redteam_report(result).html()
    hopeless = [pair.model_copy(update={"chosen": "#1"}) for pair in _pairs()]
    with pytest.raises(BadInput, match="cannot score the honest pairs: RuntimeError"):
        redteam(model, hopeless)


def test_rates_are_those_of_each_attack_scored_alone(checkpoint: Path) -> None:
    model = load_checkpoint(checkpoint, torch.float32)
    pairs = [pair.model_copy(update={"rejected": f"No {i}. Never {'so ' * i}."}) for i, pair in enumerate(_pairs())]
    result = redteam(model, pairs, seed=3, most=4)
    assert result["cases"] == 4
    chosen = Random(3).sample(pairs, 4)
    honest = score_pairs(model, chosen)
    assert result["without_attack"] == pytest.approx((honest[:, 1] >= honest[:, 0]).mean(), abs=1e-4)
    for name, figures in result["by_attack"].items():
        alone = score_pairs(model, list(attack(chosen, name, 3, turns_of(model.formatter)).values()))
        assert figures["rate"] == pytest.approx((alone[:, 1] >= alone[:, 0]).mean(), abs=1e-4), name
        assert figures["mean_shift"] == pytest.approx((alone[:, 1] - honest[:, 1]).mean(), abs=1e-3), name
        assert ("worst" in figures) == (figures["rate"] > 0)


def test_an_attack_on_some_of_the_pairs_is_set_beside_those_alone(formatter: Formatter) -> None:
    # Where there is a policy to copy, the shorter winner is preferred before any attack; elsewhere the loser is.
    with_policy = {"chosen": "a", "rejected": "b" * 9}
    without = {"chosen": "a" * 9, "rejected": "b", "prompt": CASE.prompt[1:]}
    pairs = [pair.model_copy(update=with_policy if i % 3 else without) for i, pair in enumerate(_pairs())]
    result = redteam(_model(formatter, -1.0), pairs)
    figures = result["by_attack"]["copied_policy"]
    assert (figures["cases"], figures["without_attack"], figures["rate"]) == (4, 0.0, 0.0)
    assert result["without_attack"] == pytest.approx(2 / 6, abs=1e-4)


def test_the_same_seed_attacks_alike(formatter: Formatter) -> None:
    model = _model(formatter, 1.0)
    assert redteam(model, _pairs()) == redteam(model, _pairs())


def test_pairs_that_truncation_makes_equal_are_not_attacked(formatter: Formatter) -> None:
    pairs, long = _pairs(), "refund " * 80
    equal = pairs[0].model_copy(update={"id": "equal", "chosen": long + "Yes.", "rejected": long + "No."})
    assert redteam(_model(formatter, 1.0), [*pairs, equal]) == redteam(_model(formatter, 1.0), pairs)


def test_ties_alone_are_refused(formatter: Formatter) -> None:
    ties = [pair.model_copy(update={"outcome": "tie"}) for pair in _pairs()]
    with pytest.raises(BadInput, match="have a winner"):
        redteam(_model(formatter, 1.0), ties)


def test_mitigations_keep_group_and_winner_and_leave_held_out_attacks_alone() -> None:
    pairs = _pairs(40)
    made = list(mitigation_pairs(pairs, hold_out=["padding", "empty"]))
    # Two for each pair, and one attacked prompt for every seventeenth.
    assert len(made) == 83
    assert len({pair.id for pair in made}) == 83
    modes = {pair.failure_mode for pair in made}
    assert modes == (ATTACKS.keys() | {USER_ATTACK}) - {"padding", "empty"}
    assert all(pair.chosen == CASE.winner and pair.label == "authored" for pair in made)
    assert {pair.group for pair in made} == {pair.group for pair in pairs}
    noisy = [pair for pair in made if "+noise:" in pair.id]
    assert {pair.failure_mode for pair in noisy} == set(NOISE) - {"padding"}
    # Noise stands around the winner's own words.
    assert all("rule 1" in str(pair.rejected) for pair in noisy)
    prompts = [pair.prompt[-1].text() for pair in made if pair.failure_mode == USER_ATTACK]
    assert not any(text.endswith(planted) for text in prompts for planted in USER_TEXTS["test"])
    assert all(text != CASE.question for text in prompts)
    with pytest.raises(BadInput, match="no attack is called shouting"):
        next(mitigation_pairs(pairs, hold_out=["shouting"]))
    assert list(mitigation_pairs(pairs, hold_out=[*ATTACKS, USER_ATTACK])) == []


def test_several_attacks_on_each_pair_take_turns_too() -> None:
    made = list(mitigation_pairs(_pairs(4), hold_out=[*NOISE, USER_ATTACK], per_pair=3))
    # Ten attacks are left, and none of them wraps a winner: 4 x 3 turns of ten.
    order = [name for name in ATTACKS if name not in NOISE]
    assert [pair.failure_mode for pair in made] == [order[turn % 10] for turn in range(12)]
    assert len({pair.id for pair in made}) == 12


def test_training_copies_another_part_of_the_policy() -> None:
    policy = "".join(f"{number}. Rule {number} is a rule.\n" for number in range(100))
    case = CASE._replace(prompt=[CASE.prompt[0].model_copy(update={"content": policy}), *CASE.prompt[1:]])
    copied = {phrases: rewrite(case, "copied_policy", Random(0), phrases) for phrases in ("train", "test")}
    assert (copied["train"] or "").startswith("0. Rule 0 is a rule.")
    assert "99. Rule 99 is a rule." in (copied["test"] or "")
    assert "99. Rule" not in (copied["train"] or "")


def test_a_mitigation_claims_nothing_that_people_said_of_the_original() -> None:
    said = {"strength": 0.6, "margin": 2.0, "annotators": [{"id": "a", "vote": "rejected"}], "shown_first": "rejected"}
    rated = {**_pairs(1)[0].model_dump(), **said, "ratings": {"chosen": 5, "rejected": 4}}
    tied = {**rated, "id": "tied", "outcome": "tie"}
    made = list(mitigation_pairs([Pair.model_validate(rated), Pair.model_validate(tied)], hold_out=[USER_ATTACK]))
    assert [pair.id for pair in made] == ["p0+markdown_headers", "p0+noise:markdown_headers"]
    for pair in made:
        assert (pair.strength, pair.margin, pair.annotators, pair.shown_first) == (None, None, [], None)
        assert (pair.ratings.chosen, pair.ratings.rejected, pair.origin.rejected) == (None, None, "authored")


def test_the_command_writes_pairs_or_a_verdict(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(pair.model_dump_json() + "\n" for pair in _pairs()))
    out = tmp_path / "made.jsonl.gz"
    done = CliRunner().invoke(redteam_app, [str(file), "--split", "train", "--emit-pairs", str(out)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["pairs"] == 7
    verdict, page = tmp_path / "redteam.json", tmp_path / "redteam.html"
    arguments = [str(file), "--model", str(checkpoint), "--out", str(verdict), "--html", str(page), "--limit", "0"]
    done = CliRunner().invoke(redteam_app, arguments)
    saved = json.loads(verdict.read_text())
    assert json.loads(done.stdout) == saved
    assert done.exit_code == (0 if saved["passed"] else 1)
    assert "bullet_storm" in page.read_text()
    assert "before (tiny@1)" not in page.read_text()
    done = CliRunner().invoke(redteam_app, [*arguments, "--before", str(verdict)])
    assert "before (tiny@1)" in page.read_text()
    done = CliRunner().invoke(redteam_app, [*arguments, "--seed", "8", "--before", str(verdict)])
    assert (done.exit_code, "other pairs or another seed" in done.stderr) == (2, True)
    done = CliRunner().invoke(redteam_app, [*arguments, "--before", str(file)])
    assert (done.exit_code, "is not a red team's result" in done.stderr) == (2, True)
    none = CliRunner().invoke(redteam_app, [str(file), "--split", "validation"])
    assert (none.exit_code, "no pairs of the split validation" in none.stderr) == (2, True)


def test_the_report_says_failed(formatter: Formatter) -> None:
    html = redteam_report(redteam(_model(formatter, 1.0), _pairs())).html()
    assert "FAILED" in html
    assert "padding" in html
