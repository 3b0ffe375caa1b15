"""Training: LoRA on the first layers of the base and a scalar head, on the Hugging Face Trainer."""

from __future__ import annotations

from collections.abc import Sequence
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
from reward_model.checkpoint import load_adapter, load_formatter, load_head
from reward_model.formatting import Formatter
from reward_model.model import LORA_TARGETS, RewardModel, load_backbone
from reward_model.training.data import Pair
from reward_model.training.losses import bradley_terry, pair_accuracy
from reward_model.training.packing import PackedRow, batches, collate, pack, tokenize
from reward_model.training.recipe import ModelRecipe, OptimRecipe, Recipe


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

    def __init__(
        self, train: Sequence[PackedRow], validation: Sequence[PackedRow], head_lr: float, **kwargs: Any
    ) -> None:
        super().__init__(train_dataset=_Rows(train), eval_dataset=_Rows(validation), **kwargs)
        self.train_rows = train
        self.validation_rows = validation
        self.head_lr = head_lr

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, *_: Any, **__: Any) -> Any:
        """Bradley-Terry over the pairs of the batch."""
        scores: Tensor = model(**inputs)
        loss = bradley_terry(scores[:, 0], scores[:, 1])
        return (loss, scores) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW in which the head, new, learns faster than the adapter."""
        reward_model: Any = self.model
        named = [(name, weight) for name, weight in reward_model.named_parameters() if weight.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [weight for name, weight in named if not name.startswith("head.")]},
            {"params": [weight for name, weight in named if name.startswith("head.")], "lr": self.head_lr},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=self.args.learning_rate, weight_decay=self.args.weight_decay)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        lengths = [row.tokens for row in self.train_rows]
        generator = torch.Generator().manual_seed(self.args.seed)
        return LengthGroupedSampler(self.args.train_batch_size, lengths=lengths, generator=generator)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Loss and accuracy over the validation rows."""
        reward_model: Any = self.model
        scores = torch.from_numpy(score_rows(reward_model, self.validation_rows))
        metrics = {
            f"{metric_key_prefix}_loss": float(bradley_terry(scores[:, 0], scores[:, 1])),
            f"{metric_key_prefix}_accuracy": pair_accuracy(scores[:, 0], scores[:, 1]),
        }
        self.log(metrics)
        return metrics


def build(recipe: Recipe) -> Trainee:
    """A reward model to be trained: adapter and head in fp32, fresh or from a finished checkpoint."""
    set_seed(recipe.optim.seed)
    wanted = recipe.model
    base = base_model.prepare() if wanted.base == "bundled" else Path(wanted.base)
    backbone = load_backbone(base, wanted.layers, torch.bfloat16 if recipe.optim.bf16 else torch.float32)
    hidden = int(backbone.config.hidden_size)
    if wanted.start_from is None:
        model = RewardModel(_fresh_adapter(backbone, wanted), hidden)
    else:
        model = RewardModel(load_adapter(wanted.start_from, backbone, trainable=True), hidden)
        load_head(wanted.start_from, model)
    return Trainee(model, load_formatter(base, recipe.formatting), base)


def _fresh_adapter(backbone: Any, recipe: ModelRecipe) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=LORA_TARGETS,
        bias="none",
    )
    return get_peft_model(backbone, config)


def rows_of(pairs: Sequence[Pair], formatter: Formatter, max_tokens: int) -> list[PackedRow]:
    """Pairs tokenised and packed; TokenPair.pair is the position in `pairs`."""
    return pack(tokenize(pairs, formatter), [pair.group for pair in pairs], max_tokens)


def fit(
    trainee: Trainee, optim: OptimRecipe, train: Sequence[Pair], validation: Sequence[Pair], scratch: Path
) -> list[Any]:
    """Train in place; returns the Trainer's log (loss, validation accuracy, learning rate by step).

    The Trainer's own checkpoints go to `scratch`, one at each evaluation.
    """
    rows = rows_of(train, trainee.formatter, optim.max_row_tokens)
    trainer = PairTrainer(
        train=rows,
        validation=rows_of(validation, trainee.formatter, optim.max_row_tokens),
        head_lr=optim.head_learning_rate,
        model=trainee.model,
        args=_arguments(optim, len(rows), scratch),
        data_collator=_Collate(trainee.formatter.end_of_turn, trainee.model.backbone.dtype),
    )
    trainer.train()
    return list(trainer.state.log_history)


def _arguments(optim: OptimRecipe, rows: int, scratch: Path) -> TrainingArguments:
    steps = max(1, round(rows / optim.rows_per_step * optim.epochs))
    between_evaluations = max(1, steps // optim.evaluations)
    return TrainingArguments(
        output_dir=str(scratch),
        num_train_epochs=optim.epochs,
        per_device_train_batch_size=optim.rows_per_step,
        learning_rate=optim.learning_rate,
        weight_decay=optim.weight_decay,
        warmup_steps=round(optim.warmup_share * steps),
        lr_scheduler_type="cosine",
        max_grad_norm=1.0,
        bf16=optim.bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=optim.seed,
        eval_strategy="steps",
        eval_steps=between_evaluations,
        save_strategy="steps",
        save_steps=between_evaluations,
        save_total_limit=1,
        logging_steps=10,
        report_to=[],
        remove_unused_columns=False,
    )


class _Collate:
    def __init__(self, pad: int, dtype: Any) -> None:
        self.pad = pad
        self.dtype = dtype

    def __call__(self, rows: list[PackedRow]) -> dict[str, Tensor]:
        return collate(rows, self.pad, self.dtype)._asdict()


@torch.inference_mode()
def score_rows(model: RewardModel, rows: Sequence[PackedRow], token_budget: int = 4096) -> NDArray[np.float32]:
    """Scores [pairs, 2] of (chosen, rejected), by TokenPair.pair; `token_budget` bounds a batch.

    In the backbone's own precision; in bf16, an adapter that is not merged yet takes part by autocast.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    dtype: Any = model.backbone.dtype
    scores = np.zeros((sum(len(row.pairs) for row in rows), 2), dtype=np.float32)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        for chunk in batches(rows, token_budget):
            batch = collate(chunk, 0, dtype)
            values = model(**{name: value.to(device) for name, value in batch._asdict().items()})
            scores[[pair.pair for row in chunk for pair in row.pairs]] = values.float().cpu().numpy()
    model.train(was_training)
    return scores
