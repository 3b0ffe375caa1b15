"""Tiny tokenizers and templates of the families that reward models on hubs come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

CORPUS = [
    "You are a helpful assistant. Please refund my bill; the card was charged.\n\n user model system ",
    '[INST] [/INST] {"name": "refund", "arguments": {"amount": 5}} <tool_call> </tool_call>',
]
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<pad>"]

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Llama 3's: texts are trimmed, and the template writes the start token.
TRIMMED = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n\n' + m.content | trim + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)
# As Gemma's: no system turn, another name for the assistant.
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + ('model' if m.role == 'assistant' else m.role) + '\n' "
    "+ m.content | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
# As Llama 2's: no control token between question and reply, spaces at the seam, the system prompt in the question.
INST = (
    "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if m.role == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + m.content | trim + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# As Mistral's first: the reply stands against "[/INST]".
TIGHT_INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
# As Qwen's: tools in the system turn, tool calls as JSON, and replies that are written by what they say.
TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% for tool in tools %}{{ tool | tojson + '\n' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.content %}{{ m.content }}{% endif %}"
    "{% for call in m.tool_calls or [] %}{{ '\n<tool_call>\n' }}"
    '{{ \'{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ call.function.arguments | tojson }}{{ '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Turns before the reply are written by what the reply says, so no prompt is the beginning of all conversations.
BACKWARDS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if messages[-1].content == 'ok' %}{{ 'briefly\n' }}{% endif %}{{ m.content + '<|im_end|>' }}{% endfor %}"
)


@dataclass(frozen=True)
class Family:
    """A way to tokenise, a template, the end-of-turn token, and whether the template takes a system turn."""

    kind: str
    template: str
    eos: str = "<|im_end|>"
    system: bool = True
    bos: bool = True


FAMILIES = {
    "chatml": Family("bytes", CHATML, bos=False),
    # The tokenizer adds a start token that the template does not write.
    "chatml, tokenizer adds bos": Family("bytes", CHATML),
    "chatml, control tokens strip": Family("stripping", CHATML),
    "llama 3": Family("bytes", TRIMMED),
    "gemma": Family("first", GEMMA, system=False),
    "llama 2": Family("always", INST, eos="</s>"),
    "llama 2, newer spaces": Family("first", INST, eos="</s>"),
    "mistral": Family("always", TIGHT_INST, eos="</s>", system=False),
    "qwen": Family("bytes", TOOLS, bos=False),
    "backwards": Family("first", BACKWARDS, bos=False),
}


def make_tokenizer(family: Family, pad: str | None) -> Any:
    """Its tokenizer, whose padding token is `pad`."""
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if family.kind in ("bytes", "stripping"):
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
    else:
        # SentencePiece: a space before the text, or before each run of it, and no words to merge within.
        if family.kind == "always":
            raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        raw.decoder = decoders.Metaspace()
        alphabet = sorted({*map(chr, range(32, 127)), "\n", "▁"})
    special = [AddedToken(name, special=True, rstrip=family.kind == "stripping") for name in SPECIAL]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet)
    raw.train_from_iterator(CORPUS, trainer)
    if family.bos:
        raw.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", raw.token_to_id("<s>"))])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>" if family.bos else None,
        eos_token=family.eos,
        pad_token=pad,
        unk_token="<unk>",
        chat_template=family.template,
    )
