"""How prompt and reply share a model's room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from reward_model.text.formatting import FormattingRule
from reward_model.text.pair_formatting import PairFormatter

RULE = FormattingRule(max_prompt_tokens=340, max_completion_tokens=170)
CLS, SEP, FIRST = 1, 2, 10


@pytest.fixture
def tokenizer(base: Path) -> Any:
    found = AutoTokenizer.from_pretrained(base)
    found.chat_template = None
    found.cls_token, found.sep_token = "<|im_start|>", "<|im_end|>"
    return found


def prompt(length: int) -> list[int]:
    """[CLS] and numbered tokens and [SEP]."""
    return [CLS, *range(FIRST, FIRST + length - 2), SEP]


def reply(length: int) -> list[int]:
    """Numbered tokens and [SEP]."""
    return [*range(FIRST, FIRST + length - 1), SEP]


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [
        ((10, 500), (10, 500)),  # both fit: 510
        ((10, 501), (10, 500)),
        ((10, 2000), (10, 500)),
        ((490, 20), (490, 20)),  # a long prompt with a short reply fits too
        ((2000, 20), (490, 20)),
        ((400, 150), (360, 150)),  # more than two thirds for the prompt, because the reply leaves it
        ((340, 171), (340, 170)),
        ((2000, 2000), (340, 170)),  # two thirds and one third
        ((200, 2000), (200, 310)),
    ],
)
def test_only_what_does_not_fit_together_is_cut(
    tokenizer: Any, lengths: tuple[int, int], kept: tuple[int, int]
) -> None:
    formatter = PairFormatter(tokenizer, RULE, joint=True)
    whole, said = prompt(lengths[0]), reply(lengths[1])
    cut_prompt, cut_reply = formatter.cut(whole, said)
    assert cut_prompt == [CLS, *whole[len(whole) - kept[0] + 1 :]], "the end of the prompt, behind [CLS]"
    assert cut_reply == [*said[: kept[1] - 1], SEP], "the beginning of the reply, closed"
    assert (len(cut_prompt), len(cut_reply)) == kept
    bounded = formatter.cut_prompt(whole, formatter.longest_prompt)
    assert formatter.cut(bounded, said) == (cut_prompt, cut_reply), "a prompt that was bounded before is cut the same"
    assert formatter.cut_conversation([*whole, *said]) == ([*cut_prompt, *cut_reply], sum(lengths) - sum(kept))


@pytest.mark.parametrize(
    ("lengths", "kept"), [((10, 500), (10, 170)), ((490, 20), (340, 20)), ((340, 170), (340, 170))]
)
def test_a_checkpoint_keeps_the_two_limits_of_its_training(
    tokenizer: Any, lengths: tuple[int, int], kept: tuple[int, int]
) -> None:
    formatter = PairFormatter(tokenizer, RULE)
    whole, said = prompt(lengths[0]), reply(lengths[1])
    cut_prompt, cut_reply = formatter.cut(whole, said)
    assert (cut_prompt, cut_reply) == ([CLS, *whole[len(whole) - kept[0] + 1 :]], [*said[: kept[1] - 1], SEP])
    assert (formatter.cut_prompt(whole), formatter.cut_completion(said)) == (cut_prompt, cut_reply)
    assert formatter.longest_prompt == 340


def test_a_text_without_a_reply_of_its_own_is_cut_on_the_left(tokenizer: Any) -> None:
    formatter = PairFormatter(tokenizer, RULE, joint=True)
    text = [CLS, *range(FIRST, FIRST + 600), SEP]
    assert formatter.cut_conversation(text) == ([CLS, *text[602 - 509 :]], 92)
