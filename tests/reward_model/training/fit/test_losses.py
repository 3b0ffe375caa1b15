"""Every loss against values worked out by hand, and TRL's trainer as an independent reference."""

from __future__ import annotations

from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reward_model.training.fit.losses import (
    LossRecipe,
    RecentPairs,
    Targets,
    bradley_terry,
    centering,
    davidson,
    length_correlation,
    pair_accuracy,
    pair_loss,
    rao_kupper,
    regression,
)


def targets(pairs: int, **known: Any) -> Targets:
    blank = Targets(
        margin=torch.zeros(pairs),
        strength=torch.ones(pairs),
        tie=torch.zeros(pairs, dtype=torch.bool),
        lengths=torch.ones(pairs, 2),
        ratings=torch.full((pairs, 2), float("nan")),
        acceptable=torch.full((pairs, 2), float("nan")),
    )
    return blank._replace(**known)


@pytest.mark.parametrize(
    ("gap", "expected"),
    # -ln(1 / (1 + exp(-d))): ln 2 at 0, 0.126928 at 2, 2.126928 at -2, 1000 at -1000.
    [(0.0, 0.693147), (2.0, 0.126928), (-2.0, 2.126928), (-1000.0, 1000.0)],
)
def test_bradley_terry_by_hand(gap: float, expected: float) -> None:
    assert bradley_terry(torch.tensor([gap])).item() == pytest.approx(expected, abs=1e-6)


def test_the_loss_is_the_mean_and_pulls_the_replies_apart() -> None:
    scores = torch.tensor([[0.0, 0.0], [2.0, 0.0]], requires_grad=True)
    loss = pair_loss(LossRecipe(), scores, targets(2))
    assert loss.item() == pytest.approx((0.693147 + 0.126928) / 2, abs=1e-6)
    loss.backward()
    assert scores.grad is not None
    # d loss / d chosen = -(1 - sigmoid(d)) / 2.
    assert scores.grad[:, 0].tolist() == pytest.approx([-0.25, -0.0596015], abs=1e-6)
    assert torch.equal(scores.grad[:, 1], -scores.grad[:, 0])


def test_a_margin_asks_for_more() -> None:
    # Gap 2 less 0.5 * 4 is 0.
    loss = pair_loss(LossRecipe(margin=0.5), torch.tensor([[2.0, 0.0]]), targets(1, margin=torch.tensor([4.0])))
    assert loss.item() == pytest.approx(log(2))


def test_soft_labels_and_ties_are_mixtures_of_both_outcomes() -> None:
    scores, strength = torch.tensor([[1.0, 0.0]]), torch.tensor([0.75])
    # 0.75 * 0.313262 + 0.25 * 1.313262.
    soft = pair_loss(LossRecipe(soft_labels=True), scores, targets(1, strength=strength))
    assert soft.item() == pytest.approx(0.563262, abs=1e-6)
    # Without soft labels the strength is not looked at.
    assert pair_loss(LossRecipe(), scores, targets(1, strength=strength)).item() == pytest.approx(0.313262, abs=1e-6)
    tie = pair_loss(LossRecipe(), scores, targets(1, tie=torch.tensor([True])))
    assert tie.item() == pytest.approx((0.313262 + 1.313262) / 2, abs=1e-6)


@pytest.mark.parametrize("gap", [-3.0, 0.0, 0.7])
def test_rao_kupper_s_three_outcomes_are_his_and_add_up(gap: float) -> None:
    theta = exp(0.5)
    win = exp(gap) / (exp(gap) + theta)
    loss = 1 / (1 + theta * exp(gap))
    tensor = torch.tensor([gap], dtype=torch.float64)
    found = [
        rao_kupper(sign * tensor, torch.tensor([tie]), 0.5).neg().exp().item()
        for sign, tie in ((1, False), (-1, False), (1, True))
    ]
    assert found == pytest.approx([win, loss, 1 - win - loss])


@pytest.mark.parametrize("gap", [-3.0, 0.0, 0.7])
def test_davidson_s_three_outcomes_are_his_and_add_up(gap: float) -> None:
    # Worths e^gap and 1: their geometric mean carries the tie.
    whole = exp(gap) + 1 + 0.8 * exp(gap / 2)
    tensor = torch.tensor([gap], dtype=torch.float64)
    found = [
        davidson(sign * tensor, torch.tensor([tie]), 0.8).neg().exp().item()
        for sign, tie in ((1, False), (-1, False), (1, True))
    ]
    assert found == pytest.approx([exp(gap) / whole, 1 / whole, 0.8 * exp(gap / 2) / whole])


@pytest.mark.parametrize("kind", ["rao_kupper", "davidson"])
@pytest.mark.parametrize("tie", [True, False])
def test_far_scores_keep_a_finite_gradient(kind: Any, tie: bool) -> None:
    scores = torch.tensor([[300.0, 0.0], [0.0, 300.0]], requires_grad=True)
    pair_loss(LossRecipe(kind=kind), scores, targets(2, tie=torch.tensor([tie, tie]))).backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


_NONE = float("nan")


@pytest.mark.parametrize(
    ("acceptable", "tie", "expected"),
    # Utilities ln 2, 0 and 0 for chosen, rejected and sending neither: weights 2, 1 and 1.
    [
        # Bradley-Terry: 2 / 3.
        ((_NONE, _NONE), False, 2 / 3),
        # chosen, neither, rejected: 2/4 * 1/2. chosen, rejected, neither: the same.
        # neither, chosen, rejected: 1/4 * 2/3.
        ((1.0, 0.0), False, 1 / 4),
        ((1.0, 1.0), False, 1 / 4),
        ((0.0, 0.0), False, 1 / 6),
        # With one label, both orders of the other: the three above are all that a win can be.
        ((1.0, _NONE), False, 1 / 2),
        ((0.0, _NONE), False, 1 / 6),
        ((_NONE, 1.0), False, 1 / 4),
        ((_NONE, 0.0), False, 5 / 12),
        # A tie says nothing of the order: rejected, chosen, neither is 1/4 * 2/3 more.
        ((_NONE, _NONE), True, 1.0),
        ((1.0, 1.0), True, 5 / 12),
        ((0.0, 0.0), True, 1 / 4),
        # A label alone: sigmoid(ln 2).
        ((1.0, _NONE), True, 2 / 3),
        ((0.0, _NONE), True, 1 / 3),
    ],
)
def test_the_outside_option_by_hand(acceptable: tuple[float, float], tie: bool, expected: float) -> None:
    scores = torch.tensor([[log(2), 0.0]], requires_grad=True)
    known = targets(1, acceptable=torch.tensor([acceptable]), tie=torch.tensor([tie]))
    loss = pair_loss(LossRecipe(kind="outside_option"), scores, known)
    assert exp(-loss.item()) == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert scores.grad is not None
    assert bool(scores.grad.isfinite().all())


def test_the_outside_option_takes_annotators_into_account_unless_labels_overrule_them() -> None:
    scores, strength = torch.tensor([[log(2), 0.0]]), torch.tensor([0.75])
    recipe = LossRecipe(kind="outside_option", soft_labels=True)
    # 0.75 ln(2/3) + 0.25 ln(1/3).
    plain = pair_loss(recipe, scores, targets(1, strength=strength))
    assert plain.item() == pytest.approx(-(0.75 * log(2 / 3) + 0.25 * log(1 / 3)), abs=1e-6)
    labelled = targets(1, strength=strength, acceptable=torch.tensor([[1.0, 0.0]]))
    assert pair_loss(recipe, scores, labelled).item() == pytest.approx(log(4), abs=1e-6)


def test_the_outside_option_gives_the_score_a_zero() -> None:
    """Pairs alone leave a prompt's level free; labels fix it: an acceptable reply scores above zero, others below."""
    scores = torch.zeros(2, 2, requires_grad=True)
    # One prompt where even the better reply would not be sent, one where both would be.
    known = targets(2, acceptable=torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    optimiser = torch.optim.SGD([scores], lr=0.5)
    for _ in range(50):
        optimiser.zero_grad()
        pair_loss(LossRecipe(kind="outside_option"), scores, known).backward()
        optimiser.step()
    (hopeless, good) = scores.detach()
    assert hopeless[0] > hopeless[1]
    assert good[0] > good[1]
    assert float(hopeless.max()) < -0.5
    assert float(good.min()) > 0.5


def test_pointwise_reads_labels_alone() -> None:
    scores = torch.tensor([[log(2), 0.0], [5.0, -5.0]])
    labels = torch.tensor([[1.0, 0.0], [_NONE, _NONE]])
    loss = pair_loss(LossRecipe(kind="pointwise"), scores, targets(2, acceptable=labels))
    # (-ln 2/3 - ln 1/2) / 2 for the first, nothing for the second.
    assert loss.item() == pytest.approx((log(3 / 2) + log(2)) / 2 / 2, abs=1e-6)


def test_regression_reads_the_ratings_there_are() -> None:
    nan = float("nan")
    ratings = torch.tensor([[5.0, 1.0], [4.0, nan], [nan, nan]])
    scores = torch.tensor([[1.0, -1.0], [0.0, 9.0], [7.0, 7.0]])
    # (1 - 2)^2 and (-1 + 2)^2; (0 - 1)^2 alone; nothing.
    assert regression(scores, ratings).tolist() == pytest.approx([1.0, 1.0, 0.0])
    assert pair_loss(LossRecipe(kind="regression"), scores, targets(3, ratings=ratings)).item() == pytest.approx(2 / 3)


def test_centring_by_hand() -> None:
    scores = torch.tensor([[1.0, 2.0], [-1.0, 1.0]])
    assert centering(scores).item() == pytest.approx((9 + 0) / 2)
    plain = pair_loss(LossRecipe(), scores, targets(2)).item()
    assert pair_loss(LossRecipe(centering=0.1), scores, targets(2)).item() == pytest.approx(plain + 0.45)


def test_length_correlation_is_numpy_s_over_pairs_in_both_orders() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, lengths = (
        torch.randn(30, 2, generator=generator),
        torch.randint(1, 90, (30, 2), generator=generator).float(),
    )
    gaps, longer = (scores[:, 0] - scores[:, 1]).numpy(), lengths.log().diff(dim=1).neg().squeeze().numpy()
    expected = np.corrcoef(np.concatenate([gaps, -gaps]), np.concatenate([longer, -longer]))[0, 1]
    assert length_correlation(scores, lengths).item() == pytest.approx(expected, abs=1e-5)
    known = targets(30, lengths=lengths)
    more = pair_loss(LossRecipe(length_decorrelation=2.0), scores, known) - pair_loss(LossRecipe(), scores, known)
    assert more.item() == pytest.approx(2 * expected**2, abs=1e-5)


def test_pairs_of_equal_lengths_have_no_correlation_and_a_finite_gradient() -> None:
    scores = torch.tensor([[1.0, 0.0], [0.5, 2.0]], requires_grad=True)
    known = targets(2, lengths=torch.tensor([[7.0, 7.0], [9.0, 9.0]]))
    pair_loss(LossRecipe(length_decorrelation=1.0), scores, known, RecentPairs()).backward()
    plain = scores.detach().clone().requires_grad_()
    pair_loss(LossRecipe(), plain, known).backward()
    assert scores.grad is not None
    assert plain.grad is not None
    assert torch.equal(scores.grad, plain.grad)


def test_one_pair_a_batch_is_decorrelated_over_the_pairs_before_it() -> None:
    # The longer reply has won twice by 1; the gaps of log lengths are 1 and 1, then -1.
    recipe, recent = LossRecipe(length_decorrelation=1.0), RecentPairs()
    e = exp(1)
    for _ in range(2):
        pair_loss(recipe, torch.tensor([[1.0, 0.0]]), targets(1, lengths=torch.tensor([[e, 1.0]])), recent)
    scores = torch.tensor([[1.0, 0.0]], requires_grad=True)
    known = targets(1, lengths=torch.tensor([[1.0, e]]))
    loss = pair_loss(recipe, scores, known, recent) - bradley_terry(scores[:, 0] - scores[:, 1]).mean()
    # rho = (1 + 1 - g) / sqrt((2 + g^2) * 3) at g = 1 is 1/3; d rho^2 / dg = 2 rho (-1/3 - 1/9); times 3 pairs over 1.
    assert loss.item() == pytest.approx(1 / 9, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient[0].tolist() == pytest.approx([-8 / 9, 8 / 9], abs=1e-5)


def test_only_the_last_pairs_are_remembered() -> None:
    recent = RecentPairs(size=2)
    recent.joined(torch.tensor([1.0, 2.0]), torch.zeros(2))
    recent.joined(torch.tensor([3.0], requires_grad=True), torch.zeros(1))
    assert recent.gaps.tolist() == [2.0, 3.0]
    assert not recent.gaps.requires_grad


def test_equal_scores_count_half() -> None:
    assert pair_accuracy(torch.tensor([1.0, 0.0, 2.0, 5.0]), torch.tensor([0.0, 1.0, 2.0, 4.0])) == 0.625


@pytest.mark.parametrize("weight", [None, 0.3])
def test_trl_s_trainer_gives_the_same_batch_the_same_loss_and_accuracy(
    base: Path, tmp_path: Path, weight: float | None
) -> None:
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    torch.manual_seed(0)
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = tokenizer.pad_token_id
    ids = torch.randint(10, 60, (6, 2, 9), generator=torch.Generator().manual_seed(1))
    rows = [{"chosen_ids": pair[0].tolist(), "rejected_ids": pair[1].tolist()} for pair in ids]
    config = RewardConfig(
        output_dir=str(tmp_path), center_rewards_coefficient=weight, report_to=[], use_cpu=True, bf16=False
    )
    trainer = RewardTrainer(model=model, args=config, processing_class=tokenizer, train_dataset=Dataset.from_list(rows))
    batch = trainer.data_collator(rows)
    model.train()
    theirs = trainer.compute_loss(model, batch)
    with torch.no_grad():
        scores = torch.stack([model(ids[:, side]).logits.squeeze(1) for side in (0, 1)], dim=1)
    ours = pair_loss(LossRecipe(centering=weight or 0.0), scores, targets(6))
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    logged = trainer._metrics["train"]["accuracy"]
    assert pair_accuracy(scores[:, 0], scores[:, 1]) == pytest.approx(logged[-1])
