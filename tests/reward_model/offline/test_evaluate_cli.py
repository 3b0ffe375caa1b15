"""`winnow evaluate` on a model of others: each prompt once, as long as the model or the scorer's setting allows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from reward_model.calibration import Curve
from reward_model.checkpoint.loaded_model import LoadedModel
from reward_model.checkpoint.sequence_classifier import load_sequence_classifier
from reward_model.labels import LabelledReply, Pair
from reward_model.offline.evaluate_cli import evaluate_app
from reward_model.offline.scoring import Prompt, PromptScorer
from reward_model.training.evaluation.evaluate import rate_correlation, report_on, score_pairs
from tests.reward_model.chat_families import FAMILIES, make_tokenizer

Writer = Callable[[str, list[dict[str, Any]]], Path]


def row(number: int, **more: Any) -> dict[str, Any]:
    prompt = [{"role": "user", "content": f"My card {number // 2} was charged"}]
    return {"id": str(number), "group": str(number // 2), "prompt": prompt, "chosen": "I refund it.", **more}


PAIRS = [row(0, rejected="No."), row(1, rejected="Call us."), row(2, rejected="ok"), row(3, rejected="No.")]


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A random causal classifier of 8,192 positions."""
    import transformers as hf

    folder = tmp_path / "other"
    tokenizer = make_tokenizer(FAMILIES["qwen"], FAMILIES["qwen"].eos)
    torch.manual_seed(3)
    shape: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_labels": 1}
    shape |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 8192}
    config = hf.LlamaConfig(intermediate_size=64, initializer_range=0.2, **shape)
    hf.LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(*arguments: object) -> dict[str, Any]:
    done = CliRunner().invoke(evaluate_app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_a_prompt_is_computed_once_for_the_replies_of_all_its_pairs(classifier: Path) -> None:
    loaded = load_sequence_classifier(str(classifier), torch.float32)
    pairs = [Pair.model_validate(each) for each in PAIRS]
    rated = [
        LabelledReply.model_validate(
            row(number) | {"completion": f"reply {number}", "acceptable": False, "rating": 1 + number % 5}
        )
        for number in range(8)
    ]
    plain, correlation = score_pairs(loaded, pairs), rate_correlation(loaded, rated)
    with PromptScorer(loaded) as scorer:
        assert scorer.shares_prompts
        asked: list[int] = []

        def score(prompts: Any) -> list[list[float]]:
            asked.append(len(prompts))
            return scorer.scores([Prompt(*prompt) for prompt in prompts])

        assert score_pairs(loaded, pairs, score) == pytest.approx(plain, abs=1e-4)
        assert rate_correlation(loaded, rated, score) == pytest.approx(correlation, abs=1e-3)
    assert asked == [4, 8]


def test_length_is_the_scorers_setting_or_the_option(
    classifier: Path, jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replies that differ behind 5,000 tokens: equal at 4,096, and at what the variable says, not at the model's."""
    long = "refund " * 4500
    path = jsonl("pairs.jsonl", [row(0, chosen=long + "Yes.", rejected=long + "No.")])
    assert run(path, "--model", classifier)["equal_after_truncation"] == 1
    assert run(path, "--model", classifier, "--max-sequence-tokens", 1_000_000)["equal_after_truncation"] == 0
    monkeypatch.setenv("WINNOW_SCORER_MAX_SEQUENCE_TOKENS", "8192")
    assert run(path, "--model", classifier)["equal_after_truncation"] == 0
    assert run(path, "--model", classifier, "--max-sequence-tokens", 4096)["equal_after_truncation"] == 1
    monkeypatch.setenv("WINNOW_SCORER_MAX_SEQUENCE_TOKENS", "4")
    done = CliRunner().invoke(evaluate_app, [str(path), "--model", str(classifier)])
    assert (done.exit_code, "winnow: max_sequence_tokens: " in done.stderr) == (2, True)


def test_the_calibrator_is_that_of_the_pairs_routes(model: LoadedModel) -> None:
    assert model.calibration is not None
    own = Curve(method="platt", slope=1.0, intercept=0.0, labels=50, positives=5, ece=0.25, brier=0.5)
    calibration = model.calibration.model_copy(update={"by_route": {"billing": own}, "ece": 0.125})
    model = replace(model, calibration=calibration)
    unsaid = [Pair.model_validate(each) for each in PAIRS]
    refunds = [pair.model_copy(update={"bucket": "refund"}) for pair in unsaid]
    scores = score_pairs(model, unsaid)
    shared = {"event": "acceptable", "ece": 0.125, "brier": None}
    assert report_on(model, unsaid, scores)["calibration"] == shared
    with_own = shared | {"by_route": {"billing": {"ece": 0.25, "brier": 0.5}}}
    assert report_on(model, refunds, scores)["calibration"] == with_own
    assert report_on(model, unsaid, scores, route="billing")["calibration"] == with_own
    assert report_on(model, refunds, scores, route="fraud")["calibration"] == with_own


def test_a_locale_is_the_pairs_own_or_the_options(checkpoint: Path, jsonl: Writer) -> None:
    from reward_model.offline.evaluate_cli import _in_locale

    unsaid, own = Pair.model_validate(PAIRS[0]), Pair.model_validate(PAIRS[0] | {"lang": "de"})
    assert [_in_locale(pair, "fr").locale for pair in (unsaid, own)] == ["fr", "de"]
    assert [_in_locale(pair, None).locale for pair in (unsaid, own)] == ["en", "de"]
    path = jsonl("pairs.jsonl", PAIRS)
    assert run(path, "--model", checkpoint, "--locale", "de")["pairs"] == 4
