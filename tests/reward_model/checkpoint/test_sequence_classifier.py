"""Other people's reward models: their own scores, whatever the batch and the padding token."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry

from reward_model.checkpoint.loaded_model import LoadedModel
from reward_model.checkpoint.sequence_classifier import load_sequence_classifier
from reward_model.errors import BadInput, CheckpointError
from reward_model.labels import Pair
from reward_model.offline.score import local_scores
from reward_model.offline.scoring import PromptScorer
from reward_model.serving.engine import Engine
from reward_model.serving.metrics import ScorerMetrics
from reward_model.serving.settings import ScorerSettings
from reward_model.text.formatting import Completion, parse_messages
from reward_model.training.evaluation.evaluate import score_pairs

PROMPT = [{"role": "user", "content": "My card was charged twice, please refund my bill."}]
REPLIES = ["Please.", "The card was charged; a refund is on its way to your card.", "bill " * 30, "ok"]
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def save(folder: Path, base: Path, kind: str, **changes: Any) -> tuple[Any, Any]:
    """A random classifier with a tokenizer; returns both as transformers has them."""
    import transformers as hf

    torch.manual_seed(3)
    tokenizer = hf.AutoTokenizer.from_pretrained(base)
    shared = {"vocab_size": len(tokenizer), "num_labels": 1, "initializer_range": 0.2, **SIZES, **changes}
    if kind == "llama":
        config: Any = hf.LlamaConfig(num_key_value_heads=2, max_position_embeddings=512, **shared)
    elif kind == "distilbert":
        names = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
        sizes = {names.get(name, name): value for name, value in shared.items() if name != "intermediate_size"}
        config = hf.DistilBertConfig(max_position_embeddings=512, hidden_dim=64, **sizes)
        _make_encoders(tokenizer)
    else:
        config = hf.BertConfig(max_position_embeddings=512, **shared)
        _make_encoders(tokenizer)
    model = hf.AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def _make_encoders(tokenizer: Any) -> None:
    """[CLS] a [SEP] b [SEP], no chat template, and a truncation that somebody left in the file."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.chat_template = None
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names
    tokenizer.cls_token, tokenizer.sep_token = "<|im_start|>", "<|im_end|>"
    special = [("<|im_start|>", tokenizer.cls_token_id), ("<|im_end|>", tokenizer.sep_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>",
        pair="<|im_start|> $A <|im_end|> $B:1 <|im_end|>:1",
        special_tokens=special,
    )


def sequences(loaded: LoadedModel) -> list[list[int]]:
    formatter = loaded.formatter
    prompt = formatter.prompt_ids(parse_messages(PROMPT))
    return [[*prompt, *formatter.completion_ids(Completion(content=reply))] for reply in REPLIES]


@torch.inference_mode()
def logit(model: Any, **inputs: Any) -> float:
    return float(model(**inputs).logits[0, 0])


# None: transformers reads the last token. 2 is <|im_end|>, which ends texts too: transformers passes over it.
@pytest.mark.parametrize("pad", [None, 1, 2])
def test_a_chat_classifier_scores_what_its_own_template_writes(base: Path, tmp_path: Path, pad: int | None) -> None:
    model, tokenizer = save(tmp_path, base, "llama", pad_token_id=pad)
    loaded = load_sequence_classifier(str(tmp_path), torch.float32)
    conversations = [[*PROMPT, {"role": "assistant", "content": reply}] for reply in REPLIES]
    rendered = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in conversations]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in rendered]
    assert sequences(loaded) == ids, "with the newline that this template writes after each turn"
    assert [loaded.formatter.conversation_ids(text) for text in rendered] == [(row, 0) for row in ids]
    expected = [logit(model, input_ids=torch.tensor([row])) for row in ids]
    assert max(expected) - min(expected) > 1e-2
    assert loaded.score(ids).tolist() == pytest.approx(expected, abs=1e-4)
    assert [loaded.score([row]).item() for row in ids] == pytest.approx(expected, abs=1e-4)


def test_without_a_padding_token_a_row_that_ends_in_any_token_keeps_its_score(base: Path, tmp_path: Path) -> None:
    model, _ = save(tmp_path, base, "llama")
    loaded = load_sequence_classifier(str(tmp_path), torch.float32)
    rows = [[9, 8, 7, 6, 5, 0], [9, 0], [7, 1], [9, 8, 2], [0]]
    expected = [logit(model, input_ids=torch.tensor([row])) for row in rows]
    assert loaded.score(rows).tolist() == pytest.approx(expected, abs=1e-4)


def test_an_encoder_scores_the_pair_that_its_tokenizer_makes(base: Path, tmp_path: Path) -> None:
    model, tokenizer = save(tmp_path, base, "bert")
    loaded = load_sequence_classifier(str(tmp_path), torch.float32)
    pairs = [tokenizer(PROMPT[0]["content"], reply, return_tensors="pt") for reply in REPLIES]
    assert pairs[0]["token_type_ids"].sum() > 0
    assert sequences(loaded) == [pair["input_ids"][0].tolist() for pair in pairs]
    expected = [logit(model, **pair) for pair in pairs]
    assert loaded.score(sequences(loaded)).tolist() == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 1e-2
    text = "one text alone"
    assert loaded.formatter.conversation_ids(text) == (tokenizer(text)["input_ids"], 0)


def test_an_encoder_that_takes_no_segment_ids_gets_none(base: Path, tmp_path: Path) -> None:
    model, tokenizer = save(tmp_path, base, "distilbert")
    loaded = load_sequence_classifier(str(tmp_path), torch.float32)
    pairs = [tokenizer(PROMPT[0]["content"], reply, return_tensors="pt") for reply in REPLIES]
    expected = [logit(model, **{n: v for n, v in pair.items() if n != "token_type_ids"}) for pair in pairs]
    assert max(expected) - min(expected) > 1e-2
    assert loaded.score(sequences(loaded)).tolist() == pytest.approx(expected, abs=1e-4)


TIGHT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


async def test_a_reply_closed_by_the_padding_token_has_one_score_on_every_path(base: Path, tmp_path: Path) -> None:
    model, tokenizer = save(tmp_path, base, "llama", pad_token_id=2)
    tokenizer.chat_template = TIGHT
    tokenizer.save_pretrained(tmp_path)
    replies = [*REPLIES, ""]
    conversations = [[*PROMPT, {"role": "assistant", "content": reply}] for reply in replies]
    rendered = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in conversations]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in rendered]
    assert all(row[-1] == 2 for row in ids)
    expected = [logit(model, input_ids=torch.tensor([row])) for row in ids]
    loaded = load_sequence_classifier(str(tmp_path), torch.float32)
    prompt, completions = parse_messages(PROMPT), [Completion(content=reply) for reply in replies]
    for megabytes in (0, 64):
        settings = ScorerSettings(prefix_cache_mb=megabytes)
        engine = Engine(loaded, settings, ScorerMetrics(CollectorRegistry()))
        engine.batcher.start()
        together = (await engine.score(prompt, completions)).scores
        apart = [(await engine.score(prompt, [completion])).scores[0] for completion in completions]
        as_texts = (await engine.score_texts(rendered)).scores
        await engine.batcher.stop()
        for scores in (together, apart, as_texts):
            assert scores == pytest.approx(expected, abs=1e-4)


def test_what_is_too_long_is_cut_and_keeps_its_ends(base: Path, tmp_path: Path) -> None:
    save(tmp_path, base, "bert")
    formatter = load_sequence_classifier(str(tmp_path), torch.float32).formatter
    long = "bill " * 900
    ((prompt, reply),) = formatter.sequences(
        parse_messages([{"role": "user", "content": long}]), [Completion(content=long)]
    )
    # 510 positions: where neither fits, a third of them for the reply.
    assert (len(prompt), len(reply)) == (340, 170)
    assert (prompt[0], prompt[-1], reply[-1]) == (1, 2, 2)
    ids, cut = formatter.conversation_ids("bill " * 900)
    assert (len(ids), ids[0], ids[-1]) == (510, 1, 2)
    assert cut > 300


LONG = "The card was charged; a refund is on its way. " * 60


@pytest.mark.parametrize("kind", ["bert", "llama"])
async def test_what_is_too_long_has_one_score_on_every_path(base: Path, tmp_path: Path, kind: str) -> None:
    """A short prompt leaves the reply all the room: 510 tokens in all, the last of them what closes a reply."""
    model, tokenizer = save(tmp_path / "model", base, kind)
    replies = [LONG + "Yes.", "No. " + LONG, "Short."]
    if kind == "bert":
        ids = [tokenizer(PROMPT[0]["content"], reply)["input_ids"] for reply in replies]
        closing = [2]
        rendered = [f"{PROMPT[0]['content']}<|im_end|>{reply}" for reply in replies]
    else:
        conversations = [[*PROMPT, {"role": "assistant", "content": reply}] for reply in replies]
        rendered = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in conversations]
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in rendered]
        closing = ids[0][-2:]
    assert min(len(row) for row in ids[:2]) > 600
    kept = [row if len(row) <= 510 else [*row[: 510 - len(closing)], *closing] for row in ids]
    segments = [{"token_type_ids": torch.tensor([_segments(row)])} if kind == "bert" else {} for row in kept]
    expected = [logit(model, input_ids=torch.tensor([row]), **more) for row, more in zip(kept, segments, strict=True)]
    assert max(expected) - min(expected) > 1e-3
    loaded = load_sequence_classifier(str(tmp_path / "model"), torch.float32)
    engine = Engine(loaded, ScorerSettings(), ScorerMetrics(CollectorRegistry()))
    engine.batcher.start()
    prompt = parse_messages(PROMPT)
    await engine.prefill(prompt)
    result = await engine.score(prompt, [Completion(content=reply) for reply in replies])
    by_path = {"score": result.scores, "classify": (await engine.score_texts(rendered)).scores}
    by_path["token ids"] = (await engine.score_texts(ids)).scores
    await engine.batcher.stop()
    file = tmp_path / "in.jsonl"
    file.write_text(json.dumps({"prompt": PROMPT, "completions": replies}))
    (line,) = await asyncio.to_thread(_from_file, file, loaded)
    pairs = [
        Pair.model_validate({"id": reply, "group": "g", "prompt": PROMPT, "chosen": reply, "rejected": reply})
        for reply in replies
    ]
    by_path |= {"file": line["scores"], "evaluate": score_pairs(loaded, pairs)[:, 0].tolist()}
    for path, scores in by_path.items():
        assert scores == pytest.approx(expected, abs=1e-4), path
    prompt_tokens = len(loaded.formatter.full_prompt_ids(prompt))
    assert (result.prompt_tokens, result.truncated_tokens) == (prompt_tokens, sum(map(len, ids)) - sum(map(len, kept)))


def _from_file(file: Path, loaded: LoadedModel) -> list[dict[str, Any]]:
    with PromptScorer(loaded) as scorer:
        return list(local_scores(str(file), scorer))


def _segments(row: list[int]) -> list[int]:
    second = row.index(2) + 1
    return [0] * second + [1] * (len(row) - second)


async def test_a_long_prompt_is_cut_by_what_each_reply_leaves_of_the_room(base: Path, tmp_path: Path) -> None:
    model, tokenizer = save(tmp_path, base, "bert")
    loaded = load_sequence_classifier(str(tmp_path), torch.float32)
    engine = Engine(loaded, ScorerSettings(), ScorerMetrics(CollectorRegistry()))
    engine.batcher.start()
    prompt, replies = [{"role": "user", "content": LONG}], ["Short.", LONG]
    result = await engine.score(parse_messages(prompt), [Completion(content=reply) for reply in replies])
    await engine.batcher.stop()
    whole = tokenizer(LONG)["input_ids"]
    short, long = (tokenizer(reply, add_special_tokens=False)["input_ids"] for reply in replies)
    rows = [
        [1, *whole[-(510 - len(short) - 1 - 1) :], *short, 2],
        [1, *whole[-339:], *long[:169], 2],
    ]
    expected = [
        logit(model, input_ids=torch.tensor([row]), token_type_ids=torch.tensor([_segments(row)])) for row in rows
    ]
    assert [len(row) for row in rows] == [510, 510]
    assert result.scores == pytest.approx(expected, abs=1e-4)
    assert result.prompt_tokens == 340, "what both follow"
    assert result.truncated_tokens == len(whole) - 340 + len(long) - 169


def test_a_template_that_refuses_the_turns_says_so(base: Path, tmp_path: Path) -> None:
    _, tokenizer = save(tmp_path, base, "llama")
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    tokenizer.chat_template = refusal + tokenizer.chat_template
    tokenizer.save_pretrained(tmp_path)
    formatter = load_sequence_classifier(str(tmp_path), torch.float32).formatter
    with pytest.raises(BadInput, match="no system role"):
        formatter.prompt_ids(parse_messages([{"role": "system", "content": "x"}, *PROMPT]))


def test_its_name_says_where_it_is_from(base: Path, tmp_path: Path) -> None:
    save(tmp_path / "my-reward", base, "bert")
    assert load_sequence_classifier(str(tmp_path / "my-reward"), torch.float32).id == "my-reward@local"


def test_a_model_with_two_labels_is_refused(base: Path, tmp_path: Path) -> None:
    save(tmp_path, base, "bert", num_labels=2)
    with pytest.raises(CheckpointError, match=r"2 labels.*num_labels=1"):
        load_sequence_classifier(str(tmp_path), torch.float32)


def test_a_model_without_a_head_is_refused(base: Path, tmp_path: Path) -> None:
    import transformers as hf

    tokenizer = hf.AutoTokenizer.from_pretrained(base)
    shape: dict[str, Any] = {"vocab_size": len(tokenizer), "num_key_value_heads": 2, "num_labels": 1}
    config = hf.LlamaConfig(**shape, **SIZES)
    hf.LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"no weights for score\.weight"):
        load_sequence_classifier(str(tmp_path), torch.float32)


def test_weights_in_pickles_are_refused(base: Path, tmp_path: Path) -> None:
    model, _ = save(tmp_path, base, "bert")
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_sequence_classifier(str(tmp_path), torch.float32)
