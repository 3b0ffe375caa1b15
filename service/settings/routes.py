"""Settings of a route, and the profiles that ship."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reward_model.stopping import ExpectedGain, StoppingRule, Waves
from routing.routes import Route
from routing.rules import TextRule, need_names

Profile = Literal["standard", "demo"]

# A ticket's reason holds it.
_FLAG_NAME = 50
_HELD = "Thank you for your message. A person will check the answer and reply to you shortly."
_SORRY = "I am sorry, I cannot answer this reliably. A person will look into it and reply to you."


class RouteSettings(BaseModel):
    """What is done with one kind of request."""

    model_config = ConfigDict(extra="forbid")

    strategy: Literal["best_of_n", "greedy"] = Field("best_of_n", description="How it is answered.")
    policy: str = Field("default", description="Which policy samples.")
    orm: str = Field("champion", description="Which reward model scores: an alias, or name@version.")
    n: int = Field(8, ge=1, le=64, description="Candidates sampled.")
    max_n: int = Field(16, ge=1, le=64, description="Most candidates that a request may ask for.")
    temperature: float = Field(0.8, ge=0, le=2, description="Sampling temperature of candidates.")
    top_p: float | None = Field(
        None, gt=0, le=1, description="Nucleus sampling of candidates. Unset: the policy's default."
    )
    min_p: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Least probability of a token, relative to the likeliest one. Unset: the policy's default.",
    )
    instructions: str | None = Field(None, description="System message of the company, put before the conversation.")
    instructions_file: Path | None = Field(None, description="UTF-8 file of the instructions, read at start.")
    on_client_system: Literal["keep", "append", "replace"] = Field(
        "keep",
        description="What a client's own system message does: `keep` uses it instead of the instructions, `append` "
        "adds it to them, `replace` discards it.",
    )
    shrink_to: int | None = Field(
        None,
        ge=1,
        description="Fewest candidates to sample if a limit leaves no room for `n`; the calibrator then no longer "
        "applies. Unset: such a request is refused.",
    )
    max_tokens_limit: int = Field(4096, ge=1, description="Most completion tokens that a request may ask for.")
    allow_off: bool = Field(
        True, description="Whether a client may turn reranking off (`rerank.mode = off`) on a best-of-N route."
    )
    max_tokens: int = Field(160, ge=1, description="Completion tokens where the request names no limit.")
    stop_cost: float | None = Field(
        None,
        gt=0,
        description="Stop a candidate that is expected to raise the winner's score by less than so many standard "
        "deviations of winners' scores; where not set, all are sampled to their end.",
    )
    stop_marks: list[int] = Field([32, 48, 64, 96], description="Completion tokens at which that is judged.")
    waves: list[int] | None = Field(
        None,
        description="Sample in waves, such as `[2, 4, 8]`: a next one only while one more candidate is expected to "
        "raise the winner's probability by `wave_cost`; where not set, all at once.",
    )
    wave_cost: float = Field(0.002, gt=0, lt=1, description="Rise of the probability that a candidate must be worth.")
    early_accept: bool = Field(False, description="Send the first candidate that is accepted, and cancel the rest.")
    accept_threshold: float = Field(0.6, ge=0, le=1, description="Probability from which an answer is accepted.")
    review_threshold: float = Field(0.3, ge=0, le=1, description="Probability from which a person is asked.")
    max_disagreement: float | None = Field(
        None, gt=0, description="Standard deviation among an ensemble's scores above which a person is asked."
    )
    red_flags: tuple[TextRule, ...] = Field(
        (), description="Keywords and patterns in question or reply that send an answer to a person."
    )
    review_share: float = Field(
        1.0, ge=0, le=1, description="Share of review decisions that a person sees where `on_review` sends them anyway."
    )
    spot_check: float = Field(
        0.0, ge=0, le=1, description="Share of all other answers that a person sees, so that verdicts speak for all."
    )
    budget_ms: int = Field(30_000, ge=100, description="Time to answer in, from the request's arrival.")
    min_budget_ms: int = Field(100, ge=1, description="Least time that a request may ask for; less is a 400.")
    max_budget_ms: int = Field(120_000, ge=100, description="Most time that a request may ask for.")
    on_review: Literal["send", "hold_message"] = Field("hold_message", description="What a review sends.")
    on_fallback: Literal["send", "message", "greedy"] = Field("message", description="What a fallback sends.")
    on_timeout: Literal["error", "message"] = Field("message", description="When nothing was ready in time.")
    on_scorer_failure: Literal["error", "first_candidate", "fallback_message"] = Field(
        "fallback_message", description="When the scorer cannot be reached or fails."
    )
    length_cut_loses: bool = Field(True, description="A candidate cut off by length loses to one that ended.")
    hold_message: str = Field(_HELD, description="Sent while a person reviews.")
    fallback_message: str = Field(_SORRY, description="Sent instead of an answer that is not good enough.")

    @model_validator(mode="after")
    def _read_instructions(self) -> RouteSettings:
        if self.instructions_file is not None:
            if self.instructions is not None:
                raise ValueError("set instructions or instructions_file, not both")
            try:
                self.instructions = self.instructions_file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"instructions_file: {self.instructions_file} cannot be read ({error})") from error
        return self

    def instruction_messages(self) -> list[dict[str, str]]:
        """The instructions as the beginning of a conversation."""
        return [{"role": "system", "content": self.instructions}] if self.instructions else []

    def sampling_options(self) -> dict[str, float]:
        """The route's own sampling parameters beside the temperature."""
        options = {"top_p": self.top_p, "min_p": self.min_p}
        return {name: value for name, value in options.items() if value is not None}

    @model_validator(mode="after")
    def _bounds_hold(self) -> RouteSettings:
        if self.n > self.max_n:
            raise ValueError(f"n={self.n} is above max_n={self.max_n}")
        if self.shrink_to is not None and self.shrink_to > self.n:
            raise ValueError(f"shrink_to={self.shrink_to} is above n={self.n}")
        if self.max_tokens > self.max_tokens_limit:
            raise ValueError(f"max_tokens={self.max_tokens} is above max_tokens_limit={self.max_tokens_limit}")
        if self.budget_ms > self.max_budget_ms:
            raise ValueError(f"budget_ms={self.budget_ms} is above max_budget_ms={self.max_budget_ms}")
        if self.budget_ms < self.min_budget_ms:
            raise ValueError(f"budget_ms={self.budget_ms} is below min_budget_ms={self.min_budget_ms}")
        if self.review_threshold > self.accept_threshold:
            raise ValueError("review_threshold is above accept_threshold")
        need_names(self.red_flags)
        if long := [flag.name for flag in self.red_flags if len(flag.name) > _FLAG_NAME]:
            raise ValueError(f"red_flags: the name {long[0]!r} has more than {_FLAG_NAME} characters")
        self.stopping_rule(self.accept_threshold)
        return self

    @property
    def least_n(self) -> int:
        """The fewest candidates that a request is answered with unless it asks for other numbers."""
        if self.strategy == "greedy":
            return 1
        return self.n if self.shrink_to is None else self.shrink_to

    def stopping_rule(self, accept_threshold: float) -> StoppingRule:
        """What may end sampling early, where answers are accepted from `accept_threshold` on."""
        return StoppingRule(
            gain=None if self.stop_cost is None else ExpectedGain(cost=self.stop_cost, marks=tuple(self.stop_marks)),
            waves=None if self.waves is None else Waves(sizes=tuple(self.waves), cost=self.wave_cost),
            accept_from=accept_threshold if self.early_accept else None,
        )


_JUDGED: dict[str, Any] = {"allow_off": False}
_SEND: dict[str, Any] = {"on_review": "send", "on_fallback": "send"}
_DEFAULT: dict[str, Any] = {
    "strategy": "greedy",
    "on_review": "send",
    "on_fallback": "send",
    "max_tokens": 512,
}
PROFILES: dict[Profile, dict[Route, dict[str, Any]]] = {
    "standard": {"billing": _JUDGED, "fraud": _JUDGED, "default": _DEFAULT},
    "demo": {"billing": _SEND, "fraud": _SEND, "default": _DEFAULT},
}
