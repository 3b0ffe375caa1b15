"""Training on the Hugging Face Trainer: our loss, packed rows, and runs that survive a kill."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Sampler
from transformers import EarlyStoppingCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from reward_model.labels import Pair
from reward_model.model.reward_model import RewardModel, layers_of
from reward_model.text.formatting import Formatter
from reward_model.training.fit.build import Trainee
from reward_model.training.fit.distributed import check_sharding, learned, processes, put_back, refuse_data_parallel
from reward_model.training.fit.feeding import ByLength, Collate, TrainingRows, plan_rows, targets_of
from reward_model.training.fit.head_start import start_head
from reward_model.training.fit.losses import LossRecipe, RecentPairs, Targets, pair_accuracy, pair_loss
from reward_model.training.fit.mixture import cap
from reward_model.training.fit.packing import (
    Batch,
    PackedRow,
    batches,
    collate,
    collate_apart,
    one_pair_each,
    pack,
    tokenize,
)
from reward_model.training.fit.recipe import OptimRecipe
from reward_model.training.fit.token_table import token_table

# Written last into a saved step: a step without it was cut off by a kill.
_WHOLE = "whole"
_LEARNED = "learned.safetensors"


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
        train: TrainingRows,
        validation: Sequence[PackedRow],
        validation_targets: Targets,
        validation_locales: Sequence[str],
        loss: LossRecipe,
        optim: OptimRecipe,
        **kwargs: Any,
    ) -> None:
        held_back: Any = validation
        super().__init__(train_dataset=train, eval_dataset=held_back, **kwargs)
        check_sharding(self)
        if self.is_fsdp_enabled:
            # Weights are gathered as they are and autocast chooses the products' precision, as in one process: FSDP's
            # own policy would round the head and the scores to bf16.
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = None
        self.row_lengths = [plan.tokens for plan in train.plans]
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
        with torch.autocast(self.args.device.type, dtype=torch.bfloat16, enabled=self.args.bf16):
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
        return ByLength(self.row_lengths, self.args.train_batch_size * self.args.world_size, self.args.seed)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Loss and accuracy over the validation rows, the same on every process."""
        reward_model: Any = self.model
        rows, locales = self.validation_rows, self.validation_locales
        scores = torch.from_numpy(score_rows(reward_model, rows, locales=locales, forward=self.model_wrapped))
        decided = ~self.validation_targets.tie
        metrics = {
            f"{metric_key_prefix}_loss": float(pair_loss(self.loss_recipe, scores, self.validation_targets)),
            f"{metric_key_prefix}_accuracy": pair_accuracy(scores[decided, 0], scores[decided, 1]),
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save what learns; the weights may lie in pieces among the processes, so all of them take part."""
        state = learned(self.model)
        if self.args.should_save:
            self._save(output_dir, state)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(learned(self.model) if state_dict is None else state_dict, folder / _LEARNED)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        super()._save_checkpoint(*args, **kwargs)
        if self.is_world_process_zero():
            (Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}" / _WHOLE).touch()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        put_back(model or self.model, load_file(Path(resume_from_checkpoint) / _LEARNED))

    def _load_best_model(self) -> None:
        put_back(self.model, load_file(Path(str(self.state.best_model_checkpoint)) / _LEARNED))


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
    refuse_data_parallel(torch.cuda.device_count(), processes())
    shared = optim.share_prefix and not trainee.model.encoder
    table = token_table(train, trainee.formatter, scratch)
    plans = plan_rows(table, [pair.group for pair in train], optim.max_row_tokens, shared)
    held_back = rows_of(validation, trainee.formatter, optim.max_row_tokens)
    # FSDP shards layer by layer where a model names its layers.
    model: Any = trainee.model
    model._no_split_modules = [type(layers_of(model.backbone)[0]).__name__]
    resumed = last_whole_step(scratch)
    # A step that was saved holds the head as it had become by then.
    begun = _begin(trainee, optim, train, (validation, held_back)) if optim.head_start and not resumed else None
    trainer = PairTrainer(
        train=TrainingRows(table, plans),
        validation=held_back,
        validation_targets=targets_of(validation, _lengths(held_back)),
        validation_locales=[pair.locale for pair in validation],
        loss=loss,
        optim=optim,
        model=trainee.model,
        args=training_arguments(optim, len(plans), scratch, processes()),
        data_collator=Collate(
            trainee.model, trainee.formatter.end_of_turn, shared, train, targets_of(train, table.lengths())
        ),
    )
    trainer.train(resume_from_checkpoint=resumed)
    trainee.model.head_only = False
    return [*([{"step": 0, **begun}] if begun else []), *trainer.state.log_history]


def _begin(
    trainee: Trainee, optim: OptimRecipe, train: Sequence[Pair], validation: tuple[Sequence[Pair], list[PackedRow]]
) -> dict[str, Any]:
    """Start the head by regression on a few pairs; returns its figures."""
    few = cap(train, optim.head_start, optim.seed)
    rows = rows_of(few, trainee.formatter, optim.max_row_tokens)
    return start_head(trainee.model, (few, rows), validation)


def last_whole_step(scratch: Path) -> str | None:
    """The newest saved step that was written to its end; those cut off by a kill are removed."""
    steps = sorted(scratch.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]))
    for step in steps:
        if not (step / _WHOLE).exists():
            shutil.rmtree(step, ignore_errors=True)
    whole = [step for step in steps if (step / _WHOLE).exists()]
    return str(whole[-1]) if whole else None


def _lengths(rows: Sequence[PackedRow]) -> list[list[int]]:
    """Tokens of (chosen, rejected), by TokenPair.pair."""
    pairs = sorted((pair for row in rows for pair in row.pairs), key=lambda pair: pair.pair)
    return [[len(pair.chosen), len(pair.rejected)] for pair in pairs]


def optimizer_steps(optim: OptimRecipe, rows: int, started: int) -> int:
    """How many steps a run takes on so many processes, each with batches of its own."""
    batches_each = ceil(rows / (optim.rows_per_step * started))
    return max(1, ceil(ceil(batches_each / optim.accumulate) * optim.epochs))


def training_arguments(optim: OptimRecipe, rows: int, scratch: Path, started: int) -> TrainingArguments:
    """The Hugging Face Trainer's own settings, for so many rows on so many processes."""
    steps = optimizer_steps(optim, rows, started)
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


def rows_of(pairs: Sequence[Pair], formatter: Formatter, max_tokens: int) -> list[PackedRow]:
    """Pairs tokenised and packed; TokenPair.pair is the position in `pairs`."""
    return pack(tokenize(pairs, formatter), [pair.group for pair in pairs], max_tokens)


# Not in inference mode: what FSDP gathers for a forward pass there could not be used in the next step.
@torch.no_grad()
def score_rows(
    model: RewardModel,
    rows: Sequence[PackedRow],
    token_budget: int = 4096,
    locales: Sequence[str] = (),
    forward: Any = None,
) -> NDArray[np.float32]:
    """Scores [pairs, 2] of (chosen, rejected), by TokenPair.pair; `token_budget` bounds a batch, and `forward` is what
    wraps a model that is shared among processes.

    In the backbone's own precision; in bf16, an adapter that is not merged yet takes part by autocast. `locales`
    are the pairs' own, for a model with heads by locale.
    """
    forward = model if forward is None else forward
    was_training = forward.training
    forward.eval()
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
            values = forward(**{name: value.to(device) for name, value in inputs.items()})
            scores[members] = values.float().cpu().numpy()
    forward.train(was_training)
    return scores
