"""Several processes: how they are started, and the weights of a model that may lie in pieces among them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict

from reward_model.errors import BadInput
from reward_model.model.reward_model import RewardModel


def processes() -> int:
    """How many processes `torchrun` or `accelerate launch` started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def refuse_data_parallel(gpus: int, started: int, arguments: Sequence[str] = ()) -> None:
    """BadInput where one process would share a batch among several GPUs; `arguments` are those of a command that
    `torchrun` can start.

    Transformers falls back on nn.DataParallel there, which splits positions of a flattened batch as if they were rows.
    """
    if gpus < 2 or started > 1:
        return
    launch = shlex.join(["torchrun", "--nproc_per_node", str(gpus), "-m", "service", *arguments])
    all_of_them = f"for all of them: {launch}; for " if arguments else ""
    raise BadInput(f"{gpus} GPUs and one process; {all_of_them}one of them, set CUDA_VISIBLE_DEVICES=0")


def check_sharding(trainer: Any) -> None:
    """BadInput for a way of sharding that has not been tried."""
    if trainer.is_fsdp_enabled and trainer.accelerator.state.fsdp_plugin.fsdp_version != 2:
        raise BadInput("FSDP 1 is not supported; start with: accelerate launch --use_fsdp --fsdp_version 2")
    if trainer.is_deepspeed_enabled and trainer.accelerator.state.deepspeed_plugin.zero_stage == 3:
        raise BadInput("DeepSpeed's ZeRO 3 is not supported; use stage 2, or FSDP: --use_fsdp --fsdp_version 2")


def load_whole() -> None:
    """Have every process read the base itself: the head's start needs the weights before they are shared out."""
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


def is_sharded(model: Any) -> bool:
    """Whether the parameters lie in pieces among processes."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(weight, DTensor) for weight in model.parameters())


def learned(model: Any) -> dict[str, Tensor]:
    """The weights that training changes, whole and on the CPU; all processes must ask, and only the first one gets
    them if there are several."""
    names = {name for name, weight in model.named_parameters() if weight.requires_grad}
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    state: dict[str, Any] = get_model_state_dict(model, options=options)
    return {name: weight.contiguous() for name, weight in state.items() if name in names}


def put_back(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Put whole weights into a model, sharded or not; all processes must do it."""
    if unknown := weights.keys() - {name for name, _ in model.named_parameters()}:
        raise BadInput(f"the saved step is another model's: it has {min(unknown)}")
    set_model_state_dict(model, dict(weights), options=StateDictOptions(full_state_dict=True, strict=False))


def gathered(model: RewardModel, rebuild: Callable[[], RewardModel], main: bool) -> RewardModel:
    """A sharded model whole again, on the first process: built once more, with what was learned. Others keep theirs."""
    if not is_sharded(model):
        return model
    weights = learned(model)
    if not main:
        return model
    whole = rebuild()
    put_back(whole, weights)
    return whole
