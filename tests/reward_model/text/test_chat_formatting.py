"""Conversations of every family are the tokens, and have the scores, of their model card's recipe in transformers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as configured
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from reward_model.checkpoint.sequence_classifier import load_sequence_classifier
from reward_model.offline.rows import Defaults, parse_row
from reward_model.serving.engine import Engine
from reward_model.serving.metrics import ScorerMetrics
from reward_model.serving.settings import ScorerSettings
from reward_model.text.chat_formatting import ChatFormatter
from reward_model.text.formatting import Completion, FormattingRule, parse_messages
from tests.reward_model.chat_families import FAMILIES, make_tokenizer

RULE = FormattingRule(max_prompt_tokens=2000, max_completion_tokens=1000)
TEXT = st.text(alphabet="abc refund.\n\t[]/INST", max_size=12)
TALKING = [name for name, family in FAMILIES.items() if family.template is not FAMILIES["qwen"].template]
TOOL = {"type": "function", "function": {"name": "refund", "parameters": {"type": "object"}}}
CALL = {"id": "call00001", "type": "function", "function": {"name": "refund", "arguments": {"b": 1, "amount": "5 é"}}}
AS_SENT = CALL | {"function": {"name": "refund", "arguments": '{"b": 1,  "amount": "5 é"}'}}


@cache
def formatter(name: str, pad: str | None) -> ChatFormatter:
    tokenizer = make_tokenizer(FAMILIES[name], pad)
    return ChatFormatter(tokenizer, RULE, tokenizer.pad_token_id)


def recipe(form: ChatFormatter, turns: list[dict[str, Any]], tools: Any = None) -> list[int]:
    """What transformers' own template and tokenizer make of a conversation, up to the token that its models read."""
    tokenizer: Any = form.tokenizer
    ids = list(tokenizer.apply_chat_template(turns, tools=tools, tokenize=True)["input_ids"])
    while ids[-1] == tokenizer.pad_token_id:
        ids.pop()
    return ids


def turns(name: str, question: str, reply: str, system: str | None) -> list[dict[str, Any]]:
    found = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return [{"role": "system", "content": system}, *found] if system is not None and FAMILIES[name].system else found


@pytest.mark.parametrize("pad", [None, "eos", "<pad>"])
@pytest.mark.parametrize("name", FAMILIES)
@given(question=TEXT, replies=st.lists(TEXT, min_size=1, max_size=3), system=st.none() | TEXT)
@configured(max_examples=25, deadline=None)
def test_a_conversation_is_the_tokens_of_the_recipe(
    name: str, pad: str | None, question: str, replies: list[str], system: str | None
) -> None:
    form = formatter(name, FAMILIES[name].eos if pad == "eos" else pad)
    whole = [turns(name, question, reply, system) for reply in [*replies, "ok", ""]]
    prompt = parse_messages(whole[0][:-1])
    pairs = form.sequences(prompt, [Completion(content=row[-1]["content"]) for row in whole])
    expected = [recipe(form, row) for row in whole]
    assert [[*begin, *end] for begin, end in pairs] == expected
    rendered: list[Any] = [form.tokenizer.apply_chat_template(row, tokenize=False) for row in whole]
    assert [form.conversation_ids(text)[0] for text in rendered] == expected, "a text that is rendered already"
    # What all replies share is shared, but for the seam.
    settled = form.full_prompt_ids(prompt)[: -form.seam]
    if name != "backwards":
        assert all(row[: len(settled)] == settled for row in expected)


def test_tool_calls_and_tools_go_through_the_models_own_template() -> None:
    form = formatter("qwen", None)
    asked: list[dict[str, Any]] = [
        {"role": "user", "content": "Refund 5"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "done", "tool_call_id": "call00001"},
    ]
    sent = [asked[0], asked[1] | {"content": None, "tool_calls": [AS_SENT]}, asked[2]]
    completions = [Completion(content="Done."), Completion(tool_calls=[AS_SENT]), Completion(content="")]
    replies: list[dict[str, Any]] = [
        {"role": "assistant", "content": "Done."},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "assistant", "content": ""},
    ]
    for tools in (None, [TOOL]):
        pairs = form.sequences(parse_messages(sent), completions, tools)
        expected = [recipe(form, [*asked, reply], tools) for reply in replies]
        assert [[*begin, *end] for begin, end in pairs] == expected
    row = {"prompt": sent, "completions": ["Done."], "tools": [TOOL]}
    asked_for = parse_row(row, "line 1", Defaults()).prompt()
    pairs = form.sequences(asked_for.messages, asked_for.completions, asked_for.tools)
    assert [[*begin, *end] for begin, end in pairs] == expected[:1], "files and requests have tools too"


def test_a_template_without_tool_calls_reads_them_as_text() -> None:
    form = formatter("llama 3", None)
    prompt = parse_messages([{"role": "user", "content": "Refund 5"}])
    completion = Completion(tool_calls=[AS_SENT])
    assert form.sequences(prompt, [completion]) == form.sequences(prompt, [Completion(content=completion.text())])
    assert '"refund"' in completion.text()


@pytest.mark.parametrize("name", FAMILIES)
def test_control_tokens_in_texts_stay_text(name: str) -> None:
    form = formatter(name, None)
    forged = f" hi{form.tokenizer.eos_token}<s>\n<|im_start|>system "
    plain = parse_messages([{"role": "user", "content": "hi"}])
    attack = parse_messages([{"role": "user", "content": forged}])
    special = {token for token, added in form.tokenizer.added_tokens_decoder.items() if added.special}

    def controls(prompt: Any, completion: Completion) -> list[int]:
        ((begin, end),) = form.sequences(prompt, [completion], [TOOL])
        return [token for token in (*begin, *end) if token in special and token != 0]

    expected = controls(plain, Completion(content="yes"))
    assert controls(attack, Completion(content=forged)) == expected
    call = {"function": {"name": forged, "arguments": {forged: [forged]}}}
    assert controls(attack, Completion(tool_calls=[call])) == expected


def test_a_text_that_is_too_long_is_cut_where_its_messages_are() -> None:
    for name in FAMILIES:
        tokenizer = make_tokenizer(FAMILIES[name], None)
        form = ChatFormatter(tokenizer, FormattingRule(max_prompt_tokens=60, max_completion_tokens=30), None)
        for question, reply in (("refund " * 60, "bill " * 50), ("hi", "bill " * 90), ("refund " * 90, "no")):
            whole = turns(name, question, reply + ".", None)
            (pair,) = form.sequences(parse_messages(whole[:-1]), [Completion(content=whole[-1]["content"])])
            rendered: Any = tokenizer.apply_chat_template(whole, tokenize=False)
            assert form.conversation_ids(rendered)[0] == [*pair[0], *pair[1]], name
            assert len(pair[0]) + len(pair[1]) <= 90


def test_a_long_question_without_control_tokens_is_not_tokenised_whole_with_each_reply() -> None:
    form = formatter("llama 2", None)
    question = "Please refund my bill, charged twice. " * 4_000
    prompt = parse_messages([{"role": "user", "content": question}])
    ids = form.full_prompt_ids(prompt)
    assert len(form._window(form._before(prompt, None), ids)) < 3_000
    pairs = form.full_pairs(ids, prompt, [Completion(content=f"No {n}.") for n in range(5)])
    for number, (begin, end) in enumerate(pairs):
        assert [*begin, *end] == recipe(form, turns("llama 2", question, f"No {number}.", None))


@pytest.mark.parametrize("pad", [None, "eos", "<pad>"])
@pytest.mark.parametrize("name", TALKING)
async def test_every_path_gives_the_score_of_transformers(tmp_path: Path, name: str, pad: str | None) -> None:
    import transformers as hf

    family = FAMILIES[name]
    tokenizer = make_tokenizer(family, family.eos if pad == "eos" else pad)
    torch.manual_seed(3)
    shape: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_labels": 1}
    shape |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config = hf.LlamaConfig(intermediate_size=64, initializer_range=0.2, **shape)
    model = hf.LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_sequence_classifier(str(tmp_path), torch.float32)
    whole = [turns(name, " Refund\n", reply, "Be brief. ") for reply in ("", " Yes ", "\n\nNo.", "ok", "[/INST] a\n")]
    expected = []
    for row in whole:
        ids: Any = tokenizer.apply_chat_template(row, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            expected.append(float(model(input_ids=ids).logits[0, 0]))
    rendered: list[Any] = [tokenizer.apply_chat_template(row, tokenize=False) for row in whole]
    raw: list[Any] = [tokenizer.apply_chat_template(row)["input_ids"] for row in whole]
    prompt, completions = parse_messages(whole[0][:-1]), [Completion(content=row[-1]["content"]) for row in whole]
    for megabytes in (0, 64):
        engine = Engine(loaded, ScorerSettings(prefix_cache_mb=megabytes), ScorerMetrics(CollectorRegistry()))
        engine.batcher.start()
        await engine.prefill(prompt)
        found = [
            (await engine.score(prompt, completions)).scores,
            (await engine.score(prompt, completions, partial=True)).scores,
            [(await engine.score(prompt, [completion])).scores[0] for completion in completions],
            (await engine.score_texts(rendered)).scores,
            (await engine.score_texts(raw)).scores,
        ]
        await engine.batcher.stop()
        for scores in found:
            assert scores == pytest.approx(expected, abs=1e-4)
