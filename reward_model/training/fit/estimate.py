"""`winnow train --dry-run`: what a run would need of memory and time, before a weight is read.

The model is laid out on torch's meta device, where tensors have shapes and no contents; one batch goes through it,
forward and back, while what is kept for the backward pass and every multiplication are counted. The device's speed is
measured with one large matrix product.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from reward_model.errors import BadInput
from reward_model.labels import Pair
from reward_model.model.reward_model import RewardModel, layers_of
from reward_model.training.fit.build import formatter_of, shape_of
from reward_model.training.fit.distributed import processes
from reward_model.training.fit.mixture import cap, choose, read_sources
from reward_model.training.fit.packing import PackedRow, one_pair_each
from reward_model.training.fit.recipe import Recipe
from reward_model.training.fit.trainer import optimizer_steps, rows_of

# Pairs that are tokenised to learn how long rows are.
SAMPLE = 256
# Of a device's speed in one large product, what training reaches. On a GPU a usual figure; on a CPU measured with the
# bundled base, whose products are small. Either may be off by a factor of two.
UTILISATION = {"cuda": 0.35, "cpu": 0.1}
# In fp32: a gradient, and AdamW's two moments.
_BYTES_PER_LEARNED = 4 + 8
_GB = 1024**3


class BatchCost(NamedTuple):
    """What one batch of sequences costs: bytes kept for the backward pass, and operations forward and in all."""

    activations: int
    forward: float
    both: float


def estimate(recipe: Recipe, data: Path, labels: Path | None) -> dict[str, Any]:
    """Memory of one process, and time of the run on this machine's devices; memory is not divided by sharding.

    Raises BadInput as the run itself would for its recipe and its data.
    """
    model = shape_of(recipe)
    sources = read_sources(recipe, data, labels)
    training = [pair for pairs in choose(recipe, sources).values() for pair in pairs]
    validation = sum(len(splits["validation"]) for splits in sources.values())
    if not training or not validation:
        raise BadInput(f"{len(training)} pairs to train on and {validation} to validate on: the sources are too small")
    shapes = _row_shapes(recipe, model, training)
    longest = batch_cost(model, shapes.sequences, shapes.longest, recipe.optim.bf16)
    memory = {**_memory(model), "activations": longest.activations}
    steps = optimizer_steps(recipe.optim, round(shapes.rows_per_pair * len(training)), processes())
    operations = _operations(recipe, model, shapes, steps, validation)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    speed = _speed(device, torch.bfloat16 if recipe.optim.bf16 else torch.float32)
    total = sum(memory.values())
    return {
        "orm": recipe.id,
        "base": recipe.model.base,
        "layers": len(layers_of(model.backbone)),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "learned_parameters": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "pairs": len(training),
        "longest_row": shapes.longest,
        "processes": processes(),
        "steps": steps,
        "memory_gb": {name: round(size / _GB, 3) for name, size in {**memory, "total": total}.items()},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "device_free_gb": round(_free(device) / _GB, 3),
        "fits": total < _free(device),
        "teraflops_in_all": round(operations / 1e12, 3),
        "teraflops_a_second": round(speed / 1e12, 3),
        "hours": round(operations / (speed * UTILISATION[device.type]) / 3600, 4),
    }


def _operations(recipe: Recipe, model: RewardModel, shapes: _Shapes, steps: int, validation: int) -> float:
    """Floating-point operations of a run: its optimizer steps, and every look at the validation pairs."""
    typical = batch_cost(model, shapes.sequences, shapes.mean, recipe.optim.bf16)
    validated = min(validation, recipe.optim.validation_pairs)
    looks = recipe.optim.evaluations * shapes.rows_per_pair * validated / recipe.optim.rows_per_step
    return steps * recipe.optim.accumulate * typical.both + looks * typical.forward


class _Shapes(NamedTuple):
    """Of a sample of rows: sequences in a batch, their longest and mean length, and rows for each pair."""

    sequences: int
    longest: int
    mean: int
    rows_per_pair: float


def _row_shapes(recipe: Recipe, model: RewardModel, training: Sequence[Pair]) -> _Shapes:
    few = cap(training, SAMPLE, recipe.optim.seed)
    rows = rows_of(few, formatter_of(recipe), recipe.optim.max_row_tokens)
    if recipe.optim.share_prefix and not model.encoder:
        lengths = [row.tokens for row in rows]
        sequences = recipe.optim.rows_per_step
    else:
        rows = one_pair_each(rows)
        lengths = [length for row in rows for length in _apart(row)]
        sequences = 2 * recipe.optim.rows_per_step
    return _Shapes(sequences, max(lengths), round(sum(lengths) / len(lengths)), len(rows) / len(few))


def _apart(row: PackedRow) -> list[int]:
    """Lengths of a row's replies, each behind a prompt of its own."""
    return [reply.prefix + len(reply.ids) for reply in row.replies]


def _memory(model: RewardModel) -> dict[str, int]:
    learned = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return {
        "weights": sum(weight.numel() * weight.element_size() for weight in model.parameters()),
        "gradients_and_optimizer": learned * _BYTES_PER_LEARNED,
    }


def batch_cost(model: RewardModel, sequences: int, length: int, bf16: bool) -> BatchCost:
    """Send a batch of shapes through a model on the meta device."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    # There is no autocast among shapes: weights take the products' precision instead.
    backbone = model.backbone.to(dtype)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        # Fused attention keeps no table of all tokens by all tokens; the shapes' own fallback does.
        if not tensor.is_leaf and tensor.shape[-2:] != (length, length):
            kept[id(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
            held.append(tensor)
        return tensor

    held: list[Tensor] = []
    inputs: dict[str, Any] = {"input_ids": torch.zeros(sequences, length, dtype=torch.long, device="meta")}
    mask = 0
    if not model.encoder:
        inputs["attention_mask"] = torch.zeros(sequences, 1, length, length, dtype=dtype, device="meta")
        inputs["position_ids"] = torch.zeros(sequences, length, dtype=torch.long, device="meta")
        inputs["use_cache"] = False
        mask = sequences * length * length * dtype.itemsize
    with FlopCounterMode(display=False) as forward, saved_tensors_hooks(keep, lambda tensor: tensor):
        states = backbone(**inputs).last_hidden_state
    with FlopCounterMode(display=False) as backward:
        states.sum().backward()
    ahead = float(forward.get_total_flops())
    return BatchCost(sum(kept.values()) + mask, ahead, ahead + float(backward.get_total_flops()))


def _speed(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second in a large matrix product."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    torch.mm(left, right)
    began, times = time.perf_counter(), 0
    while time.perf_counter() - began < 0.3:
        # Reading one number waits for the device.
        float(torch.mm(left, right)[0, 0])
        times += 1
    return 2.0 * size**3 * times / (time.perf_counter() - began)


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
