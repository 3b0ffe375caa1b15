"""Scores of completions in this process, through the engine that serves: a prompt is computed once for all of its
completions where the model allows that.

The engine decides it as for a server: it shares prompts where its fast path gives the scores of plain transformers on
the built-in conversations. Any other model is given whole sequences, in batches of similar length.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from reward_model.checkpoint.loaded_model import LoadedModel
from reward_model.errors import BadInput, EngineFailed
from reward_model.serving.engine import Engine
from reward_model.serving.metrics import ScorerMetrics
from reward_model.serving.settings import ScorerSettings
from reward_model.text.formatting import Completion, Message, Tools, too_deep

# Tokens of a padded batch of whole sequences.
_BATCH_TOKENS = 16_384


class Prompt(NamedTuple):
    """A prompt with completions to score; `locale` picks the head, and `where` names the prompt in errors."""

    messages: list[Message]
    completions: Sequence[Completion]
    locale: str | None = None
    tools: Tools = None
    where: str = ""


class PromptScorer:
    """A model that scores prompts with their completions; a context manager, not for use within an event loop."""

    def __init__(self, model: LoadedModel, settings: ScorerSettings | None = None) -> None:
        # Nobody else waits here, so nothing has to be turned away.
        settings = (settings or ScorerSettings()).model_copy(update={"max_waiting": sys.maxsize})
        self.model = model
        self._tokens = settings.max_batch_tokens or _BATCH_TOKENS
        self._engine = Engine(model, settings, ScorerMetrics(CollectorRegistry()))
        self._runner = asyncio.Runner()

    def __enter__(self) -> PromptScorer:
        self._runner.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._engine.batcher.stop())
        self._runner.close()

    @property
    def shares_prompts(self) -> bool:
        """Whether a prompt is computed once for all its completions."""
        return self._engine.shares_prompts

    def scores(self, prompts: Sequence[Prompt]) -> list[list[float]]:
        """The scores of each prompt's completions; equal prompts are tokenised and computed once.

        Raises BadInput that names the first prompt at fault, and EngineFailed where a score is not a finite number.
        """
        if not self.shares_prompts:
            return self._plain_scores(prompts)
        return self._runner.run(self._shared_scores(prompts))

    def probabilities(
        self, scores: Sequence[float], route: str | None = None, stopping_rule: str | None = None
    ) -> list[float | None]:
        """By the calibrator of the route and the stopping rule; None for each without a calibrator."""
        return self._engine.probabilities(scores, route, stopping_rule)

    async def _start(self) -> None:
        self._engine.batcher.start()

    async def _shared_scores(self, prompts: Sequence[Prompt]) -> list[list[float]]:
        groups: dict[str, list[int]] = {}
        for place, prompt in enumerate(prompts):
            groups.setdefault(_key(prompt), []).append(place)
        scored = await asyncio.gather(
            *(self._group([prompts[place] for place in places]) for places in groups.values()), return_exceptions=True
        )
        # The first in the order of the prompts, not in time.
        for result in scored:
            if isinstance(result, BaseException):
                raise result
        found: list[list[float]] = [[] for _ in prompts]
        for places, result in zip(groups.values(), scored, strict=True):
            assert not isinstance(result, BaseException)
            for place, scores in zip(places, result, strict=True):
                found[place] = scores
        return found

    async def _group(self, prompts: Sequence[Prompt]) -> list[list[float]]:
        """Scores of prompts that differ in their completions alone."""
        first = prompts[0]
        completions = [completion for prompt in prompts for completion in prompt.completions]
        try:
            result = await self._engine.score(first.messages, completions, locale=first.locale, tools=first.tools)
        except BadInput as error:
            for prompt in prompts:
                self._sequences(prompt)
            raise _at(first.where, error) from error
        scores = iter(result.scores)
        return [list(islice(scores, len(prompt.completions))) for prompt in prompts]

    def _sequences(self, prompt: Prompt) -> list[tuple[int, ...]]:
        try:
            pairs = self.model.formatter.sequences(prompt.messages, prompt.completions, prompt.tools)
        except BadInput as error:
            raise _at(prompt.where, error) from error
        return [(*begin, *end) for begin, end in pairs]

    def _plain_scores(self, prompts: Sequence[Prompt]) -> list[list[float]]:
        """Identical sequences are computed once."""
        keys = [[(ids, prompt.locale) for ids in self._sequences(prompt)] for prompt in prompts]
        order = sorted({key for each in keys for key in each}, key=lambda key: len(key[0]))
        scores: dict[tuple[tuple[int, ...], str | None], float] = {}
        start = 0
        while start < len(order):
            end = start + 1
            while end < len(order) and len(order[end][0]) * (end - start + 1) <= self._tokens:
                end += 1
            sequences, locales = zip(*order[start:end], strict=True)
            scores |= zip(order[start:end], self.model.score(sequences, locales).tolist(), strict=True)
            start = end
        if not all(map(math.isfinite, scores.values())):
            raise EngineFailed(f"{self.model.id} gave a score that is no number; its weights or precision are broken")
        return [[scores[key] for key in each] for each in keys]


def _key(prompt: Prompt) -> str:
    """Equal for prompts that differ in their completions alone."""
    try:
        return repr((prompt.messages, prompt.tools, prompt.locale))
    except RecursionError as error:
        raise _at(prompt.where, too_deep()) from error


def _at(where: str, error: BadInput) -> BadInput:
    return BadInput(f"{where}: {error}" if where else str(error), error.param)
