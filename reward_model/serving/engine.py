"""One loaded reward model at work: tokenises in threads, scores through its batcher, calibrates."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from reward_model.checkpoint import LoadedModel
from reward_model.formatting import Completion, Message
from reward_model.loading import load_model
from reward_model.serving.batcher import Batcher
from reward_model.serving.metrics import ScorerMetrics
from reward_model.serving.settings import ScorerSettings


@dataclass(frozen=True)
class Result:
    """Scores and calibrated probabilities (None without a calibrator) of completions, and tokens spent."""

    scores: list[float]
    probabilities: list[float | None]
    prompt_tokens: int
    completion_tokens: int
    truncated_tokens: int


class Engine:
    """A model with its queue. Start and stop it with the app."""

    def __init__(self, model: LoadedModel, settings: ScorerSettings, metrics: ScorerMetrics) -> None:
        self.model = model
        self.batcher = Batcher(self._forward, settings.max_batch_tokens, settings.max_waiting, metrics)
        self._prompts: OrderedDict[str, tuple[list[int], int]] = OrderedDict()
        self._prompts_kept = settings.prompt_cache

    async def prefill(self, prompt: list[Message]) -> int:
        """Tokenise a prompt ahead of its completions; returns its tokens."""
        return len((await self._prompt_ids(prompt))[0])

    async def score(self, prompt: list[Message], completions: list[Completion], deadline: float = math.inf) -> Result:
        """Score completions of one prompt; identical ones are computed once."""
        prompt_ids, cut = await self._prompt_ids(prompt)
        tokenised = await asyncio.to_thread(lambda: [self.model.formatter.completion_ids(c) for c in completions])
        scores = await self._score_each([[*prompt_ids, *ids] for ids in tokenised], deadline)
        return Result(scores, self.probabilities(scores), len(prompt_ids), sum(len(ids) for ids in tokenised), cut)

    async def score_texts(self, texts: list[str]) -> tuple[list[float], int]:
        """Scores and tokens of texts rendered with the chat template already, with or without the end of the turn."""
        formatter = self.model.formatter
        sequences = await asyncio.to_thread(lambda: [formatter.templated_ids(text.rstrip()) for text in texts])
        ended = [_ended(ids, formatter.end_of_turn) for ids in sequences]
        return await self._score_each(ended, math.inf), sum(len(ids) for ids in ended)

    def probabilities(self, scores: Sequence[float]) -> list[float | None]:
        """Calibrated probabilities, or None for each without a calibrator."""
        if self.model.calibration is None:
            return [None] * len(scores)
        return [float(p) for p in self.model.calibration.probability(list(scores))]

    async def _score_each(self, sequences: list[list[int]], deadline: float) -> list[float]:
        tasks: dict[tuple[int, ...], asyncio.Task[float]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for ids in sequences:
                    if tuple(ids) not in tasks:
                        tasks[tuple(ids)] = group.create_task(self.batcher.score(ids, deadline))
        except* Exception as failed:
            raise failed.exceptions[0] from None
        return [tasks[tuple(ids)].result() for ids in sequences]

    async def _prompt_ids(self, prompt: list[Message]) -> tuple[list[int], int]:
        key = "\x00".join(message.model_dump_json() for message in prompt)
        if key not in self._prompts:
            self._prompts[key] = await asyncio.to_thread(self._tokenise_prompt, prompt)
            while len(self._prompts) > self._prompts_kept:
                self._prompts.popitem(last=False)
        else:
            self._prompts.move_to_end(key)
        return self._prompts[key]

    def _tokenise_prompt(self, prompt: list[Message]) -> tuple[list[int], int]:
        """Token ids as scored, and how many were cut off."""
        full, kept = self.model.formatter.full_prompt_ids(prompt), self.model.formatter.prompt_ids(prompt)
        return kept, len(full) - len(kept)

    def _forward(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        return [float(score) for score in self.model.score(sequences)]


def load_configured(settings: ScorerSettings) -> LoadedModel:
    """The model that the settings name, on their device, in their precision."""
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if settings.dtype == "bf16" or _bf16_is_fast(settings.dtype, device) else torch.float32
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    return load_model(settings.model, settings.registry, dtype, device)


def _bf16_is_fast(asked: str, device: str) -> bool:
    """For `auto`: on accelerators, and on CPUs whose instruction set has bf16."""
    if asked != "auto":
        return False
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else ""
    return device != "cpu" or "avx512_bf16" in flags or "amx_bf16" in flags


def _ended(ids: list[int], end_of_turn: int) -> list[int]:
    return ids if ids and ids[-1] == end_of_turn else [*ids, end_of_turn]
