from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reward_model.model.reward_model import RewardModel, load_backbone

IDS = torch.tensor([[5, 9, 30, 41, 7, 2], [8, 8, 12, 2, 0, 0]])
# First and last places of the replies in the flattened rows.
SPANS = torch.tensor([[3, 5], [6 + 1, 6 + 3]])


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_scores_are_the_head_on_transformers_own_hidden_states(base: Path, layers: int) -> None:
    from transformers import AutoModel

    model = RewardModel(load_backbone(base, layers, torch.float32), 32).eval()
    whole = AutoModel.from_pretrained(str(base), dtype=torch.float32).eval()
    with torch.inference_mode():
        scores = model(IDS, SPANS)
        for row, length in enumerate([6, 4]):
            out = whole(input_ids=IDS[row : row + 1, :length], output_hidden_states=True)
            # transformers lists the states before each layer, and the last one after the final norm.
            state = out.last_hidden_state if layers == 3 else whole.norm(out.hidden_states[layers])
            expected = state[0, -1] @ model.head.weight[0] + model.head.bias[0]
            assert scores[row].item() == pytest.approx(expected.item(), abs=1e-5)


def test_mean_pooling_is_the_head_on_the_mean_of_the_reply_s_states(base: Path) -> None:
    from transformers import AutoModel

    model = RewardModel(load_backbone(base, 3, torch.float32), 32, "mean_completion_tokens").eval()
    whole = AutoModel.from_pretrained(str(base), dtype=torch.float32).eval()
    with torch.inference_mode():
        scores = model(IDS, SPANS)
        for row, (first, last) in enumerate([(3, 5), (1, 3)]):
            states = whole(input_ids=IDS[row : row + 1, : last + 1]).last_hidden_state[0, first:]
            expected = states.mean(0) @ model.head.weight[0] + model.head.bias[0]
            assert scores[row].item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_locale_s_head_corrects_the_shared_score(base: Path) -> None:
    model = RewardModel(load_backbone(base, 2, torch.float32), 32, locales=["de", "fr"]).eval()
    with torch.inference_mode():
        shared = model(IDS, SPANS)
        # A locale's head begins with nothing to say.
        assert torch.equal(model(IDS, SPANS, locales=torch.tensor([1, 2])), shared)
        model.head.bias[1] = 0.5
        assert torch.allclose(model(IDS, SPANS, locales=torch.tensor([1, 2])) - shared, torch.tensor([0.5, 0.0]))
        assert torch.equal(model(IDS, SPANS, locales=torch.tensor([0, 0])), shared)
    assert [model.locale_number(name) for name in ("de", "de-AT", "fr", "en", None)] == [1, 1, 2, 0, 0]


def test_the_head_alone_learns_while_the_backbone_rests(base: Path) -> None:
    model = RewardModel(load_backbone(base, 2, torch.float32), 32)
    model.head_only = True
    model(IDS, SPANS).sum().backward()
    assert model.head.weight.grad is not None
    assert all(weight.grad is None for weight in model.backbone.parameters())


def test_a_fresh_head_scores_near_zero(base: Path) -> None:
    model = RewardModel(load_backbone(base, 2, torch.float32), 32).eval()
    with torch.inference_mode():
        assert model(IDS, SPANS).abs().max() < 1


def test_the_head_stays_in_fp32_under_autocast(base: Path) -> None:
    model = RewardModel(load_backbone(base, 2, torch.bfloat16), 32).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        scores = model(IDS, SPANS)
    assert scores.dtype == torch.float32
    assert not torch.equal(scores, scores.bfloat16().float())


def test_more_layers_than_there_are_is_an_error(base: Path) -> None:
    with pytest.raises(ValueError, match="3 layers; 4"):
        load_backbone(base, 4, torch.float32)
