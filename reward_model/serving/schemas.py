"""Request schemas of the scorer."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from reward_model.text.formatting import Completion, Message

CacheSalt = Annotated[
    str | None,
    Field(max_length=128, description="Requests of different salts share no cached keys and values, as in vLLM."),
]


class CompletionToScore(Completion):
    """A completion to score; `index` comes back with its result."""

    index: int | None = None


class ScoreRequest(BaseModel):
    """POST /v1/score."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[list[Message], Field(min_length=1)]
    completions: Annotated[list[str | CompletionToScore], Field(min_length=1)]
    tools: list[dict[str, Any]] | None = Field(
        None, description="Tool definitions, for models whose own chat template writes them; others read none."
    )
    orm: str | None = None
    route: str | None = Field(None, description="Picks the calibrator, where the checkpoint has one for this route.")
    locale: str | None = Field(None, description="Picks the head, where the checkpoint has one for this locale.")
    stopping_rule: str | None = Field(
        None, description="Picks the calibrator, where the checkpoint has one for winners under this rule."
    )
    deadline_ms: int | None = Field(None, gt=0)
    cache_salt: CacheSalt = None
    partial: bool = Field(False, description="The completions still grow: scored as if they ended here, uncalibrated.")

    @model_validator(mode="after")
    def _indices_differ(self) -> ScoreRequest:
        indices = [candidate.index for candidate in self.candidates()]
        if len(set(indices)) < len(indices):
            raise ValueError("two completions have the same index")
        return self

    def candidates(self) -> list[CompletionToScore]:
        """Completions as objects, each with an index."""
        found = [c if isinstance(c, CompletionToScore) else CompletionToScore(content=c) for c in self.completions]
        return [c if c.index is not None else c.model_copy(update={"index": i}) for i, c in enumerate(found)]


class PrefillRequest(BaseModel):
    """POST /v1/prefill."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[list[Message], Field(min_length=1)]
    tools: list[dict[str, Any]] | None = None
    orm: str | None = None
    cache_salt: CacheSalt = None


class ClassifyRequest(BaseModel):
    """POST /classify, as vLLM's pooling server takes it: texts, or a conversation that ends with the reply."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    input: str | list[str] | list[int] | list[list[int]] | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    # vLLM's older names of the same switch are obeyed too.
    use_activation: bool | None = Field(None, validation_alias=AliasChoices("use_activation", "activation", "softmax"))


class RewardRequest(BaseModel):
    """POST /get_reward, as OpenRLHF's remote reward model takes it."""

    model_config = ConfigDict(extra="ignore")

    query: str | list[str]
    prompts: list[Any] | None = None
    labels: list[Any] | None = None
