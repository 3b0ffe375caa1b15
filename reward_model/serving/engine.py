"""One loaded reward model at work: tokenises in threads, scores through its batcher, calibrates."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from reward_model.errors import BadInput, SetupError
from reward_model.formatting import Completion, Message
from reward_model.loaded_model import EnsembleModel, LoadedModel
from reward_model.loading import load_model
from reward_model.serving.batcher import Batcher
from reward_model.serving.metrics import ScorerMetrics
from reward_model.serving.settings import ScorerSettings


class Score(float):
    """A raw score that knows by how much the members of an ensemble disagree on it (None for a single model)."""

    disagreement: float | None = None


@dataclass(frozen=True)
class Tokens:
    """One sequence to score, and the locale whose head may have a say."""

    ids: tuple[int, ...]
    locale: str | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Result:
    """Scores, disagreements (None for a single model) and calibrated probabilities (None without a calibrator) of
    completions; tokens scored and cut off."""

    scores: list[float]
    disagreements: list[float | None]
    probabilities: list[float | None]
    prompt_tokens: int
    completion_tokens: int
    truncated_tokens: int


class Engine:
    """A model with its queue. Start and stop it with the app."""

    def __init__(self, model: LoadedModel, settings: ScorerSettings, metrics: ScorerMetrics) -> None:
        self.model = model
        self.batcher: Batcher[Tokens, Score] = Batcher(
            self._forward, settings.max_batch_tokens, settings.max_waiting, metrics
        )
        self._prompts: OrderedDict[bytes, tuple[list[int], int]] = OrderedDict()
        self._prompts_kept = settings.prompt_cache

    async def prefill(self, prompt: list[Message]) -> int:
        """Tokenise a prompt ahead of its completions; returns its tokens."""
        return len((await self._prompt_ids(prompt))[0])

    async def score(
        self,
        prompt: list[Message],
        completions: list[Completion],
        deadline: float = math.inf,
        locale: str | None = None,
        route: str | None = None,
    ) -> Result:
        """Score completions of one prompt; identical ones are computed once.

        `locale` picks the head, `route` the calibrator, where the checkpoint has one of its own for them.
        """
        with self.batcher.permit(len(completions)):
            prompt_ids, cut = await self._prompt_ids(prompt)
            full = await asyncio.to_thread(self._tokenise_completions, completions)
            kept = [self.model.formatter.cut_completion(ids) for ids in full]
            scores = await self._score_each([Tokens((*prompt_ids, *ids), locale) for ids in kept], deadline)
        spent = sum(map(len, kept))
        cut += sum(map(len, full)) - spent
        return self._result(scores, route, len(prompt_ids), spent, cut)

    async def score_texts(self, texts: Sequence[str | list[int]]) -> Result:
        """Score conversations that somebody rendered with the chat template already, or tokenised too."""
        with self.batcher.permit(len(texts)):
            cut = await asyncio.to_thread(lambda: [self._text_ids(text) for text in texts])
            scores = await self._score_each([Tokens(tuple(ids)) for ids, _ in cut], math.inf)
        spent, lost = sum(len(ids) for ids, _ in cut), sum(lost for _, lost in cut)
        return self._result(scores, None, spent, 0, lost)

    def _result(self, scores: list[Score], route: str | None, prompt: int, spent: int, cut: int) -> Result:
        plain, disagreements = [float(score) for score in scores], [score.disagreement for score in scores]
        return Result(plain, disagreements, self.probabilities(plain, route), prompt, spent, cut)

    def probabilities(self, scores: Sequence[float], route: str | None = None) -> list[float | None]:
        """Calibrated probabilities, or None for each without a calibrator."""
        if self.model.calibration is None:
            return [None] * len(scores)
        return [float(p) for p in self.model.calibration.probability(list(scores), route)]

    async def _score_each(self, sequences: list[Tokens], deadline: float) -> list[Score]:
        tasks: dict[Tokens, asyncio.Task[Score]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for tokens in sequences:
                    if tokens not in tasks:
                        tasks[tokens] = group.create_task(self.batcher.score(tokens, deadline))
        except* Exception as failed:
            raise failed.exceptions[0] from None
        return [tasks[tokens].result() for tokens in sequences]

    async def _prompt_ids(self, prompt: list[Message]) -> tuple[list[int], int]:
        """Token ids as scored, and how many were cut off."""
        read = repr([(message.role, message.text()) for message in prompt])
        key = hashlib.sha256(read.encode()).digest()
        if key not in self._prompts:
            self._prompts[key] = await asyncio.to_thread(self._tokenise_prompt, prompt)
            while len(self._prompts) > self._prompts_kept:
                self._prompts.popitem(last=False)
        else:
            self._prompts.move_to_end(key)
        return self._prompts[key]

    def _tokenise_prompt(self, prompt: list[Message]) -> tuple[list[int], int]:
        full = self.model.formatter.full_prompt_ids(prompt)
        kept = self.model.formatter.cut_prompt(full)
        return kept, len(full) - len(kept)

    def _tokenise_completions(self, completions: list[Completion]) -> list[list[int]]:
        return [self.model.formatter.full_completion_ids(completion) for completion in completions]

    def _text_ids(self, text: str | list[int]) -> tuple[list[int], int]:
        if isinstance(text, str):
            return self.model.formatter.conversation_ids(text)
        rule, known = self.model.formatter.rule, len(self.model.formatter.tokenizer)
        longest = rule.max_prompt_tokens + rule.max_completion_tokens
        if not text or not all(0 <= token < known for token in text):
            raise BadInput(f"token ids must be from 0 to {known - 1}, at least one a text", "input")
        return text[-longest:], max(0, len(text) - longest)

    def _forward(self, sequences: Sequence[Tokens]) -> list[Score]:
        rows = self.model.score_members([t.ids for t in sequences], [t.locale for t in sequences]).tolist()
        scores = [Score(score) for score, _ in rows]
        if isinstance(self.model.module, EnsembleModel):
            for score, (_, disagreement) in zip(scores, rows, strict=True):
                score.disagreement = disagreement
        return scores


def load_configured(settings: ScorerSettings) -> LoadedModel:
    """The model that the settings name, on their device, in their precision."""
    device = _device(settings.device)
    dtype = torch.bfloat16 if settings.dtype == "bf16" or _bf16_is_fast(settings.dtype, device) else torch.float32
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    return load_model(settings.model, settings.registry, dtype, device)


def _device(asked: str) -> str:
    """The device's name; SetupError when this machine or this build of torch has none of that name."""
    device = ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SetupError(f"the device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def _bf16_is_fast(asked: str, device: str) -> bool:
    """For `auto`: on accelerators, and on CPUs whose instruction set has bf16."""
    if asked != "auto":
        return False
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else ""
    return device != "cpu" or "avx512_bf16" in flags or "amx_bf16" in flags
