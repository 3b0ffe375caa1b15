from __future__ import annotations

import pytest
import torch

from reward_model.training.losses import bradley_terry, pair_accuracy


@pytest.mark.parametrize(
    ("margin", "expected"),
    # -ln(1 / (1 + exp(-d))): ln 2 at 0, 0.126928 at 2, 2.126928 at -2, 1000 at -1000.
    [(0.0, 0.693147), (2.0, 0.126928), (-2.0, 2.126928), (-1000.0, 1000.0)],
)
def test_bradley_terry_by_hand(margin: float, expected: float) -> None:
    loss = bradley_terry(torch.tensor([3.0 + margin]), torch.tensor([3.0]))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_the_loss_is_the_mean_and_pulls_the_replies_apart() -> None:
    chosen = torch.tensor([0.0, 2.0], requires_grad=True)
    rejected = torch.tensor([0.0, 0.0], requires_grad=True)
    loss = bradley_terry(chosen, rejected)
    assert loss.item() == pytest.approx((0.693147 + 0.126928) / 2, abs=1e-6)
    loss.backward()
    # d loss / d chosen = -(1 - sigmoid(d)) / 2.
    assert chosen.grad is not None
    assert chosen.grad.tolist() == pytest.approx([-0.25, -0.0596015], abs=1e-6)
    assert rejected.grad is not None
    assert torch.equal(rejected.grad, -chosen.grad)


def test_the_loss_is_trl_s() -> None:
    from torch.nn.functional import logsigmoid

    generator = torch.Generator().manual_seed(0)
    chosen, rejected = torch.randn(2, 64, generator=generator)
    # RewardTrainer.compute_loss without margin.
    assert bradley_terry(chosen, rejected).item() == pytest.approx(-logsigmoid(chosen - rejected).mean().item())


def test_equal_scores_count_half() -> None:
    assert pair_accuracy(torch.tensor([1.0, 0.0, 2.0, 5.0]), torch.tensor([0.0, 1.0, 2.0, 4.0])) == 0.625
