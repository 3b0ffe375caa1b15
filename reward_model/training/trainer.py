"""Training on the Hugging Face Trainer: our loss, packed rows, and runs that survive a kill."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import EarlyStoppingCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from reward_model.formatting import Formatter
from reward_model.model import RewardModel
from reward_model.training.build import Trainee
from reward_model.training.data import Pair
from reward_model.training.head_start import start_head
from reward_model.training.losses import LossRecipe, RecentPairs, Targets, pair_accuracy, pair_loss
from reward_model.training.mixture import cap
from reward_model.training.packing import (
    Batch,
    PackedRow,
    TokenPair,
    batches,
    collate,
    collate_apart,
    one_pair_each,
    pack,
    tokenize,
)
from reward_model.training.recipe import OptimRecipe

# Written last into a saved step: a step without it was cut off by a kill.
_WHOLE = "whole"
_LEARNED = "learned.safetensors"


class _Rows(Dataset[PackedRow]):
    def __init__(self, rows: Sequence[PackedRow]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> PackedRow:
        return self.rows[index]


class _ByLength(Sampler[int]):
    """Rows of similar length beside each other, in another order each epoch: a function of seed and epoch alone,
    so that a run that goes on after a kill sees what it would have seen."""

    def __init__(self, rows: Sequence[PackedRow], batch: int, seed: int) -> None:
        self.lengths = [row.tokens for row in rows]
        self.batch = batch
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000 + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch, generator=generator))  # type: ignore[no-untyped-call]


class _Pace(TrainerCallback):
    """The head learns alone at first; the last step is validated and saved whatever the interval."""

    def __init__(self, model: RewardModel, head_only_epochs: float) -> None:
        self.model = model
        self.head_only_epochs = head_only_epochs

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.model.head_only = (state.epoch or 0.0) < self.head_only_epochs

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True


class _Bar(ProgressCallback):
    """The progress bar without the log lines that go to the standard output, which is for the result."""

    def on_log(self, *_: Any, **__: Any) -> None:
        """Nothing: the log is in the checkpoint."""


class PairTrainer(Trainer):
    """The Hugging Face Trainer with our loss, two learning rates, and only what learns in its saved steps."""

    def __init__(
        self,
        train: Sequence[PackedRow],
        validation: Sequence[PackedRow],
        validation_targets: Targets,
        validation_locales: Sequence[str],
        loss: LossRecipe,
        optim: OptimRecipe,
        **kwargs: Any,
    ) -> None:
        super().__init__(train_dataset=_Rows(train), eval_dataset=_Rows(validation), **kwargs)
        self.train_rows = train
        self.validation_rows = validation
        self.validation_targets = validation_targets
        self.validation_locales = validation_locales
        self.loss_recipe = loss
        self.recent = RecentPairs()
        self.head_lr = optim.head_learning_rate
        self.remove_callback(ProgressCallback)
        self.add_callback(_Bar())
        self.add_callback(_Pace(kwargs["model"], optim.head_only_epochs))
        if optim.patience is not None:
            self.add_callback(EarlyStoppingCallback(optim.patience))

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, *_: Any, **__: Any) -> Any:
        """The recipe's loss, a mean over the pairs of the batch on all processes together."""
        targets = Targets(**inputs.pop("targets"))
        scores: Tensor = model(**inputs)
        loss = pair_loss(self.loss_recipe, scores, targets, self.recent)
        if self.accelerator.num_processes > 1:
            # Gradients are averaged over processes; their batches hold different numbers of pairs.
            everywhere: Any = self.accelerator.reduce(torch.tensor(float(len(scores)), device=loss.device), "sum")
            loss = loss * len(scores) * self.accelerator.num_processes / everywhere
        return (loss, scores) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW in which the head, new, learns faster than the backbone."""
        reward_model: Any = self.model
        named = [(name, weight) for name, weight in reward_model.named_parameters() if weight.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [weight for name, weight in named if not name.startswith("head.")]},
            {"params": [weight for name, weight in named if name.startswith("head.")], "lr": self.head_lr},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=self.args.learning_rate, weight_decay=self.args.weight_decay)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        # Consecutive batches go to the processes: together they are one batch of a single process.
        return _ByLength(self.train_rows, self.args.train_batch_size * self.args.world_size, self.args.seed)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Loss and accuracy over the validation rows, the same on every process."""
        reward_model: Any = self.model
        scores = torch.from_numpy(score_rows(reward_model, self.validation_rows, locales=self.validation_locales))
        decided = ~self.validation_targets.tie
        metrics = {
            f"{metric_key_prefix}_loss": float(pair_loss(self.loss_recipe, scores, self.validation_targets)),
            f"{metric_key_prefix}_accuracy": pair_accuracy(scores[decided, 0], scores[decided, 1]),
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(learned(self.model), folder / _LEARNED)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        super()._save_checkpoint(*args, **kwargs)
        if self.is_world_process_zero():
            (Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}" / _WHOLE).touch()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        _restore(self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        _restore(self.model, Path(str(self.state.best_model_checkpoint)))


def learned(model: Any) -> dict[str, Tensor]:
    """The weights that training changes."""
    return {name: w.detach().contiguous() for name, w in model.named_parameters() if w.requires_grad}


def _restore(model: Any, folder: Path) -> None:
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in load_file(folder / _LEARNED).items():
            weights[name].copy_(value)


def fit(
    trainee: Trainee,
    loss: LossRecipe,
    optim: OptimRecipe,
    train: Sequence[Pair],
    validation: Sequence[Pair],
    scratch: Path,
) -> list[Any]:
    """Train in place to the step with the best validation accuracy; returns the Trainer's log by step.

    Steps are saved in `scratch`; a run that finds whole ones there goes on from the last.
    """
    collator = _Collate(trainee, optim, train)
    rows = rows_of(train, trainee.formatter, optim.max_row_tokens)
    if not collator.shared:
        rows = one_pair_each(rows)
    held_back = rows_of(validation, trainee.formatter, optim.max_row_tokens)
    resumed = last_whole_step(scratch)
    # A step that was saved holds the head as it had become by then.
    begun = None
    if optim.head_start and not resumed:
        few = cap(train, optim.head_start, optim.seed)
        few_rows = rows_of(few, trainee.formatter, optim.max_row_tokens)
        begun = start_head(trainee.model, (few, few_rows), (validation, held_back))
    trainer = PairTrainer(
        train=rows,
        validation=held_back,
        validation_targets=targets_of(validation, tokenize(validation, trainee.formatter)),
        validation_locales=[pair.locale for pair in validation],
        loss=loss,
        optim=optim,
        model=trainee.model,
        args=_arguments(optim, len(rows), scratch),
        data_collator=collator,
    )
    trainer.train(resume_from_checkpoint=resumed)
    trainee.model.head_only = False
    return [*([{"step": 0, **begun}] if begun else []), *trainer.state.log_history]


def last_whole_step(scratch: Path) -> str | None:
    """The newest saved step that was written to its end; those cut off by a kill are removed."""
    steps = sorted(scratch.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]))
    for step in steps:
        if not (step / _WHOLE).exists():
            shutil.rmtree(step, ignore_errors=True)
    whole = [step for step in steps if (step / _WHOLE).exists()]
    return str(whole[-1]) if whole else None


def _arguments(optim: OptimRecipe, rows: int, scratch: Path) -> TrainingArguments:
    steps = max(1, round(rows / optim.rows_per_step / optim.accumulate * optim.epochs))
    between_evaluations = max(1, steps // optim.evaluations)
    return TrainingArguments(
        output_dir=str(scratch),
        num_train_epochs=optim.epochs,
        per_device_train_batch_size=optim.rows_per_step,
        gradient_accumulation_steps=optim.accumulate,
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
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_accuracy",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        ddp_find_unused_parameters=optim.head_only_epochs > 0,
        logging_steps=10,
        report_to=[],
        remove_unused_columns=False,
    )


class _Collate:
    """Rows to the model's inputs, with what is known of their pairs."""

    def __init__(self, trainee: Trainee, optim: OptimRecipe, pairs: Sequence[Pair]) -> None:
        self.pad = trainee.formatter.end_of_turn
        self.model = trainee.model
        self.shared = optim.share_prefix and not trainee.model.encoder
        self.targets = targets_of(pairs, tokenize(pairs, trainee.formatter))
        self.locales = torch.tensor([self.model.locale_number(pair.locale) for pair in pairs])

    def __call__(self, rows: list[PackedRow]) -> dict[str, Any]:
        dtype: Any = self.model.backbone.dtype
        batch = collate(rows, self.pad, dtype) if self.shared else collate_apart(rows, self.pad)
        inputs: dict[str, Any] = batch._asdict()
        chosen = torch.tensor([pair.pair for row in rows for pair in row.pairs])
        if self.model.locales:
            inputs["locales"] = self.locales[chosen].unsqueeze(1).repeat(1, 2)
        return inputs | {"targets": {name: known[chosen] for name, known in self.targets._asdict().items()}}


def targets_of(pairs: Sequence[Pair], tokens: Sequence[TokenPair]) -> Targets:
    """What the loss may know of each pair, in their order."""
    none = float("nan")
    ratings = [[rating or none for rating in (pair.ratings.chosen, pair.ratings.rejected)] for pair in pairs]
    return Targets(
        margin=torch.tensor([pair.margin or 0.0 for pair in pairs]),
        strength=torch.tensor([pair.strength or 1.0 for pair in pairs]),
        tie=torch.tensor([pair.outcome == "tie" for pair in pairs], dtype=torch.bool),
        lengths=torch.tensor([[len(t.chosen), len(t.rejected)] for t in tokens], dtype=torch.float32).reshape(-1, 2),
        ratings=torch.tensor(ratings, dtype=torch.float32).reshape(-1, 2),
    )


def rows_of(pairs: Sequence[Pair], formatter: Formatter, max_tokens: int) -> list[PackedRow]:
    """Pairs tokenised and packed; TokenPair.pair is the position in `pairs`."""
    return pack(tokenize(pairs, formatter), [pair.group for pair in pairs], max_tokens)


@torch.inference_mode()
def score_rows(
    model: RewardModel, rows: Sequence[PackedRow], token_budget: int = 4096, locales: Sequence[str] = ()
) -> NDArray[np.float32]:
    """Scores [pairs, 2] of (chosen, rejected), by TokenPair.pair; `token_budget` bounds a batch.

    In the backbone's own precision; in bf16, an adapter that is not merged yet takes part by autocast. `locales`
    are the pairs' own, for a model with heads by locale.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    dtype: Any = model.backbone.dtype
    scores = np.zeros((sum(len(row.pairs) for row in rows), 2), dtype=np.float32)
    if model.encoder:
        rows = one_pair_each(rows)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        for chunk in batches(rows, token_budget):
            batch: Batch = collate_apart(chunk, 0) if model.encoder else collate(chunk, 0, dtype)
            members = [pair.pair for row in chunk for pair in row.pairs]
            inputs = batch._asdict()
            if locales and model.locales:
                heads = torch.tensor([model.locale_number(locales[member]) for member in members])
                inputs["locales"] = heads.unsqueeze(1).repeat(1, 2)
            values = model(**{name: value.to(device) for name, value in inputs.items()})
            scores[members] = values.float().cpu().numpy()
    model.train(was_training)
    return scores
