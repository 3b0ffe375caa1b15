"""A tiny model of each family that reward models on hubs come from, against transformers on the card's recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry
from transformers import AutoTokenizer

from reward_model.checkpoint.sequence_classifier import load_sequence_classifier
from reward_model.errors import CheckpointError
from reward_model.serving.engine import Engine
from reward_model.serving.metrics import ScorerMetrics
from reward_model.serving.settings import ScorerSettings
from reward_model.text.formatting import Completion, parse_messages
from tests.reward_model.chat_families import FAMILIES, make_tokenizer

PROMPT = [{"role": "user", "content": "My card was charged twice, please refund my bill."}]
REPLIES = ["Please.", "The card was charged; a refund is on its way.", "refund; " * 60, ""]
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WIDE = {"num_labels": 1, "initializer_range": 0.2}
DECODERS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"num_key_value_heads": 4},
    "qwen3": {"head_dim": 8, "num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2, "sliding_window": None},
    "gemma": {"head_dim": 8, "num_key_value_heads": 1},
    "gemma2": {"head_dim": 8, "num_key_value_heads": 2},
    "phi3": {"bos_token_id": 1, "eos_token_id": 4},
    "gpt_neox": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
}
# Family -> what its tokenizer puts around a pair.
BERT = ("<s> $A </s>", "<s> $A </s> $B:1 </s>:1")
ROBERTA = ("<s> $A </s>", "<s> $A </s> </s> $B </s>")
ENCODERS = dict.fromkeys(("bert", "electra", "deberta-v2", "modernbert"), BERT)
ENCODERS |= dict.fromkeys(("roberta", "xlm-roberta"), ROBERTA)


def save(folder: Path, kind: str, tokenizer: Any, **changes: Any) -> Any:
    """A random classifier, as transformers has it."""
    import transformers as hf

    torch.manual_seed(3)
    shared = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **WIDE}
    config = hf.AutoConfig.for_model(kind, **shared, **({} if kind == "gpt2" else SIZES), **changes)
    model = hf.AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def encoder_tokenizer(single: str, pair: str) -> Any:
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer(FAMILIES["chatml"], "<pad>")
    tokenizer.chat_template = None
    tokenizer.cls_token, tokenizer.sep_token = "<s>", "</s>"
    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
    processor = TemplateProcessing(single=single, pair=pair, special_tokens=special)
    tokenizer.backend_tokenizer.post_processor = processor
    if pair is BERT[1]:
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names
    return tokenizer


@torch.inference_mode()
def logits(model: Any, inputs: list[Any]) -> list[float]:
    return [float(model(**given).logits[0, 0]) for given in inputs]


async def scores(folder: Path, megabytes: int, dtype: torch.dtype = torch.float32) -> list[float]:
    loaded = load_sequence_classifier(str(folder), dtype)
    engine = Engine(loaded, ScorerSettings(prefix_cache_mb=megabytes), ScorerMetrics(CollectorRegistry()))
    engine.batcher.start()
    result = await engine.score(parse_messages(PROMPT), [Completion(content=reply) for reply in REPLIES])
    await engine.batcher.stop()
    return result.scores


@pytest.mark.parametrize("kind", DECODERS)
async def test_decoders(tmp_path: Path, kind: str) -> None:
    tokenizer = make_tokenizer(FAMILIES["llama 3"], "<pad>")
    model = save(tmp_path, kind, tokenizer, **DECODERS[kind])
    # Qwen's class makes a tokenizer of its own of the files.
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    conversations = [[*PROMPT, {"role": "assistant", "content": reply}] for reply in REPLIES]
    inputs: list[Any] = [
        tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True) for turns in conversations
    ]
    expected = logits(model, [{"input_ids": given["input_ids"]} for given in inputs])
    assert max(expected) - min(expected) > 1e-2
    for megabytes in (0, 64):
        assert await scores(tmp_path, megabytes) == pytest.approx(expected, abs=1e-3)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # in transformers' DeBERTa
@pytest.mark.parametrize("kind", ENCODERS)
async def test_encoders(tmp_path: Path, kind: str) -> None:
    tokenizer = encoder_tokenizer(*ENCODERS[kind])
    # Behind a short prompt a reply has all the positions that its model has.
    model = save(tmp_path, kind, tokenizer, max_position_embeddings=300)
    # In a list: transformers takes an empty text for no second text otherwise.
    inputs = [tokenizer([(PROMPT[0]["content"], reply)], return_tensors="pt") for reply in REPLIES]
    assert max(given["input_ids"].shape[1] for given in inputs) > 130
    expected = logits(model, inputs)
    assert max(expected) - min(expected) > 1e-2
    assert await scores(tmp_path, 64) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("kind", ["llama", "bert", "roberta"])
async def test_the_head_computes_in_fp32_in_a_model_of_bf16(tmp_path: Path, kind: str) -> None:
    encoder = kind in ENCODERS
    tokenizer = encoder_tokenizer(*ENCODERS[kind]) if encoder else make_tokenizer(FAMILIES["llama 3"], "<pad>")
    model = save(tmp_path, kind, tokenizer)
    with torch.no_grad():
        head: Any = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 1][-1]
        head.weight *= 40
    model.save_pretrained(tmp_path)
    for megabytes in (0, 64):
        found = torch.tensor(await scores(tmp_path, megabytes, torch.bfloat16))
        assert not torch.equal(found, found.bfloat16().float()), "no steps of bf16"
        assert found.abs().max() > 4


def test_a_decoder_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(FAMILIES["llama 3"], "<pad>")
    tokenizer.chat_template = None
    save(tmp_path, "llama", tokenizer)
    with pytest.raises(CheckpointError, match=r"no chat template.*chat_template\.jinja"):
        load_sequence_classifier(str(tmp_path), torch.float32)
    tokenizer.cls_token = tokenizer.sep_token = "<s>"
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no chat template"):
        load_sequence_classifier(str(tmp_path), torch.float32)


def test_a_setting_says_how_long_a_sequence_may_be(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(FAMILIES["llama 3"], "<pad>")
    save(tmp_path, "llama", tokenizer, max_position_embeddings=9_000)
    prompt = parse_messages([{"role": "user", "content": "refund " * 12_000}])
    for longest, kept in ((4_096, 4_096), (8_000, 8_000), (20_000, 8_998)):
        formatter = load_sequence_classifier(str(tmp_path), torch.float32, longest=longest).formatter
        ((begin, end),) = formatter.sequences(prompt, [Completion(content="Yes.")])
        assert len(begin) + len(end) == kept


@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_an_adapter_is_merged_into_its_base(tmp_path: Path, with_tokenizer: bool) -> None:
    import transformers as hf
    from peft import LoraConfig, TaskType, get_peft_model

    tokenizer = make_tokenizer(FAMILIES["llama 3"], "<pad>")
    config = hf.LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.2, pad_token_id=5, **SIZES)
    hf.LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    base = hf.LlamaForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    lora = LoraConfig(r=4, task_type=TaskType.SEQ_CLS, init_lora_weights=False, target_modules=["q_proj", "v_proj"])
    adapted: Any = get_peft_model(base, lora).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    if with_tokenizer:
        tokenizer.save_pretrained(tmp_path / "adapter")
    ids = [[1, 9, 30, 7], [1, 40, 41, 42, 43]]
    expected = logits(adapted, [{"input_ids": torch.tensor([row])} for row in ids])
    loaded = load_sequence_classifier(str(tmp_path / "adapter"), torch.float32)
    assert loaded.id == "adapter@local"
    assert loaded.score(ids).tolist() == pytest.approx(expected, abs=1e-4)


def test_an_adapter_without_a_head_or_a_base_is_refused_by_name(tmp_path: Path) -> None:
    import transformers as hf
    from peft import LoraConfig, get_peft_model

    tokenizer = make_tokenizer(FAMILIES["llama 3"], "<pad>")
    config = hf.LlamaConfig(vocab_size=len(tokenizer), pad_token_id=5, **SIZES)
    model = hf.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    folder = tmp_path / "adapter"
    lora = LoraConfig(r=4, target_modules=["q_proj"])
    get_peft_model(model, lora).save_pretrained(folder)  # type: ignore[arg-type]
    told = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(told | {"base_model_name_or_path": str(tmp_path / "base")}))
    with pytest.raises(CheckpointError, match=r"adapter has no weights for score\.weight"):
        load_sequence_classifier(str(folder), torch.float32)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(CheckpointError, match="names no base_model_name_or_path"):
        load_sequence_classifier(str(folder), torch.float32)
