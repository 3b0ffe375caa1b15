from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reward_model.labels import Pair
from reward_model.model.reward_model import RewardModel
from reward_model.text.formatting import Completion, Formatter, Message
from reward_model.training.fit.packing import TokenPair, batches, collate, collate_apart, one_pair_each, pack, tokenize
from reward_model.training.fit.trainer import score_rows

LOW = torch.finfo(torch.float32).min


def test_a_row_by_hand() -> None:
    # A dialogue [7, 8 | 9]: one pair after two tokens, one after three; reply [5, 2] stands in both.
    pairs = [TokenPair(0, [7, 8], [5, 2], [6]), TokenPair(1, [7, 8, 9], [4], [5, 2])]
    (row,) = pack(pairs, ["g", "g"], 100)
    assert row.prompt == [7, 8, 9]
    batch = collate([row], pad=0)
    # The same tokens after another prefix are another reply, for they see other tokens.
    assert batch.input_ids.tolist() == [[7, 8, 9, 4, 5, 2, 5, 2, 6]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 3, 4, 2, 3, 2]]
    # Pair 1, with the longer prompt, came first: its reply 4 alone at 3, then 5, 2 at 4 and 5.
    assert batch.spans.tolist() == [[[3, 3], [4, 5]], [[6, 7], [8, 8]]]
    visible = (batch.attention_mask[0, 0] == 0).int().tolist()
    assert visible == [
        [1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 0, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 1],
    ]
    assert set(batch.attention_mask.unique().tolist()) == {LOW, 0.0}


def test_a_reply_of_several_pairs_stands_in_the_row_once() -> None:
    pairs = [TokenPair(i, [7, 8], [5, 2], [6, i]) for i in range(4)]
    (row,) = pack(pairs, ["g"] * 4, 100)
    assert row.tokens == 2 + 2 + 4 * 2
    assert row.spans(0) == [[(2, 3), (end - 1, end)] for end in (5, 7, 9, 11)]


def test_where_nothing_is_shared_each_pair_has_a_row() -> None:
    pairs = [TokenPair(0, [7, 8], [5, 2], [6]), TokenPair(1, [7, 8, 9], [4], [5, 2])]
    rows = one_pair_each(pack(pairs, ["g", "g"], 100))
    found = {row.pairs[0].pair: (row.prompt, row.tokens, len(row.pairs)) for row in rows}
    assert found == {0: ([7, 8], 5, 1), 1: ([7, 8, 9], 6, 1)}


def test_rows_keep_to_their_group_their_prefix_and_their_size() -> None:
    pairs = [
        TokenPair(0, [7, 8], [1], [2]),
        TokenPair(1, [7, 8, 9], [1], [2]),
        TokenPair(2, [7, 7], [1], [2]),
        TokenPair(3, [7, 8], [1], [2]),
        TokenPair(4, [7, 8], [1, 1, 1], [2, 2, 2]),
    ]
    rows = pack(pairs, ["a", "a", "a", "b", "a"], 8)
    assert [[pair.pair for pair in row.pairs] for row in rows] == [[1, 0], [2], [4], [3]]
    assert [row.tokens for row in rows] == [7, 4, 8, 4]


def test_batches_hold_to_their_budget_unless_one_row_exceeds_it() -> None:
    rows = pack([TokenPair(i, [7] * n, [1], [2]) for i, n in enumerate([3, 1, 98, 2, 1])], list("abcde"), 50)
    assert [[row.tokens for row in chunk] for chunk in batches(rows, 10)] == [[3, 3], [4, 5], [100]]


@pytest.fixture
def dialogue() -> list[Pair]:
    turns = ["My bill is wrong", "Which line?", "The third", "I see", "Refund it please"]
    roles = ["user", "assistant", "user", "assistant", "user"]
    messages = [Message(role=role, content=text) for role, text in zip(roles, turns, strict=True)]
    after = {1: ("Which line?", ["No.", "Goodbye then, and thank you"]), 3: ("I see", ["No."]), 5: ("Done.", ["x"])}
    return [
        Pair(id=f"{end}{loser}", prompt=messages[:end], chosen=winner, rejected=loser, group="g")
        for end, (winner, losers) in after.items()
        for loser in losers
    ]


def test_packed_scores_are_those_of_separate_forward_passes(
    adapted: RewardModel, formatter: Formatter, dialogue: list[Pair]
) -> None:
    other = Pair(id="o", prompt=[Message(role="user", content="Hi")], chosen="Hello", rejected="No", group="h")
    pairs = [*dialogue, other]
    tokens = tokenize(pairs, formatter)
    rows = pack(tokens, [pair.group for pair in pairs], 512)
    assert [len(row.pairs) for row in rows] == [4, 1]
    scores = score_rows(adapted, rows)
    for number, pair in enumerate(tokens):
        for column, reply in enumerate([pair.chosen, pair.rejected]):
            ids = torch.tensor([pair.prompt + reply])
            with torch.inference_mode():
                alone = adapted(ids, torch.tensor([len(pair.prompt), ids.shape[1] - 1])).item()
            assert scores[number, column] == pytest.approx(alone, abs=1e-4)


def test_apart_gives_the_same_scores_with_nothing_shared(
    adapted: RewardModel, formatter: Formatter, dialogue: list[Pair]
) -> None:
    rows = pack(tokenize(dialogue, formatter), [pair.group for pair in dialogue], 512)
    shared, apart = collate(rows, 0), collate_apart(rows, 0)
    assert apart.input_ids.shape[0] == 2 * len(dialogue)
    with torch.inference_mode():
        expected = adapted(**shared._asdict())
        assert torch.allclose(adapted(**apart._asdict()), expected, atol=1e-4)
        adapted.pooling = "mean_completion_tokens"
        assert torch.allclose(adapted(**apart._asdict()), adapted(**shared._asdict()), atol=1e-4)
        assert not torch.allclose(adapted(**shared._asdict()), expected, atol=1e-2)


def test_replies_are_tokenised_as_serving_does(formatter: Formatter, dialogue: list[Pair], base: Path) -> None:
    first = tokenize(dialogue, formatter)[0]
    assert first.prompt == formatter.prompt_ids(dialogue[0].prompt)
    assert first.chosen == formatter.completion_ids(Completion(content="Which line?"))
