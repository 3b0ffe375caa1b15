"""bf16 and the fast path together pick the winner that fp32 picks, wherever bf16 can tell at all.

The bundled model, eight candidates of real prompts, plain transformers in both precisions as the reference.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import reward_model
from reward_model.checkpoint.loaded_model import LoadedModel
from reward_model.checkpoint.loading import load_model
from reward_model.labels import LabelledReply, as_completion, read_rows
from reward_model.serving.forward.packed import PackedScorer
from reward_model.serving.forward.pass_plan import Item
from reward_model.text.formatting import parse_messages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PROMPTS, CANDIDATES = 150, 8
REPLIES = Path(reward_model.__file__).parent / "data" / "labelled_replies.jsonl.gz"


def items(model: LoadedModel) -> list[list[Item]]:
    """Candidates of each of `PROMPTS` prompts, seeded."""
    rows = list(read_rows(str(REPLIES), LabelledReply))
    groups = [list(own) for _, own in itertools.groupby(rows, key=LabelledReply.prompt_key)]
    chosen = random.Random(0).sample([own for own in groups if len(own) == CANDIDATES], PROMPTS)
    form = model.formatter
    return [
        [
            Item(
                tuple(form.prompt_ids(parse_messages(row.prompt))),
                tuple(form.completion_ids(as_completion(row.completion))),
            )
            for row in own
        ]
        for own in chosen
    ]


def plain_scores(dtype: torch.dtype) -> np.ndarray:
    """[PROMPTS, CANDIDATES], each text by itself, in transformers' own forward pass."""
    model = load_model("winnow-orm", None, dtype, "cpu")
    found = []
    for item in itertools.chain.from_iterable(items(model)):
        ids = torch.tensor([item.prompt + item.completion])
        with torch.inference_mode():
            found.append(float(model.module(ids, spans=torch.tensor([[len(item.prompt), ids.shape[1] - 1]]))))
    return np.array(found).reshape(PROMPTS, CANDIDATES)


def fast_scores() -> np.ndarray:
    """[PROMPTS, CANDIDATES] from the serving path in bf16, in batches of texts of mixed prompts in random order."""
    model = load_model("winnow-orm", None, torch.bfloat16, "cpu")
    asked = list(itertools.chain.from_iterable(items(model)))
    chance, scorer = random.Random(1), PackedScorer(model, 200_000_000)
    # A prompt's candidates come near each other, never all at once and never in order.
    order = sorted(range(len(asked)), key=lambda place: place // CANDIDATES + chance.uniform(0, 3))
    found, at = np.zeros(len(asked)), 0
    while at < len(order):
        batch = order[at : at + chance.randint(1, 12)]
        found[batch] = scorer.score([asked[place] for place in batch])[:, 0].tolist()
        at += len(batch)
    return found.reshape(PROMPTS, CANDIDATES)


def test_the_winner_in_bf16_is_fp32s_where_scores_differ_by_more_than_bf16s_noise() -> None:
    exact, rounded, fast = plain_scores(torch.float32), plain_scores(torch.bfloat16), fast_scores()
    ours, theirs = (_noise(exact, scores) for scores in (fast, rounded))
    best = np.sort(exact, axis=1)
    clear = best[:, -1] - best[:, -2] > theirs
    same = exact.argmax(1) == fast.argmax(1)
    regret = best[:, -1] - np.take_along_axis(exact, fast.argmax(1)[:, None], 1)[:, 0]
    print(
        f"noise of a difference: plain bf16 {theirs:.4f}, ours {ours:.4f}; {clear.sum()} of {PROMPTS} are clear, "
        f"same winner in {same[clear].mean():.4f} of them and {same[~clear].mean():.4f} of the others, "
        f"regret there {regret[~clear].mean():.4f}, winners' deviation {best[:, -1].std(ddof=1):.2f}"
    )
    assert clear.mean() > 0.5
    assert same[clear].mean() >= 0.99
    # The fast path adds nothing to what bf16 does by itself.
    assert ours < 1.3 * theirs


def _noise(exact: np.ndarray, scores: np.ndarray) -> float:
    """What bf16 moves the difference of two scores by at most, in 95 of 100 cases: two deviations."""
    first, second = np.triu_indices(CANDIDATES, 1)
    moved = scores - exact
    return float(2 * (moved[:, first] - moved[:, second]).std())
