"""The fast path says what plain transformers says, whatever the batch, the cache and the way a text grew."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from reward_model.checkpoint.checkpoint import load_checkpoint
from reward_model.checkpoint.loaded_model import EnsembleModel, LoadedModel
from reward_model.checkpoint.manifest import Ensemble
from reward_model.checkpoint.sequence_classifier import load_sequence_classifier
from reward_model.model.reward_model import RewardModel
from reward_model.serving.engine import Engine
from reward_model.serving.forward.cascade_attention import Unsupported
from reward_model.serving.forward.packed import PackedScorer
from reward_model.serving.forward.pass_plan import Item
from reward_model.serving.metrics import ScorerMetrics
from reward_model.serving.settings import ScorerSettings
from reward_model.text.formatting import Completion, parse_messages

ROOMY = 1_000_000_000


@pytest.fixture(params=["last_completion_token", "mean_completion_tokens"])
def plain(request: Any, checkpoint: Path) -> LoadedModel:
    """The tiny model, run by transformers' own attention."""
    loaded = load_checkpoint(checkpoint, torch.float32)
    loaded.module.pooling = request.param
    return loaded


@pytest.fixture
def packed(plain: LoadedModel, checkpoint: Path) -> LoadedModel:
    """The same model again, for the fast path to change."""
    loaded = load_checkpoint(checkpoint, torch.float32)
    loaded.module.pooling = plain.module.pooling
    return loaded


def alone(plain: LoadedModel, item: Item) -> float:
    """The score of one sequence by itself, in one plain forward pass."""
    ids = torch.tensor([item.prompt + item.completion])
    spans = torch.tensor([[len(item.prompt), ids.shape[1] - 1]])
    with torch.no_grad():
        return float(plain.module(ids, spans=spans))


def some(chance: random.Random, least: int, most: int) -> tuple[int, ...]:
    return tuple(chance.randrange(3, 300) for _ in range(chance.randint(least, most)))


@pytest.mark.parametrize("seed", range(8))
def test_random_batches_score_as_each_text_alone(plain: LoadedModel, packed: LoadedModel, seed: int) -> None:
    chance = random.Random(seed)
    scorer = PackedScorer(packed, chance.choice([20_000, 100_000, ROOMY]))
    prompts = [some(chance, 0, 40) for _ in range(3)]
    for _ in range(4):
        items = [Item(chance.choice(prompts), some(chance, 1, 25)) for _ in range(chance.randint(1, 9))]
        items += [Item(prompt) for prompt in chance.sample(prompts, chance.randint(0, 2))]
        chance.shuffle(items)
        scores = scorer.score(items)[:, 0].tolist()
        for item, score in zip(items, scores, strict=True):
            assert score == pytest.approx(alone(plain, item) if item.completion else 0.0, abs=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_completions_that_grow_and_change_at_the_seam(plain: LoadedModel, packed: LoadedModel, seed: int) -> None:
    chance = random.Random(100 + seed)
    scorer = PackedScorer(packed, chance.choice([60_000, ROOMY]))
    prompt, closing = some(chance, 5, 30), 2
    texts = [some(chance, 10, 40) for _ in range(5)]
    cuts = [sorted(chance.sample(range(1, len(text)), 3)) for text in texts]
    for step in range(3):
        items = []
        for text, cut in zip(texts, cuts, strict=True):
            # The last tokens of a part are not those of the whole: a word was cut in two.
            part = text[: cut[step]][: -chance.randint(1, 2)] + some(chance, 0, 2)
            items.append(Item(prompt, (*part, closing), stable=len(part)))
        for item, score in zip(items, scorer.score(items)[:, 0].tolist(), strict=True):
            assert score == pytest.approx(alone(plain, item), abs=1e-4)
    whole = [Item(prompt, (*text, closing)) for text in texts]
    for item, score in zip(whole, scorer.score(whole)[:, 0].tolist(), strict=True):
        assert score == pytest.approx(alone(plain, item), abs=1e-4)


def computed_tokens(packed: LoadedModel) -> list[int]:
    """Filled with the tokens of each pass."""
    seen: list[int] = []
    embedding: torch.nn.Embedding = packed.module.get_submodule("backbone.embed_tokens")  # type: ignore[assignment]
    embedding.register_forward_hook(lambda _, given, __: seen.append(given[0].numel()))
    return seen


def test_only_what_is_new_is_computed(packed: LoadedModel) -> None:
    scorer = PackedScorer(packed, ROOMY)
    seen = computed_tokens(packed)
    prompt = tuple(range(3, 53))
    add = scorer.cost()
    assert [add(Item(prompt, (9,) * 4)), add(Item(prompt, (8,) * 5))] == [54, 59]
    scorer.score([Item(prompt)])
    assert scorer.cost()(Item(prompt, (9,) * 4)) == 4
    parts = [(60 + i, 70, 71, 72) for i in range(8)]
    scorer.score([Item(prompt, (*part, 2), stable=4) for part in parts])
    scorer.score([Item(prompt, (*part, 80, 81, 2)) for part in parts])
    assert seen == [50, 40, 24]
    assert scorer.reused == 50 + 50 + 8 * 4


def test_new_prompts_of_one_batch_compute_once_what_they_share(plain: LoadedModel, packed: LoadedModel) -> None:
    scorer = PackedScorer(packed, ROOMY)
    seen = computed_tokens(packed)
    instructions = tuple(range(100, 140))
    prompts = [(*instructions, *range(10 * i, 10 * i + 10)) for i in (1, 2, 3)]
    items = [Item(prompt, (60 + i, 70, 2)) for prompt in prompts for i in range(2)]
    add = scorer.cost()
    assert [add(item) for item in items] == [53, 56, 69, 72, 85, 88]
    scores = scorer.score(items)[:, 0].tolist()
    assert seen == [40 + 3 * 10 + 6 * 3]
    assert scores == pytest.approx([alone(plain, item) for item in items], abs=1e-4)
    # A fourth one finds the instructions, and the next turn of the first finds its prompt and its reply.
    scorer.score([Item((*instructions, *range(50, 60)))])
    scorer.score([Item(prompts[0], (80, 81, 82, 83, 2), stable=5)])
    scorer.score([Item((*prompts[0], 80, 81, 82, 83, 2, *range(200, 205)))])
    assert seen[1:] == [10, 5, 5]


def test_salts_share_nothing(packed: LoadedModel) -> None:
    scorer = PackedScorer(packed, ROOMY)
    seen = computed_tokens(packed)
    prompt = tuple(range(3, 53))
    items = [Item(prompt, (7, 8, 2), salt=salt) for salt in (None, "a", "b", "a")]
    add = scorer.cost()
    assert [add(item) for item in items] == [53, 106, 159, 160]
    scorer.score(items)
    assert seen == [3 * 53 + 1], "the same text twice differs in its last token alone"
    scorer.score([Item(prompt, salt="c")])
    assert seen[1:] == [50]


def test_a_prompt_that_is_read_ahead_twice_beside_others_is_nothing_new(
    plain: LoadedModel, packed: LoadedModel
) -> None:
    scorer, prompt, other = PackedScorer(packed, ROOMY), tuple(range(3, 53)), Item((60, 61), (62, 2))
    scorer.score([Item(prompt)])
    scores = scorer.score([Item(prompt), other, Item(prompt)])[:, 0].tolist()
    assert scores == pytest.approx([0, alone(plain, other), 0], abs=1e-4)


def test_memory_is_bounded_and_counted(packed: LoadedModel) -> None:
    # 2 layers x keys and values x 2 heads x 8 numbers x 4 bytes = 256 bytes a token; with a mean, a state of 128 more.
    token = 256 + (128 if packed.module.pooling == "mean_completion_tokens" else 0)
    scorer = PackedScorer(packed, token * 100)
    for start in range(20):
        prompt = tuple(at % 300 for at in range(40 * start, 40 * start + 30))
        scorer.score([Item(prompt, (7, 8, 9, 10, 2), stable=4), Item(prompt, (5, 2))])
        assert scorer.cache.nbytes == len(scorer.cache) * token <= 100 * token
    assert len(scorer.cache) == 3 * 34 - 4, "the last three prompts with what is stable, less the oldest leaf"
    assert scorer.cache.known((*prompt, 7, 8, 9, 10, 2)) == 34


texts = st.lists(st.sampled_from([(3, 3, 3, 3, 3), (4,), (5, 6, 7, 8), (9, 3)]), min_size=1, max_size=6).map(
    lambda runs: tuple(token for run in runs for token in run)
)
trees = st.builds(
    Item,
    prompt=texts,
    completion=st.one_of(texts, texts, st.just(())),
    stable=st.integers(0, 6),
    salt=st.sampled_from([None, None, "a"]),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.lists(trees, min_size=1, max_size=8), min_size=1, max_size=5), st.integers(0, 120))
def test_any_tree_of_prompts_scores_as_each_text_alone(
    plain: LoadedModel, packed: LoadedModel, batches: list[list[Item]], room: int
) -> None:
    scorer = PackedScorer(packed, room * 384)
    for drawn in batches:
        items = [replace(item, stable=min(item.stable, len(item.completion))) for item in drawn]
        for item, score in zip(items, scorer.score(items)[:, 0].tolist(), strict=True):
            assert score == pytest.approx(alone(plain, item) if item.completion else 0.0, abs=1e-4)
        assert scorer.cache.nbytes <= room * 384
        assert not scorer.cache._in_use
    scorer.give_back()


def test_a_prompt_larger_than_the_memory_is_kept_as_far_as_there_is_room(
    plain: LoadedModel, packed: LoadedModel
) -> None:
    scorer = PackedScorer(packed, 384 * 10)
    item = Item(tuple(range(3, 43)), (7, 8, 2), stable=2)
    assert scorer.score([item])[0, 0].item() == pytest.approx(alone(plain, item), abs=1e-4)
    assert scorer.cache.known(item.prompt) == len(scorer.cache) == 3840 // scorer._token_bytes
    assert scorer.score([item])[0, 0].item() == pytest.approx(alone(plain, item), abs=1e-4)


def test_ensembles_and_locales(plain: LoadedModel, packed: LoadedModel, checkpoint: Path) -> None:
    def ensemble(loaded: LoadedModel) -> LoadedModel:
        members = []
        for number in range(2):
            member = load_checkpoint(checkpoint, torch.float32).module
            assert isinstance(member, RewardModel)
            torch.manual_seed(number)
            heads = torch.nn.Linear(32, 3)
            assert isinstance(loaded.module, RewardModel)
            member.head, member.locales, member.pooling = heads, ("de", "fr"), loaded.module.pooling
            members.append(member)
        how = Ensemble(members=["0", "1"], deviations=0.5, means=[0.1, -0.2], scales=[1.5, 0.7])
        return replace(loaded, module=EnsembleModel(members, how).eval())

    slow, fast = ensemble(plain), PackedScorer(ensemble(packed), ROOMY)
    prompt = tuple(range(3, 20))
    items = [Item(prompt, (30 + i, 40, 2), locale) for i, locale in enumerate(["de", None, "fr-CA", "it"])]
    for _ in range(2):
        found = fast.score(items)
        for row, item in zip(found, items, strict=True):
            ids = torch.tensor([item.prompt + item.completion])
            spans = torch.tensor([[len(item.prompt), ids.shape[1] - 1]])
            assert isinstance(slow.module, EnsembleModel)
            with torch.no_grad():
                each = [
                    member(ids, spans=spans, locales=torch.tensor([member.locale_number(item.locale)]))  # type: ignore[operator]
                    for member in slow.module.members
                ]
            standard = [(float(each[0]) - 0.1) / 1.5, (float(each[1]) + 0.2) / 0.7]
            mean, deviation = sum(standard) / 2, abs(standard[0] - standard[1]) / 2
            assert row.tolist() == pytest.approx([mean - 0.5 * deviation, deviation], abs=1e-4)


TEXTS = [
    "Your refund 🧾 is on its way 👩‍👩‍👧, within 5 days.",
    "お客様のカードは停止されました。再発行には五日かかります。",
    "def refund(amount):\n    return  -amount  # why?\n\n\n\tok",
    "  two  spaces   and\u00a0more \n \n ends   ",
]


@pytest.mark.parametrize("text", TEXTS)
async def test_a_text_that_grows_by_characters_ends_with_the_score_of_the_whole(
    plain: LoadedModel, packed: LoadedModel, text: str
) -> None:
    engine = Engine(packed, ScorerSettings(), ScorerMetrics(CollectorRegistry()))
    engine.batcher.start()
    prompt = parse_messages([{"role": "user", "content": "Where is my refund? 🧾"}])
    formatter = plain.formatter
    try:
        for cut in (*range(1, len(text), 3), len(text)):
            part = Completion(content=text[:cut])
            growing = cut < len(text)
            found = await engine.score(prompt, [part], partial=growing)
            item = Item(tuple(formatter.prompt_ids(prompt)), tuple(formatter.completion_ids(part)))
            assert found.scores == pytest.approx([alone(plain, item)], abs=1e-4)
            assert (found.probabilities == [None]) is growing or plain.calibration is None
    finally:
        await engine.batcher.stop()


async def test_a_prompt_read_ahead_is_not_computed_again(packed: LoadedModel) -> None:
    registry = CollectorRegistry()
    engine = Engine(packed, ScorerSettings(), ScorerMetrics(registry))
    prompt = parse_messages([{"role": "user", "content": "Where is my refund?"}])
    engine.batcher.start()
    try:
        tokens = await engine.prefill(prompt)
        result = await engine.score(prompt, [Completion(content="On its way."), Completion(content="No.")])
        again = await engine.prefill(prompt)
    finally:
        await engine.batcher.stop()
    assert tokens == again == result.prompt_tokens
    assert registry.get_sample_value("winnow_scorer_prefix_tokens_total") == 0 + tokens
    assert registry.get_sample_value("winnow_scorer_batch_tokens_sum") == tokens + result.completion_tokens
    assert engine._packed is not None
    kept = (tokens + result.completion_tokens) * engine._packed._token_bytes
    assert registry.get_sample_value("winnow_scorer_prefix_cache_bytes") == kept


async def test_without_memory_every_text_is_whole(plain: LoadedModel, packed: LoadedModel) -> None:
    engine = Engine(packed, ScorerSettings(prefix_cache_mb=0), ScorerMetrics(CollectorRegistry()))
    prompt = parse_messages([{"role": "user", "content": "Where is my refund?"}])
    reply = Completion(content="On its way.")
    item = Item(tuple(plain.formatter.prompt_ids(prompt)), tuple(plain.formatter.completion_ids(reply)))
    engine.batcher.start()
    try:
        assert await engine.prefill(prompt) == len(item.prompt)
        assert (await engine.score(prompt, [reply])).scores == pytest.approx([alone(plain, item)], abs=1e-5)
    finally:
        await engine.batcher.stop()


def classifier(folder: Path, base: Path, kind: str, **changes: Any) -> LoadedModel:
    """A random sequence classifier with one label."""
    import transformers as hf

    torch.manual_seed(3)
    tokenizer = hf.AutoTokenizer.from_pretrained(base)
    shared = {"vocab_size": len(tokenizer), "num_labels": 1, "initializer_range": 0.2, "hidden_size": 32, **changes}
    shared |= {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = hf.AutoConfig.for_model(kind, **shared)
    hf.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_sequence_classifier(str(folder), torch.float32)


@pytest.mark.parametrize(("kind", "changes"), [("llama", {}), ("qwen3", {"head_dim": 16, "num_key_value_heads": 1})])
def test_anybodys_causal_classifier(base: Path, tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    plain = classifier(tmp_path / "plain", base, kind, **changes)
    packed = PackedScorer(classifier(tmp_path / "packed", base, kind, **changes), ROOMY)
    chance = random.Random(5)
    prompt = some(chance, 10, 20)
    items = [Item(prompt, (*some(chance, 1, 20), 2)) for _ in range(6)]
    expected = [plain.score([item.prompt + item.completion]).item() for item in items]
    assert len(set(expected)) == 6
    for _ in range(2):
        assert packed.score(items)[:, 0].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "changes"), [("bert", {}), ("mistral", {"sliding_window": 8, "num_key_value_heads": 2})]
)
def test_what_cannot_be_packed_is_scored_plainly(
    base: Path, tmp_path: Path, kind: str, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    loaded = classifier(tmp_path / kind, base, kind, **changes)
    ids = tuple(range(3, 30))
    expected = loaded.score([ids]).item()
    with pytest.raises(Unsupported):
        PackedScorer(loaded, ROOMY)
    engine = Engine(loaded, ScorerSettings(), ScorerMetrics(CollectorRegistry()))
    assert "scored without a prefix cache" in caplog.text
    assert engine._forward([Item(ids[:20], ids[20:])])[0].value == pytest.approx(expected, abs=1e-5)


async def test_the_prefix_cache_is_given_up_before_a_pass_that_does_not_fit_fails(packed: LoadedModel) -> None:
    engine = Engine(packed, ScorerSettings(), ScorerMetrics(CollectorRegistry()))
    assert engine._packed is not None
    scorer, prompt = engine._packed, tuple(range(3, 30))
    engine._forward([Item(prompt)])
    assert len(scorer.cache) == 27

    def full(*_: Any) -> None:
        if len(scorer.cache):
            raise torch.OutOfMemoryError("CUDA out of memory")

    packed.module.get_submodule("backbone").register_forward_pre_hook(full)
    engine._forward([Item(tuple(range(3, 40)), (5, 2))])
    assert engine._failed is False
    assert len(scorer.cache) == 37, "the same prompt and more, read again"
