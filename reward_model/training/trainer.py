"""Training: LoRA on the first layers of the base, a scalar head, Bradley-Terry loss, on the Hugging Face Trainer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainingArguments, set_seed
from transformers.trainer_pt_utils import LengthGroupedSampler

from reward_model import base_model
from reward_model.checkpoint import load_formatter
from reward_model.formatting import Formatter
from reward_model.model import LORA_TARGETS, RewardModel, load_backbone
from reward_model.training.data import Pair
from reward_model.training.losses import bradley_terry, pair_accuracy
from reward_model.training.packing import Batch, PackedRow, collate, pack, tokenize
from reward_model.training.recipe import ModelRecipe, Recipe


@dataclass
class Trainee:
    """What a run trains: the reward model, whose backbone is a PEFT model, and its formatter."""

    model: RewardModel
    formatter: Formatter
    base: Path


class _Rows(Dataset[PackedRow]):
    def __init__(self, rows: Sequence[PackedRow]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> PackedRow:
        return self.rows[index]


class PairTrainer(Trainer):
    """The Hugging Face Trainer with our loss, two learning rates, and rows batched by length."""

    def __init__(self, head_learning_rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.head_learning_rate = head_learning_rate

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        scores: Tensor = model(**inputs)
        loss = bradley_terry(scores[:, 0], scores[:, 1])
        return (loss, scores) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW in which the head, new, learns faster than the adapter."""
        head, adapter = [], []
        for name, weight in self.model.named_parameters():
            if weight.requires_grad:
                (head if name.startswith("head.") else adapter).append(weight)
        groups = [{"params": adapter}, {"params": head, "lr": self.head_learning_rate}]
        self.optimizer = torch.optim.AdamW(
            groups, lr=self.args.learning_rate, weight_decay=self.args.weight_decay
        )
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        lengths = [row.tokens for row in self.train_dataset.rows]
        generator = torch.Generator().manual_seed(self.args.seed)
        return LengthGroupedSampler(self.args.train_batch_size, lengths=lengths, generator=generator)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Loss and accuracy over the validation rows."""
        scores = torch.from_numpy(score_rows(self.model, self.eval_dataset.rows))
        metrics = {
            f"{metric_key_prefix}_loss": float(bradley_terry(scores[:, 0], scores[:, 1])),
            f"{metric_key_prefix}_accuracy": pair_accuracy(scores[:, 0], scores[:, 1]),
        }
        self.log(metrics)
        return metrics


def build(recipe: ModelRecipe, rule: Any, seed: int) -> Trainee:
    """A fresh reward model by a recipe: bf16 base, fp32 adapter and head."""
    from peft import LoraConfig, get_peft_model

    set_seed(seed)
    base = base_model.prepare() if recipe.base == "bundled" else Path(recipe.base)
    backbone = load_backbone(base, recipe.layers, torch.bfloat16)
    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=LORA_TARGETS,
        bias="none",
    )
    adapted: Any = get_peft_model(backbone, config)
    model = RewardModel(adapted, int(backbone.config.hidden_size))
    return Trainee(model, load_formatter(base, rule), base)


def rows_of(pairs: Sequence[Pair], formatter: Formatter, max_tokens: int) -> list[PackedRow]:
    """Pairs tokenised and packed; TokenPair.pair is the position in `pairs`."""
    return pack(tokenize(pairs, formatter), [pair.group for pair in pairs], max_tokens)


def fit(
    trainee: Trainee, recipe: Recipe, train: list[Pair], validation: list[Pair], scratch: Path
) -> list[Any]:
    """Train in place; returns the Trainer's log (loss, validation accuracy, learning rate by step)."""
    optim = recipe.optim
    train_rows = rows_of(train, trainee.formatter, optim.max_row_tokens)
    validation_rows = rows_of(validation, trainee.formatter, optim.max_row_tokens)
    steps = max(1, round(len(train_rows) / optim.rows_per_step * optim.epochs))
    arguments = TrainingArguments(
        output_dir=str(scratch),
        num_train_epochs=optim.epochs,
        per_device_train_batch_size=optim.rows_per_step,
        learning_rate=optim.learning_rate,
        weight_decay=optim.weight_decay,
        warmup_steps=round(optim.warmup_share * steps),
        lr_scheduler_type="cosine",
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        seed=optim.seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        logging_steps=10,
        report_to=[],
        remove_unused_columns=False,
        max_grad_norm=1.0,
    )
    trainer = PairTrainer(
        head_learning_rate=optim.head_learning_rate,
        model=trainee.model,
        args=arguments,
        train_dataset=_Rows(train_rows),
        eval_dataset=_Rows(validation_rows),
        data_collator=_Collate(trainee.formatter.end_of_turn),
    )
    trainer.train()
    return list(trainer.state.log_history)


class _Collate:
    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, rows: list[PackedRow]) -> dict[str, Tensor]:
        batch: Batch = collate(rows, self.pad, torch.bfloat16)
        return batch._asdict()


@torch.inference_mode()
def score_rows(
    model: RewardModel, rows: Sequence[PackedRow], token_budget: int = 4096
) -> NDArray[np.float32]:
    """Scores [pairs, 2] of (chosen, rejected), by TokenPair.pair, in batches of at most `token_budget` tokens.

    In the backbone's own precision; in bf16 an adapter that is not merged yet takes part by autocast.
    """
    model.eval()
    device = next(model.parameters()).device
    dtype = model.backbone.dtype
    scores = np.zeros((sum(len(row.pairs) for row in rows), 2), dtype=np.float32)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        for chunk in batches(rows, token_budget):
            batch = collate(chunk, 0, dtype)
            values = model(**{name: value.to(device) for name, value in batch._asdict().items()})
            scores[[pair.pair for row in chunk for pair in row.pairs]] = values.float().cpu().numpy()
    return scores


def batches(rows: Sequence[PackedRow], token_budget: int) -> Iterator[list[PackedRow]]:
    """Rows by length, as many at a time as fit the budget when padded; a longer row comes alone."""
    chunk: list[PackedRow] = []
    for row in sorted(rows, key=lambda row: row.tokens):
        if chunk and row.tokens * (len(chunk) + 1) > token_budget:
            yield chunk
            chunk = []
        chunk.append(row)
    if chunk:
        yield chunk
