"""Several processes make what one makes; several GPUs are never shared by one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from reward_model.checkpoint.checkpoint import load_checkpoint
from reward_model.errors import BadInput
from reward_model.labels import Pair
from reward_model.training.evaluation.evaluate import score_pairs
from reward_model.training.fit.distributed import learned, put_back, refuse_data_parallel
from reward_model.training.fit.recipe import OptimRecipe
from reward_model.training.fit.trainer import optimizer_steps, training_arguments

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
# A reward model sharded by FSDP 2 over two processes, layer by layer as Accelerate does it: one step as one process
# makes it, scores while it is sharded, and the learned weights gathered, put back and built into a whole model.
SHARDED = """
import copy, sys, torch, torch.distributed as dist
from pathlib import Path
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from reward_model.text.formatting import FormattingRule
from reward_model.training.fit.build import build
from reward_model.labels import Pair
from reward_model.training.fit.distributed import gathered, is_sharded, learned, put_back
from reward_model.training.fit.losses import bradley_terry
from reward_model.training.fit.packing import collate
from reward_model.training.fit.recipe import Recipe
from reward_model.training.fit.trainer import rows_of, score_rows

dist.init_process_group("gloo")
rank, recipe = dist.get_rank(), Recipe.model_validate_json(Path(sys.argv[1]).read_text())
pairs = [Pair.model_validate_json(line) for line in Path(sys.argv[2]).read_text().splitlines()]
trainee = build(recipe)
alone = copy.deepcopy(trainee.model)
rows = rows_of(pairs, trainee.formatter, 256)
mesh = init_device_mesh("cpu", (2,))
for layer in trainee.model.backbone.layers:
    fully_shard(layer, mesh=mesh)
model = fully_shard(trainee.model, mesh=mesh)
assert is_sharded(model) and not is_sharded(alone)

def step(model, part):
    optimizer = torch.optim.SGD([w for w in model.parameters() if w.requires_grad], lr=1.0)
    scores = model(**collate(part, 0)._asdict())
    bradley_terry(scores[:, 0] - scores[:, 1]).mean().backward()
    optimizer.step()
    optimizer.zero_grad()

step(alone, rows)
step(model, rows[rank::2])
expected = score_rows(alone, rows)
assert abs(score_rows(model, rows) - expected).max() < 1e-4
step(model, rows[rank::2])  # what was gathered for scores can still be trained
put_back(model, {name: w.detach().clone() for name, w in alone.named_parameters() if w.requires_grad})
assert abs(score_rows(model, rows) - expected).max() < 1e-4
assert bool(learned(model)) == (rank == 0)
whole = gathered(model, lambda: build(recipe).model, rank == 0)
assert is_sharded(whole) == (rank == 1)
if rank == 0:
    assert abs(score_rows(whole, rows) - expected).max() < 1e-4
    assert whole.state_dict().keys() == alone.state_dict().keys()
dist.destroy_process_group()
"""


# Accelerate leaves FSDP out where processes hold CPUs, so this command line says that they hold GPUs.
ON_CPUS = """
import sys
from accelerate import PartialState
from accelerate.utils import DistributedType
from reward_model.training.runs import run

class Claimed:
    first = PartialState.__init__

    def __init__(self, *arguments, **options):
        Claimed.first(self, *arguments, **options)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

PartialState.__init__ = Claimed.__init__
whole = run.gathered

def gathered(model, *others):
    from reward_model.training.fit.distributed import is_sharded
    assert is_sharded(model) and type(model).__name__ == "FSDPRewardModel"
    return whole(model, *others)

run.gathered = gathered
from service.cli import main
main()
"""
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
}


def _rows(count: int) -> list[dict[str, Any]]:
    random = Random(0)
    words = ["bill", "card", "refund", "fee", "please", "charged"]
    rows = []
    for i in range(count):
        prompt = [{"role": "user", "content": f"{' '.join(random.choices(words, k=3))} {i}"}]
        good, evil = (f"{word} {random.choice(words)}" for word in ("good", "evil"))
        rows.append({"id": str(i), "prompt": prompt, "chosen": good, "rejected": evil, "group": f"g{i}"})
    return rows


def _train(
    base: Path, data: Path, name: str, rows_per_step: int, launcher: list[str], tuning: str, **variables: str
) -> list[Any]:
    """Run the command; returns the checkpoint's log."""
    (data / "preferences").mkdir(exist_ok=True)
    (data / "preferences/toy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _rows(120)))
    recipe = data / f"{name}.toml"
    recipe.write_text(
        f'id = "toy@1"\n[model]\nbase = "{base}"\nlayers = 2\ntuning = "{tuning}"\nlora_rank = 4\n'
        "[formatting]\nmax_prompt_tokens = 64\nmax_completion_tokens = 16\n[sources.toy]\n[optim]\nepochs = 2\n"
        f"evaluations = 4\nlearning_rate = 1e-3\nhead_learning_rate = 1e-3\nrows_per_step = {rows_per_step}\n"
        "bf16 = false\n"
    )
    train = ["train", str(recipe), "--data", str(data), "--out", str(data / "out" / name)]
    done = _python(*launcher, *train, **variables)
    assert [json.loads(line)["orm"] for line in done.stdout.splitlines() if line.startswith("{")] == ["toy@1"]
    log: list[Any] = json.loads((data / "out" / name / "training_log.json").read_text())
    return log


def _python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **variables}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.parametrize(("sharded", "tuning"), [(False, "lora"), (True, "lora"), (True, "full")])
def test_two_processes_make_what_one_makes(base: Path, tmp_path: Path, sharded: bool, tuning: str) -> None:
    alone = _train(base, tmp_path, "alone", 8, ["-m", "service"], tuning)
    (tmp_path / "on_cpus.py").write_text(ON_CPUS)
    program = [str(tmp_path / "on_cpus.py")] if sharded else ["-m", "service"]
    both = _train(base, tmp_path, "both", 4, [*TORCHRUN, *program], tuning, **(FSDP if sharded else {}))
    looks = [[(entry["step"], entry["eval_loss"]) for entry in log if "eval_loss" in entry] for log in (alone, both)]
    assert [step for step, _ in looks[0]] == [step for step, _ in looks[1]]
    assert [loss for _, loss in looks[1]] == pytest.approx([loss for _, loss in looks[0]], abs=5e-3)
    pairs = [Pair.model_validate(row) for row in _rows(40)]
    one, two = (load_checkpoint(tmp_path / "out" / name, torch.float32) for name in ("alone", "both"))
    assert score_pairs(two, pairs).tolist() == [pytest.approx(row, abs=4e-2) for row in score_pairs(one, pairs)]


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_sharded_model_scores_learns_and_is_made_whole(base: Path, tmp_path: Path, tuning: str) -> None:
    recipe = {
        "id": "toy@1",
        "model": {"base": str(base), "layers": 2, "tuning": tuning},
        "formatting": {"max_prompt_tokens": 64, "max_completion_tokens": 16},
        "sources": {},
        "optim": {"bf16": False},
    }
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _rows(8)))
    (tmp_path / "sharded.py").write_text(SHARDED)
    _python(*TORCHRUN, *(str(tmp_path / name) for name in ("sharded.py", "recipe.json", "pairs.jsonl")))


@pytest.mark.parametrize("started", [1, 8])
def test_the_schedule_is_that_of_all_processes_together(tmp_path: Path, started: int) -> None:
    # 3200 rows, 4 a step and process: 800 steps alone, 100 on eight.
    optim = OptimRecipe(epochs=1, rows_per_step=4, warmup_share=0.05, evaluations=8, bf16=False)
    steps = 800 // started
    assert optimizer_steps(optim, 3200, started) == steps
    arguments = training_arguments(optim, 3200, tmp_path, started)
    assert arguments.warmup_steps == 0.05 * steps
    assert arguments.eval_steps == steps // 8


def test_steps_are_counted_as_the_loop_counts_them() -> None:
    # 10 rows by 4 make 3 batches, on two processes 2 each; by twos 1 step; 2.5 epochs of it are begun 3 times.
    assert optimizer_steps(OptimRecipe(epochs=2.5, rows_per_step=4, accumulate=2), 10, 2) == 3


def test_one_process_with_several_gpus_is_told_how_to_start() -> None:
    with pytest.raises(BadInput) as refused:
        refuse_data_parallel(4, 1, ["train", "my recipe.toml", "--data", "d"])
    launch = "torchrun --nproc_per_node 4 -m service train 'my recipe.toml' --data d"
    assert (
        str(refused.value)
        == f"4 GPUs and one process; for all of them: {launch}; for one of them, set CUDA_VISIBLE_DEVICES=0"
    )
    refuse_data_parallel(1, 1)
    refuse_data_parallel(4, 4)


def test_only_what_learns_is_saved_and_put_back() -> None:
    frozen, head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
    model = torch.nn.Sequential(frozen.requires_grad_(False), head)
    kept = {name: value.clone() for name, value in learned(model).items()}
    assert set(kept) == {"1.weight", "1.bias"}
    with torch.no_grad():
        head.weight.zero_()
    put_back(model, kept)
    assert torch.equal(head.weight, kept["1.weight"])
    with pytest.raises(BadInput, match=r"another model's: it has 2\.weight"):
        put_back(model, {"2.weight": torch.zeros(1)})
