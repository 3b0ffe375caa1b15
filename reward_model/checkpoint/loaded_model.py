"""A reward model ready to score token sequences: one model, or an ensemble's conservative score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reward_model.calibration import Calibration
from reward_model.checkpoint.manifest import Ensemble, Manifest
from reward_model.model.reward_model import RewardModel
from reward_model.text.formatting import Formatter


@dataclass(frozen=True)
class LoadedModel:
    """A reward model ready to score, whatever its architecture."""

    id: str
    formatter: Formatter
    module: nn.Module
    calibration: Calibration | None
    manifest: Manifest | None
    device: torch.device

    def score(self, sequences: Sequence[Sequence[int]], locales: Sequence[str | None] | None = None) -> Tensor:
        """Raw scores [B] in fp32 on the CPU for B token sequences of any lengths: an ensemble's conservative ones."""
        return self.score_members(sequences, locales)[:, 0]

    @torch.inference_mode()
    def score_members(self, sequences: Sequence[Sequence[int]], locales: Sequence[str | None] | None = None) -> Tensor:
        """[B, 2]: the score, and by how much an ensemble's members disagree (their deviation; 0 for one model)."""
        lengths = torch.tensor([len(ids) for ids in sequences])
        padded = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.long)
        for row, ids in zip(padded, sequences, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        # Padding is on the right of a causal model, where no real token looks: it needs no mask.
        begins = torch.arange(len(sequences)) * padded.shape[1]
        starts = torch.tensor([self.formatter.completion_start(ids) for ids in sequences])
        spans = torch.stack([begins + starts, begins + lengths - 1], dim=1).to(self.device)
        members = self.module.members if isinstance(self.module, EnsembleModel) else [self.module]
        each = [_scores_of(member, padded.to(self.device), spans, lengths, locales) for member in members]
        return self.combined(torch.stack(each, dim=1))

    def combined(self, scores: Tensor) -> Tensor:
        """[B, members] to [B, 2] in fp32 on the CPU: an ensemble's conservative score, or the only model's, clipped
        as the checkpoint says; and the disagreement."""
        if isinstance(self.module, EnsembleModel):
            found = self.module.combine(scores).float().cpu()
        else:
            found = torch.stack([scores[:, 0], torch.zeros_like(scores[:, 0])], dim=1).float().cpu()
        if self.manifest is not None and self.manifest.score_clip is not None:
            found[:, 0].clamp_(*self.manifest.score_clip)
        return found


class EnsembleModel(nn.Module):
    """Several reward models, one score: mean - k * deviation (Coste et al., 2024, worst-case flavour)."""

    def __init__(self, members: Sequence[nn.Module], how: Ensemble) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.how = how

    def combine(self, scores: Tensor) -> Tensor:
        """[B, members] to [B, 2]: the conservative score, and the members' population deviation."""
        means, scales = scores.new_tensor(self.how.means), scores.new_tensor(self.how.scales)
        standard = (scores - means) / scales
        deviation = standard.std(dim=1, correction=0)
        return torch.stack([standard.mean(dim=1) - self.how.deviations * deviation, deviation], dim=1)


def _scores_of(
    module: nn.Module, ids: Tensor, spans: Tensor, lengths: Tensor, locales: Sequence[str | None] | None
) -> Tensor:
    extra: dict[str, Tensor] = {}
    if isinstance(module, RewardModel):
        if module.encoder:
            # In an encoder a token sees what is on its right, so the padding has to be masked.
            extra["attention_mask"] = (torch.arange(ids.shape[1]) < lengths.unsqueeze(1)).long().to(ids.device)
        if locales is not None and module.locales:
            extra["locales"] = torch.tensor([module.locale_number(name) for name in locales], device=ids.device)
    scores: Tensor = module(ids, spans=spans, **extra)
    return scores
