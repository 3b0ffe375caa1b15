"""Shared by the tests of routing: the bundled router, read once, and a tiny random BERT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from routing.router import Router


@pytest.fixture(scope="session")
def router() -> Router:
    return Router.load()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT: 3 layers, 24 wide, 4 heads, word pieces for a few words."""
    import torch
    from transformers import BertConfig, BertModel

    # Of a network this small two threads only wait for each other, minutes long where other tests run beside.
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("bert")
    letters = [mark + chr(code) for mark in ("", "##") for code in range(ord("a"), ord("z") + 1)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, "charged", "twice", "fee", "card", "stolen"]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    torch.manual_seed(1)
    BertModel(
        BertConfig(
            vocab_size=len(pieces),
            hidden_size=24,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=128,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[[str, list[object]], Path]:
    """Write objects as JSON lines to a file of tmp_path (compressed when its name says so)."""
    import gzip
    import json

    def write(name: str, rows: list[object]) -> Path:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return write
