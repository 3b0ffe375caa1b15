"""Train the student: learn the routes and stay near the teacher.

loss = cross-entropy(logits, route; label smoothing 0.05) + (1 - cosine(sentence vector, teacher's vector)).
The second term keeps the student's vectors where the whole encoder puts them, which is what carries over to
phrasing that no training text has; the teacher's vectors are of the text as written, the student reads it
varied (`routing.train.augment`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import BertWordPieceTokenizer
from torch import Tensor
from torch.nn import functional

from routing.errors import BadRoutingInput
from routing.model.encoder import read_tokenizer
from routing.train.augment import vary
from routing.train.data import Example
from routing.train.recipe import DistilRecipe
from routing.train.student import SentenceEncoder, from_bert

# Share of the examples without stakes that is read: these sources repeat the easy ones.
EASY_SHARE = {"clinc150": 0.35, "bitext": 0.5, "snips": 0.3}
AUTHORED_TIMES = 3


def vocabulary_of(folder: Path) -> list[str]:
    """The base's word pieces; raises BadRoutingInput when there is no vocab.txt."""
    try:
        return (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BadRoutingInput(f"{folder}: no vocab.txt of a BERT encoder ({error.strerror})") from error


def teacher_vectors(base: Path, texts: Sequence[str]) -> NDArray[np.float32]:
    """The whole encoder's sentence vectors, [texts, width]."""
    encoder, tokenizer = from_bert(base).eval(), read_tokenizer(base / "vocab.txt")
    out = np.empty((len(texts), encoder.up.out_features), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            out[rows] = encoder(*_tensors(tokenizer, [texts[row] for row in rows]))[1].float().numpy()
    return out


def train_student(
    base: Path, vocabulary: Path, examples: Sequence[Example], classes: int, recipe: DistilRecipe
) -> SentenceEncoder:
    """Train on the examples (all on the training side); `vocabulary` is the student's file of word pieces."""
    torch.manual_seed(recipe.seed)
    rng = Random(recipe.seed)
    pool = _pool(examples, rng)
    texts = sorted({example.text for example in pool})
    taught = dict(zip(texts, torch.from_numpy(teacher_vectors(base, texts)), strict=True))
    student = from_bert(base, recipe.layers, recipe.vocabulary, recipe.rank, classes)
    tokenizer = read_tokenizer(vocabulary)
    steps = recipe.epochs * -(-len(pool) // recipe.batch)
    optimizer = torch.optim.AdamW(student.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.1)
    student.train()
    for epoch in range(recipe.epochs):
        losses = []
        for batch in _batches(pool, recipe.batch, rng):
            tensors = _tensors(tokenizer, [vary(example.text, rng) for example in batch])
            loss = _loss(student, tensors, batch, torch.stack([taught[example.text] for example in batch]))
            _step(student, loss, optimizer)
            schedule.step()
            losses.append(loss.item())
        print(f"student: epoch {epoch + 1} of {recipe.epochs}, loss {np.mean(losses):.3f}", file=sys.stderr, flush=True)
    return student.eval()


def _step(student: SentenceEncoder, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()


def _loss(student: SentenceEncoder, tensors: tuple[Tensor, Tensor], batch: Sequence[Example], taught: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, vectors = student(*tensors)
    labels = torch.tensor([example.label for example in batch])
    routes = functional.cross_entropy(logits.float(), labels, label_smoothing=0.05)
    return routes + 1.0 - functional.cosine_similarity(vectors.float(), taught).mean()


def _pool(examples: Sequence[Example], rng: Random) -> list[Example]:
    """Easy examples thinned, authored ones repeated."""
    pool: list[Example] = []
    for example in examples:
        easy = EASY_SHARE.get(example.source, 1.0) if example.label == 0 else 1.0
        if rng.random() < easy:
            pool.extend([example] * (AUTHORED_TIMES if example.source == "authored" else 1))
    return pool


def _batches(pool: list[Example], size: int, rng: Random) -> list[list[Example]]:
    """Shuffled batches of like length: sorted within runs of 32 batches."""
    shuffled = rng.sample(pool, len(pool))
    batches: list[list[Example]] = []
    for start in range(0, len(shuffled), size * 32):
        run = sorted(shuffled[start : start + size * 32], key=lambda example: len(example.text))
        batches.extend(run[first : first + size] for first in range(0, len(run), size))
    rng.shuffle(batches)
    return batches


def _tensors(tokenizer: BertWordPieceTokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids and mask [texts, longest], zeros on the right."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    return ids, mask
