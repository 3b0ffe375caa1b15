"""The losses of a reward model on preference pairs, all of one module, chosen by a recipe's [loss] section."""

from __future__ import annotations

from itertools import permutations
from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

Kind = Literal["bradley_terry", "rao_kupper", "davidson", "regression", "pointwise", "outside_option"]
# Ratings run from 1 to 5; scores are centred on their middle.
_MIDDLE_RATING = 3.0


class LossRecipe(BaseModel):
    """Which loss, and what is added to it."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind = Field(
        "bradley_terry",
        description="`rao_kupper` and `davidson` also learn from ties; `pointwise` learns from acceptable and not "
        "acceptable replies alone, `outside_option` from them and from pairs, so that a score of 0 means that a reply "
        "would be sent as often as not.",
    )
    margin: float = Field(0.0, ge=0, description="Score gap asked for each unit of a pair's annotated margin.")
    soft_labels: bool = Field(False, description="Take `strength`, the share of annotators who agreed, as the label.")
    tie: float = Field(0.5, gt=0, description="Width of a tie: Rao-Kupper's log theta, or Davidson's nu.")
    centering: float = Field(0.0, ge=0, description="Weight of (r_w + r_l)^2, which holds scores around zero.")
    length_decorrelation: float = Field(
        0.0, ge=0, description="Weight of the squared correlation of score gaps with length gaps over recent pairs."
    )


class Targets(NamedTuple):
    """What is known of P pairs: margin [P] (0: none), strength [P], tie [P] (bool), lengths [P, 2] in tokens, ratings
    [P, 2] and acceptable [P, 2] (1, 0; not a number: none) of (chosen, rejected)."""

    margin: Tensor
    strength: Tensor
    tie: Tensor
    lengths: Tensor
    ratings: Tensor
    acceptable: Tensor


class RecentPairs:
    """Score gaps and length gaps of the last pairs, without gradient: a batch of one pair has no correlation."""

    def __init__(self, size: int = 256) -> None:
        self.size = size
        self.gaps = torch.zeros(0)
        self.longer = torch.zeros(0)

    def joined(self, gaps: Tensor, longer: Tensor) -> tuple[Tensor, Tensor]:
        """The batch's own behind the recent ones, which it joins."""
        device = gaps.device
        joined = torch.cat([self.gaps.to(device), gaps]), torch.cat([self.longer.to(device), longer.to(device)])
        self.gaps, self.longer = (values.detach()[-self.size :] for values in joined)
        return joined


def pair_loss(recipe: LossRecipe, scores: Tensor, targets: Targets, recent: RecentPairs | None = None) -> Tensor:
    """Mean loss over pairs; `scores` [P, 2] of (chosen, rejected). With `recent`, lengths are decorrelated over more
    pairs than these."""
    loss = _per_pair(recipe, scores, targets).mean()
    if recipe.centering:
        loss = loss + recipe.centering * centering(scores)
    if recipe.length_decorrelation:
        loss = loss + recipe.length_decorrelation * _length_penalty(scores, targets.lengths, recent)
    return loss


def _per_pair(recipe: LossRecipe, scores: Tensor, targets: Targets) -> Tensor:
    if recipe.kind == "regression":
        return regression(scores, targets.ratings)
    if recipe.kind == "pointwise":
        return pointwise(scores, targets.acceptable)
    if recipe.kind == "outside_option":
        strength = targets.strength if recipe.soft_labels else torch.ones_like(targets.strength)
        return outside_option(scores, targets.acceptable, targets.tie, strength)
    gap = scores[:, 0] - scores[:, 1] - recipe.margin * targets.margin
    strength = targets.strength if recipe.soft_labels else torch.ones_like(gap)
    if recipe.kind == "rao_kupper":
        return rao_kupper(gap, targets.tie, recipe.tie, strength)
    if recipe.kind == "davidson":
        return davidson(gap, targets.tie, recipe.tie, strength)
    # Without a place for ties, a tie is a pair that either reply would win half the time.
    return bradley_terry(gap, torch.where(targets.tie, 0.5, strength))


def bradley_terry(gap: Tensor, strength: Tensor | float = 1.0) -> Tensor:
    """-s log sigmoid(gap) - (1 - s) log sigmoid(-gap), [P] (Bradley and Terry, 1952; s = 1 is the usual loss)."""
    return -strength * logsigmoid(gap) - (1 - strength) * logsigmoid(-gap)


def rao_kupper(gap: Tensor, tie: Tensor, width: float, strength: Tensor | float = 1.0) -> Tensor:
    """-log P, [P], with P(win) = sigmoid(gap - width) and P(tie) what both wins leave (Rao and Kupper, 1967).

    `width` is log theta > 0; at 0 there are no ties and it is Bradley-Terry's.
    """
    win, loss = logsigmoid(gap - width), logsigmoid(-gap - width)
    # P(tie) = (theta^2 - 1) P(win) P(loss): stable, where 1 - P(win) - P(loss) cancels.
    draw = torch.log(torch.expm1(torch.tensor(2 * width, dtype=gap.dtype))) + win + loss
    return -torch.where(tie, draw, strength * win + (1 - strength) * loss)


def davidson(gap: Tensor, tie: Tensor, nu: float, strength: Tensor | float = 1.0) -> Tensor:
    """-log P, [P], over (win, loss, tie) proportional to e^(gap/2), e^(-gap/2) and nu (Davidson, 1970)."""
    level = torch.full_like(gap, nu).log()
    win, loss, draw = log_softmax(torch.stack([gap / 2, -gap / 2, level]), dim=0)
    return -torch.where(tie, draw, strength * win + (1 - strength) * loss)


def regression(scores: Tensor, ratings: Tensor) -> Tensor:
    """Squared error, [P], of scores against ratings from 1 to 5 less their middle, over the replies that have one."""
    known = ~ratings.isnan()
    errors = torch.where(known, scores - (ratings.nan_to_num(_MIDDLE_RATING) - _MIDDLE_RATING), 0.0)
    return (errors**2).sum(1) / known.sum(1).clamp(min=1)


def pointwise(scores: Tensor, acceptable: Tensor) -> Tensor:
    """-log P of the labels there are, [P], with P(acceptable) = sigmoid(score)."""
    known = ~acceptable.isnan()
    logits = torch.where(acceptable > 0.5, scores, -scores)
    return -torch.where(known, logsigmoid(logits), 0.0).sum(1) / known.sum(1).clamp(min=1)


# The orders of (chosen, rejected, sending neither), best first.
_IMPOSSIBLE = -1e9
_ORDERS = torch.tensor(list(permutations(range(3))))


def outside_option(scores: Tensor, acceptable: Tensor, tie: Tensor, strength: Tensor) -> Tensor:
    """-log P, [P], of what is known of the order of both replies and a third option, sending neither, of utility 0.

    Orders follow Plackett and Luce (1975): the best is drawn with probability proportional to e^utility, then the best
    of the rest. A pair says that the chosen reply comes before the rejected one, a label whether a reply comes before
    the third option; what is not known is summed over. So a pair without labels is Bradley-Terry's, a label alone
    has P(acceptable) = sigmoid(score), and a tie without labels says nothing. (The outside option of discrete choice,
    in a reward model: arXiv 2510.04087.)
    """
    utilities = torch.cat([scores, torch.zeros_like(scores[:, :1])], dim=1)
    orders = _ORDERS.to(scores.device)
    ordered = utilities[:, orders]
    # log of e^u / (e^u + the rest's), for the first and the second place; the last is certain.
    log_p = ordered[..., :2].sum(-1) - ordered.logsumexp(-1) - ordered[..., 1:].logsumexp(-1)
    place = orders.argsort(1)
    fits = torch.ones_like(log_p, dtype=torch.bool)
    for reply in (0, 1):
        before_neither = place[:, reply] < place[:, 2]
        label = acceptable[:, reply, None]
        fits &= label.isnan() | (before_neither == (label > 0.5))
    wins = place[:, 0] < place[:, 1]
    # Labels that exclude a loss overrule the annotators who saw one.
    strength = torch.where((fits & ~wins).any(1), strength, 1.0)
    of_win, of_loss = _log_sum(log_p, fits & wins), _log_sum(log_p, fits & ~wins)
    return -torch.where(tie, _log_sum(log_p, fits), strength * of_win + (1 - strength) * of_loss)


def _log_sum(log_p: Tensor, chosen: Tensor) -> Tensor:
    # Not minus infinity: where no order is chosen its gradient is no number.
    return log_p.masked_fill(~chosen, _IMPOSSIBLE).logsumexp(-1)


def centering(scores: Tensor) -> Tensor:
    """Mean of (r_w + r_l)^2 (Eisenstein et al., 2023)."""
    return (scores.sum(1) ** 2).mean()


def length_correlation(scores: Tensor, lengths: Tensor) -> Tensor:
    """Correlation over a batch of r_w - r_l with the gap of log lengths; 0 if all lengths are equal.

    A pair has no natural order, so each counts in both: the means are then zero by themselves. ODIN (Chen et al.,
    2024) penalises the same correlation over single replies.
    """
    return _correlation(*_length_gaps(scores, lengths))


def _length_gaps(scores: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    longer = lengths[:, 0].clamp(min=1).log() - lengths[:, 1].clamp(min=1).log()
    return scores[:, 0] - scores[:, 1], longer


def _correlation(gaps: Tensor, longer: Tensor) -> Tensor:
    # Held above zero under the root: at zero its gradient is infinite, and 0 * infinity is no number.
    return (gaps * longer).sum() / (gaps.square().sum() * longer.square().sum()).clamp(min=1e-12).sqrt()


def _length_penalty(scores: Tensor, lengths: Tensor, recent: RecentPairs | None) -> Tensor:
    gaps, longer = _length_gaps(scores, lengths)
    if recent is None:
        return _correlation(gaps, longer) ** 2
    joined = recent.joined(gaps, longer)
    penalty = _correlation(*joined) ** 2
    # The batch holds P of N pairs, and with them about P / N of the gradient: it stands for all of them.
    return penalty.detach() + (penalty - penalty.detach()) * (len(joined[0]) / len(gaps))


def pair_accuracy(chosen: Tensor, rejected: Tensor) -> float:
    """Share of pairs whose winner scores higher; equal scores count half."""
    return float(((chosen > rejected).float() + 0.5 * (chosen == rejected).float()).mean())
