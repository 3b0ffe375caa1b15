"""The engine of one loaded reward model: tokenises in threads, scores through its batcher, calibrates."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from reward_model.checkpoint.loaded_model import EnsembleModel, LoadedModel
from reward_model.checkpoint.loading import load_model
from reward_model.errors import BadInput, OutOfMemory, PreparationError, ServingError
from reward_model.serving.batcher import Batcher, padded_tokens
from reward_model.serving.forward.cascade_attention import Unsupported
from reward_model.serving.forward.packed import PackedScorer
from reward_model.serving.forward.pass_plan import Item
from reward_model.serving.metrics import ScorerMetrics
from reward_model.serving.self_check import conversations, stated_noise
from reward_model.serving.settings import ScorerSettings
from reward_model.text.formatting import Completion, Message, Tools, too_deep

# Tokens of a forward pass: more make it no more efficient, and keep the next ones waiting.
_CPU_TOKENS, _ACCELERATOR_TOKENS = 2_048, 16_384
# Bytes of the prefix cache on a CPU, whose memory is shared with everything else.
_CPU_CACHE = 512_000_000
# Prompts that wait to be read ahead; where there are more, they are read with their completions.
_READ_AHEAD = 64
# How long a readiness check waits for its test pass.
_TEST_SECONDS = 2.0

log = logging.getLogger("winnow.scorer")


class Score(NamedTuple):
    """A raw score, and by how much the members of an ensemble disagree on it (None for a single model)."""

    value: float
    disagreement: float | None


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
        self._metrics = metrics
        with _one_thread():
            self._packed = self._checked(_packed(model, _cache_bytes(settings.prefix_cache_mb, model.device)))
        cost = padded_tokens if self._packed is None else self._packed.cost
        tokens = settings.max_batch_tokens or (_CPU_TOKENS if model.device.type == "cpu" else _ACCELERATOR_TOKENS)
        self.batcher: Batcher[Item, Score] = Batcher(
            self._forward, tokens, settings.max_waiting, metrics, cost, number=lambda score: score.value
        )
        # Whether the last forward pass failed.
        self._failed = False
        # When the first of the test passes failed that have failed since.
        self._failing_since: float | None = None
        self._restart_seconds = settings.restart_seconds
        self._reading: set[asyncio.Task[Score]] = set()
        self._prompts: OrderedDict[bytes, tuple[list[int], int]] = OrderedDict()
        self._prompts_kept = settings.prompt_cache

    @property
    def healthy(self) -> bool:
        """Whether the worker lives and the last forward pass succeeded."""
        return self.batcher.alive and not self._failed

    @property
    def shares_prompts(self) -> bool:
        """Whether a prompt is computed once for all its completions."""
        return self._packed is not None

    async def ready(self) -> bool:
        """Whether the engine can score. After a failed pass a test pass decides: a device that is broken for good, as
        after an error in a CUDA kernel, fails it again, and one bad input does not."""
        if self.batcher.alive and self._failed:
            try:
                await self.batcher.score(Item((), (1, 2, 3)), time.monotonic() + _TEST_SECONDS)
            except ServingError:
                self._failing_since = self._failing_since or time.monotonic()
                return False
        self._failing_since = None
        return self.healthy

    @property
    def beyond_repair(self) -> bool:
        """Whether only a restart helps: the worker has died, or test passes have failed for long."""
        failing = 0.0 if self._failing_since is None else time.monotonic() - self._failing_since
        return not self.batcher.alive or failing > self._restart_seconds

    def _checked(self, packed: PackedScorer | None) -> PackedScorer | None:
        """`packed` where it gives the scores of plain transformers, else nothing, and the log says so."""
        if packed is None:
            return None
        items, sequences = [], []
        for prompt, completions in conversations(self.model):
            ids, _ = self._tokenise_prompt(prompt, None)
            for pair in self.model.formatter.full_pairs(ids, prompt, completions):
                begin, end = self.model.formatter.cut(*pair)
                items.append(self._item(self._settled(ids), begin, end))
                sequences.append([*begin, *end])
        plain, fast = packed.plainly(sequences), packed.score(items)
        differs, noise = float((plain - fast).abs().max()), stated_noise(self.model, plain)
        # Written so that what is not a number differs too.
        if differs <= noise:
            packed.forget()
            return packed
        log.error(
            "%s is scored the plain way, without a prefix cache, which is slower: the fast way differs from "
            "transformers by %.3g on the built-in conversations, and rounding explains %.3g",
            self.model.id,
            differs,
            noise,
        )
        packed.give_back()
        return None

    async def prefill(self, prompt: list[Message], tools: Tools = None, salt: str | None = None) -> int:
        """Read a prompt ahead of its completions: returns its tokens once it is queued, behind what has a
        deadline soon."""
        ids, _ = await self._prompt_ids(prompt, tools, salt)
        item = Item(tuple(self._settled(ids)), salt=salt)
        if self._packed is not None and len(self._reading) < _READ_AHEAD and self._packed.cost()(item):
            reading = asyncio.create_task(self.batcher.score(item))
            self._reading.add(reading)
            reading.add_done_callback(self._read)
        return len(ids)

    def _read(self, reading: asyncio.Task[Score]) -> None:
        # What went wrong is in the log already, and it goes wrong again where somebody waits for an answer.
        self._reading.discard(reading)
        if not reading.cancelled():
            reading.exception()

    async def score(
        self,
        prompt: list[Message],
        completions: list[Completion],
        deadline: float = math.inf,
        locale: str | None = None,
        route: str | None = None,
        *,
        partial: bool = False,
        stopping_rule: str | None = None,
        tools: Tools = None,
        salt: str | None = None,
    ) -> Result:
        """Score completions of one prompt; identical ones are computed once.

        `locale` picks the head, `route` and `stopping_rule` the calibrator, where there is one of its own. `partial`
        ones are scored as if they ended here, uncalibrated, and what they will be continued from is kept. Requests of
        different `salt` share nothing.
        """
        with self.batcher.permit(len(completions)):
            prompt_ids, cut = await self._prompt_ids(prompt, tools, salt)
            form = self.model.formatter
            full = await asyncio.to_thread(form.full_pairs, prompt_ids, prompt, completions, tools)
            kept = [form.cut(*pair) for pair in full]
            settled = self._settled(prompt_ids)
            items = [self._item(settled, *pair, locale, partial=partial, salt=salt) for pair in kept]
            scores = await self._score_each(items, deadline)
        spent = sum(len(completion) for _, completion in kept)
        # Where a longer completion leaves the prompt less room, the prompt counts as cut.
        shared = min(len(ids) for ids, _ in kept)
        cut += min(len(ids) for ids, _ in full) - shared + sum(len(ids) for _, ids in full) - spent
        result = self._result(scores, shared, spent, cut)
        if partial:
            # A calibrator is fitted on whole replies: of a part of one it knows nothing.
            return result
        return replace(result, probabilities=self.probabilities(result.scores, route, stopping_rule))

    def _settled(self, prompt: list[int]) -> list[int]:
        """The first tokens of a prompt, which no completion changes: what all of them share."""
        return prompt[: max(1, len(prompt) - self.model.formatter.seam)]

    def _item(
        self,
        settled: list[int],
        prompt: list[int],
        completion: list[int],
        locale: str | None = None,
        *,
        partial: bool = False,
        salt: str | None = None,
    ) -> Item:
        if prompt[: len(settled)] == settled:
            prompt, completion = settled, [*prompt[len(settled) :], *completion]
        if not completion:
            # Nothing was said and nothing closes it: its score is read where the reply would begin.
            prompt, completion = prompt[:-1], prompt[-1:]
        # What closes a part is not there any more once it has grown.
        stable = max(0, len(completion) - (len(self.model.formatter.closing) if partial else 0))
        return Item(tuple(prompt), tuple(completion), locale, stable, salt)

    async def score_texts(self, texts: Sequence[str | list[int]]) -> Result:
        """Score conversations that somebody rendered with the chat template already, or tokenised too."""
        with self.batcher.permit(len(texts)):
            cut = await asyncio.to_thread(lambda: [self._text_ids(text) for text in texts])
            scores = await self._score_each([self._split(ids) for ids, _ in cut], math.inf)
        spent, lost = sum(len(ids) for ids, _ in cut), sum(lost for _, lost in cut)
        return self._result(scores, spent, 0, lost)

    def _result(self, scores: list[Score], prompt: int, spent: int, cut: int) -> Result:
        plain, disagreements = [score.value for score in scores], [score.disagreement for score in scores]
        return Result(plain, disagreements, [None] * len(plain), prompt, spent, cut)

    def probabilities(
        self, scores: Sequence[float], route: str | None = None, stopping_rule: str | None = None
    ) -> list[float | None]:
        """Calibrated probabilities, or None for each without a calibrator."""
        if self.model.calibration is None:
            return [None] * len(scores)
        return [float(p) for p in self.model.calibration.under(stopping_rule).probability(list(scores), route)]

    def _split(self, ids: list[int]) -> Item:
        """A whole sequence as prompt and reply; the reply is never empty."""
        start = self.model.formatter.completion_start(ids)
        return Item(tuple(ids[:start]), tuple(ids[start:]), stable=len(ids) - start)

    async def _score_each(self, items: list[Item], deadline: float) -> list[Score]:
        tasks: dict[Item, asyncio.Task[Score]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for item in items:
                    if item not in tasks:
                        tasks[item] = group.create_task(self.batcher.score(item, deadline))
        except* Exception as failed:
            raise failed.exceptions[0] from None
        return [tasks[item].result() for item in items]

    async def _prompt_ids(self, prompt: list[Message], tools: Tools, salt: str | None = None) -> tuple[list[int], int]:
        """Token ids as far as any completion leaves room for them, and how many were cut off."""
        try:
            read = repr([[*map(dict, prompt)], tools, salt])
        except RecursionError as error:
            raise too_deep() from error
        key = hashlib.sha256(read.encode("utf-8", "surrogatepass")).digest()
        if key not in self._prompts:
            self._prompts[key] = await asyncio.to_thread(self._tokenise_prompt, prompt, tools)
            while len(self._prompts) > self._prompts_kept:
                self._prompts.popitem(last=False)
        else:
            self._prompts.move_to_end(key)
        return self._prompts[key]

    def _tokenise_prompt(self, prompt: list[Message], tools: Tools) -> tuple[list[int], int]:
        full = self.model.formatter.full_prompt_ids(prompt, tools)
        kept = self.model.formatter.cut_prompt(full, self.model.formatter.longest_prompt)
        return kept, len(full) - len(kept)

    def _text_ids(self, text: str | list[int]) -> tuple[list[int], int]:
        if isinstance(text, str):
            return self.model.formatter.conversation_ids(text)
        known = len(self.model.formatter.tokenizer)
        if not text or not all(0 <= token < known for token in text):
            raise BadInput(f"token ids must be from 0 to {known - 1}, at least one a text", "input")
        return self.model.formatter.cut_conversation(text)

    def _forward(self, items: Sequence[Item]) -> list[Score]:
        """In the batcher's thread."""
        try:
            scores = self._fitting_scores(items)
        except Exception:
            # Not before: a pass that runs is no failed one.
            self._failed = True
            raise
        self._failed = False
        return scores

    def _fitting_scores(self, items: Sequence[Item]) -> list[Score]:
        """OutOfMemory where the pass does not fit, even without the prefix cache."""
        scores = self._scores_in_memory(items)
        if scores is None and self._free():
            scores = self._scores_in_memory(items)
        if scores is None:
            self._free()
            tokens = sum(map(len, items))
            raise OutOfMemory(f"a forward pass over {tokens} tokens does not fit into the memory of the device")
        return scores

    def _scores_in_memory(self, items: Sequence[Item]) -> list[Score] | None:
        """None where memory ran out; what the pass had allocated is then free."""
        try:
            return self._scores(items)
        except (torch.OutOfMemoryError, MemoryError):
            return None
        except RuntimeError as error:
            # On a CPU this is all that says so.
            if "can't allocate memory" in str(error):
                return None
            raise

    def _free(self) -> bool:
        """Give up the prefix cache and what torch keeps; whether there was a cache to give up."""
        kept = self._packed is not None and self._packed.cache.nbytes > 0
        if self._packed is not None:
            self._packed.forget()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        return kept

    def _scores(self, items: Sequence[Item]) -> list[Score]:
        if self._packed is None:
            rows = self.model.score_members(
                [i.prompt + i.completion for i in items], [i.locale for i in items]
            ).tolist()
        else:
            before = self._packed.reused
            rows = self._packed.score(items).tolist()
            self._metrics.prefix_tokens.inc(self._packed.reused - before)
            self._metrics.prefix_bytes.set(self._packed.cache.nbytes)
        ensemble = isinstance(self.model.module, EnsembleModel)
        return [Score(score, disagreement if ensemble else None) for score, disagreement in rows]


def _cache_bytes(asked_mb: int | None, device: torch.device) -> int:
    """Memory of the prefix cache: what was asked for, or a share of an accelerator's memory."""
    if asked_mb is not None:
        return asked_mb * 1_000_000
    return _share(*torch.cuda.mem_get_info(device)) if device.type == "cuda" else _CPU_CACHE


def _share(free: int, total: int) -> int:
    """A tenth of a device's memory, and never more than half of what the model has left of it."""
    return min(total // 10, free // 2)


def _packed(model: LoadedModel, max_bytes: int) -> PackedScorer | None:
    """The fast way to score, where it is wanted and the model can be run so; it says the same as the plain way."""
    if max_bytes == 0:
        return None
    try:
        return PackedScorer(model, max_bytes)
    except Unsupported as reason:
        log.warning("%s is scored without a prefix cache: %s", model.id, reason)
        return None


def load_configured(settings: ScorerSettings) -> LoadedModel:
    """The model that the settings name, on their device, in their precision."""
    if settings.cores is not None:
        _keep_to(settings.cores)
    device = _device(settings.device)
    dtype = torch.bfloat16 if settings.dtype == "bf16" or _bf16_is_fast(settings.dtype, device) else torch.float32
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    with _one_thread():
        return load_model(settings.model, settings.registry, dtype, device, settings.max_sequence_tokens)


def _keep_to(cores: Sequence[int]) -> None:
    """Run on these cores alone, with a thread for each; PreparationError where one of them is not to be had."""
    allowed = os.sched_getaffinity(0)
    if not cores or not set(cores) <= allowed:
        raise PreparationError(f"the cores {list(cores)} are not all to be had; this process may use {sorted(allowed)}")
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(set(cores)))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Work that starts no pool of threads for the one that loads.

    OpenMP gives each thread that works in parallel a pool of its own, and where their threads are more than the cores
    they sleep between operations instead of spinning: a forward pass in the batcher's thread takes twice as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _device(asked: str) -> str:
    """The device's name; PreparationError when this machine or this build of torch has none of that name."""
    device = ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise PreparationError(f"the device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def _bf16_is_fast(asked: str, device: str) -> bool:
    """For `auto`: on accelerators, and on CPUs whose instruction set has bf16."""
    if asked != "auto":
        return False
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else ""
    return device != "cpu" or "avx512_bf16" in flags or "amx_bf16" in flags
