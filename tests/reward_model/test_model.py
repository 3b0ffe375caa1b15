from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reward_model.model import RewardModel, load_backbone

IDS = torch.tensor([[5, 9, 30, 41, 7, 2], [8, 8, 12, 2, 0, 0]])
ENDS = torch.tensor([5, 6 + 3])


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_scores_are_the_head_on_transformers_own_hidden_states(base: Path, layers: int) -> None:
    from transformers import AutoModel

    model = RewardModel(load_backbone(base, layers, torch.float32), 32).eval()
    whole = AutoModel.from_pretrained(str(base), dtype=torch.float32).eval()
    with torch.inference_mode():
        scores = model(IDS, ENDS)
        for row, length in enumerate([6, 4]):
            out = whole(input_ids=IDS[row : row + 1, :length], output_hidden_states=True)
            # transformers lists the states before each layer, and the last one after the final norm.
            state = out.last_hidden_state if layers == 3 else whole.norm(out.hidden_states[layers])
            expected = state[0, -1] @ model.head.weight[0] + model.head.bias[0]
            assert scores[row].item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_fresh_head_scores_near_zero(base: Path) -> None:
    model = RewardModel(load_backbone(base, 2, torch.float32), 32).eval()
    with torch.inference_mode():
        assert model(IDS, ENDS).abs().max() < 1


def test_the_head_stays_in_fp32_under_autocast(base: Path) -> None:
    model = RewardModel(load_backbone(base, 2, torch.bfloat16), 32).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        scores = model(IDS, ENDS)
    assert scores.dtype == torch.float32
    assert not torch.equal(scores, scores.bfloat16().float())


def test_more_layers_than_there_are_is_an_error(base: Path) -> None:
    with pytest.raises(ValueError, match="3 layers; 4"):
        load_backbone(base, 4, torch.float32)
