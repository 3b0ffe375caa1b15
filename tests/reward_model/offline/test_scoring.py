"""Prompts with their completions: each prompt is computed once, and every model gives its plain scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from reward_model.checkpoint.loaded_model import EnsembleModel, LoadedModel
from reward_model.checkpoint.manifest import Ensemble
from reward_model.errors import BadInput
from reward_model.model.reward_model import RewardModel
from reward_model.offline.scoring import Prompt, PromptScorer
from reward_model.serving.settings import ScorerSettings
from reward_model.text.formatting import Completion, Message

QUESTION = [Message(role="user", content="My card was charged twice. Please refund one of them.")]
REPLIES = [Completion(content=text) for text in ("I refund it.", "No.", "Which card, please?")]


def plain(model: LoadedModel, prompt: Prompt) -> list[float]:
    """One whole sequence at a time, by transformers alone."""
    pairs = model.formatter.sequences(prompt.messages, prompt.completions)
    return [model.score([[*begin, *end]], [prompt.locale]).item() for begin, end in pairs]


@contextmanager
def counted(module: Any) -> Iterator[list[int]]:
    """How many tokens each pass of a backbone computes."""
    seen: list[int] = []
    hook = module.register_forward_pre_hook(
        lambda _, args, named: seen.append(named["input_ids"].numel()), with_kwargs=True
    )
    yield seen
    hook.remove()


def test_a_prompt_is_computed_once_for_all_its_completions(model: LoadedModel) -> None:
    module: Any = model.module
    again = [Prompt(QUESTION, REPLIES[:2]), Prompt(QUESTION, [REPLIES[2], REPLIES[0]])]
    expected = [plain(model, prompt) for prompt in again]
    with PromptScorer(model) as scorer, counted(module.backbone) as seen:
        assert scorer.shares_prompts
        found = scorer.scores(again)
    for scores, alone in zip(found, expected, strict=True):
        assert scores == pytest.approx(alone, abs=1e-4)
    form = model.formatter
    # Two rows with one prompt and three different replies.
    assert sum(seen) == len(form.prompt_ids(QUESTION)) + sum(len(form.completion_ids(reply)) for reply in REPLIES)


def test_without_a_cache_whole_sequences_are_computed_once_each(model: LoadedModel) -> None:
    module: Any = model.module
    prompt = Prompt(QUESTION, [*REPLIES, REPLIES[0]])
    expected = plain(model, prompt)
    with PromptScorer(model, ScorerSettings(prefix_cache_mb=0)) as scorer, counted(module.backbone) as seen:
        assert not scorer.shares_prompts
        (found,) = scorer.scores([prompt])
    assert found == pytest.approx(expected, abs=1e-4)
    sequences = model.formatter.sequences(QUESTION, REPLIES)
    assert sum(seen) == 3 * max(len(begin) + len(end) for begin, end in sequences)


@pytest.mark.parametrize("megabytes", [0, 64])
def test_each_locale_has_its_head_in_every_member(model: LoadedModel, megabytes: int) -> None:
    first: Any = model.module
    members: list[RewardModel] = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        member = RewardModel(first.backbone, first.head.in_features, locales=("de",)).eval()
        torch.nn.init.normal_(member.head.weight)
        members.append(member)
    ensemble = EnsembleModel(members, Ensemble(members=["a", "b"], means=[0.1, 0.2], scales=[1.0, 2.0]))
    for module in (members[0], ensemble):
        loaded = replace(model, module=module)
        prompts = [Prompt(QUESTION, REPLIES, locale) for locale in (None, "de", "de-AT", "fr")]
        expected = [plain(loaded, prompt) for prompt in prompts]
        with PromptScorer(loaded, ScorerSettings(prefix_cache_mb=megabytes)) as scorer:
            found = scorer.scores(prompts)
        for scores, alone in zip(found, expected, strict=True):
            assert scores == pytest.approx(alone, abs=1e-4)
        assert found[1] == pytest.approx(found[2], abs=1e-4)
        assert abs(found[0][0] - found[1][0]) > 1e-2


@pytest.mark.parametrize("megabytes", [0, 64])
def test_the_first_prompt_at_fault_is_named(model: LoadedModel, megabytes: int) -> None:
    bad = Completion(tool_calls=[{"function": "refund"}])
    prompts = [
        Prompt(QUESTION, REPLIES, where="line 1"),
        Prompt(QUESTION, [bad], where="line 2"),
        Prompt(QUESTION[:1], [bad], where="line 3"),
    ]
    with (
        PromptScorer(model, ScorerSettings(prefix_cache_mb=megabytes)) as scorer,
        pytest.raises(BadInput, match=r"line 2: a tool call's `function` must be an object"),
    ):
        scorer.scores(prompts)
