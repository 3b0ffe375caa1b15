"""Settings of a route, and the profiles that ship."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from reward_model.stopping import ExpectedGain, StoppingRule, Waves
from routing.routes import Route
from routing.rules import TextRule, need_names

Profile = Literal["standard", "demo"]

# A ticket's reason holds it.
_FLAG_NAME = 50
_HELD = "Thank you for your message. A person will check the answer and reply to you shortly."
_NO_ANSWER = "I am sorry, I cannot answer this reliably."
_SORRY = "I am sorry, I cannot answer this reliably. A person will look into it and reply to you."


RiskTarget = Annotated[str, StringConstraints(pattern=r"^risk:0?\.\d*[1-9]\d*$")]


class RouteSettings(BaseModel):
    """What is done with one kind of request."""

    model_config = ConfigDict(extra="forbid")

    strategy: Literal["best_of_n", "greedy"] = Field(
        "best_of_n", description="Sample and score several candidates, or pass on one greedy completion."
    )
    policy: str = Field("default", description="Name of the policy to sample from.")
    orm: str = Field("champion", description="Reward model: an alias, or name@version.")
    n: int = Field(8, ge=1, le=64, description="Number of candidates.")
    max_n: int = Field(16, ge=1, le=64, description="Maximum n that a request may ask for.")
    temperature: float = Field(0.8, ge=0, le=2, description="Sampling temperature of the candidates.")
    top_p: float | None = Field(
        None, gt=0, le=1, description="Nucleus sampling of candidates. Unset: the policy's default."
    )
    min_p: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Minimum probability of a token, relative to the likeliest one. Unset: the policy's default.",
    )
    instructions: str | None = Field(None, description="The company's system message, put before the conversation.")
    instructions_file: Path | None = Field(None, description="UTF-8 file of the instructions, read at start.")
    on_client_system: Literal["keep", "append", "replace"] = Field(
        "keep",
        description="What a client's own system message does: `keep` uses it instead of the instructions, `append` "
        "adds it to them, `replace` discards it.",
    )
    shrink_to: int | None = Field(
        None,
        ge=1,
        description="Minimum number of candidates to sample if a limit leaves no room for `n`; the calibrator then "
        "no longer holds. Unset: such a request is refused.",
    )
    max_tokens_limit: int = Field(4096, ge=1, description="Maximum `max_tokens` that a request may ask for.")
    allow_off: bool = Field(
        True, description="Allow clients to turn reranking off (`rerank.mode = off`) on a best-of-N route."
    )
    max_tokens: int = Field(160, ge=1, description="Token limit of a completion if the request sets none.")
    stop_cost: float | None = Field(
        None,
        gt=0,
        description="Stop a candidate whose expected gain is below this many standard deviations of winner scores. "
        "Unset: run all candidates to completion.",
    )
    stop_marks: list[int] = Field(
        [32, 48, 64, 96],
        description="Numbers of completion tokens at which candidates are scored to decide whether to stop them.",
    )
    waves: list[int] | None = Field(
        None,
        description="Sample in waves, such as `[2, 4, 8]`, and start the next wave only if one more candidate is "
        "expected to raise the winner's probability by at least `wave_cost`. Unset: sample all at once.",
    )
    wave_cost: float = Field(
        0.002, gt=0, lt=1, description="Minimum expected gain in probability for which another wave is sampled."
    )
    early_accept: bool = Field(False, description="Send the first candidate that is accepted, and cancel the others.")
    accept_threshold: Annotated[float, Field(ge=0, le=1)] | RiskTarget = Field(
        0.6,
        description="Minimum probability to accept an answer. `risk:0.05` takes the threshold that the checkpoint's "
        "calibration found for this route, under which at most 0.05 of the accepted answers are unacceptable; without "
        "one nothing is accepted.",
    )
    review_threshold: float = Field(
        0.3, ge=0, le=1, description="Minimum probability to send an answer to review instead of falling back."
    )
    max_disagreement: float | None = Field(
        None,
        gt=0,
        description="Maximum standard deviation of an ensemble's scores. Beyond it, the answer goes to review.",
    )
    red_flags: tuple[TextRule, ...] = Field(
        (),
        description="Keywords and patterns that send an answer to review if they match the user's turns or the reply.",
    )
    review_share: float = Field(
        1.0, ge=0, le=1, description="Fraction of review decisions that open a ticket if `on_review` is `send`."
    )
    spot_check: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Fraction of the remaining answers sampled for human review, so that verdicts can be reweighted "
        "to all traffic.",
    )
    budget_ms: int = Field(30_000, ge=100, description="Time budget of a request from its arrival, in milliseconds.")
    min_budget_ms: int = Field(100, ge=1, description="Minimum budget that a request may ask for.")
    max_budget_ms: int = Field(120_000, ge=100, description="Maximum budget that a request may ask for.")
    on_review: Literal["send", "hold_message"] = Field(
        "hold_message", description="What the client gets if the decision is `review`: the winner, or `hold_message`."
    )
    on_fallback: Literal["send", "message", "greedy"] = Field(
        "message",
        description="What the client gets if the decision is `fallback`: the winner, `fallback_message`, or a "
        "greedy completion.",
    )
    on_timeout: Literal["error", "message"] = Field(
        "message", description="What the client gets if nothing is ready at the deadline: a 504, or `fallback_message`."
    )
    on_scorer_failure: Literal["error", "first_candidate", "fallback_message"] = Field(
        "fallback_message",
        description="What the client gets if the scorer fails: a 503, the first completed candidate, or "
        "`fallback_message`.",
    )
    length_cut_loses: bool = Field(
        True, description="Prefer candidates that ended to candidates that the token limit cut off."
    )
    hold_message: str = Field(_HELD, description="Message for the client while a reviewer decides.")
    fallback_message: str = Field(
        _SORRY, description="Message for the client instead of an answer that is not good enough."
    )

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
        if self.risk is None and self.review_threshold > self.least_probability:
            raise ValueError("review_threshold is above accept_threshold")
        if self.risk is not None and self.early_accept:
            raise ValueError(
                f"early_accept needs a number as its accept_threshold, not {self.accept_threshold!r}: a calibrator is "
                "fitted under the number"
            )
        need_names(self.red_flags)
        if long := [flag.name for flag in self.red_flags if len(flag.name) > _FLAG_NAME]:
            raise ValueError(f"red_flags: the name {long[0]!r} has more than {_FLAG_NAME} characters")
        self.stopping_rule(self.least_probability)
        return self

    @property
    def risk(self) -> float | None:
        """The share of unacceptable answers among accepted ones that the route bears, if it is set as such."""
        target = self.accept_threshold
        return float(target.removeprefix("risk:")) if isinstance(target, str) else None

    @property
    def least_probability(self) -> float:
        """The least probability that the setting itself asks for: 0 if the checkpoint has the threshold."""
        return 0.0 if isinstance(self.accept_threshold, str) else self.accept_threshold

    @property
    def least_n(self) -> int:
        """The fewest candidates that a request is answered with unless it asks for other numbers."""
        if self.strategy == "greedy":
            return 1
        return self.n if self.shrink_to is None else self.shrink_to

    def promise(self) -> str | None:
        """The setting by which this route tells a client that a person will answer; None if none does. An operator's
        own `fallback_message` is taken to promise nobody."""
        if self.on_review == "hold_message":
            return "on_review=hold_message"
        causes = {"on_fallback": "message", "on_timeout": "message", "on_scorer_failure": "fallback_message"}
        sent = next((f"{name}={value}" for name, value in causes.items() if getattr(self, name) == value), None)
        return sent if self.fallback_message == _SORRY else None

    def stopping_rule(self, accept_threshold: float) -> StoppingRule:
        """What may end sampling early, where answers are accepted from `accept_threshold` on."""
        return StoppingRule(
            gain=None if self.stop_cost is None else ExpectedGain(cost=self.stop_cost, marks=tuple(self.stop_marks)),
            waves=None if self.waves is None else Waves(sizes=tuple(self.waves), cost=self.wave_cost),
            accept_from=accept_threshold if self.early_accept else None,
        )


_JUDGED: dict[str, Any] = {"allow_off": False}
# Nobody is promised an answer where nobody may be there to give it.
_SEND: dict[str, Any] = {"on_review": "send", "on_fallback": "send", "fallback_message": _NO_ANSWER}
_DEFAULT: dict[str, Any] = {
    "strategy": "greedy",
    "on_review": "send",
    "on_fallback": "send",
    "fallback_message": _NO_ANSWER,
    "max_tokens": 512,
}
PROFILES: dict[Profile, dict[Route, dict[str, Any]]] = {
    "standard": {"billing": _JUDGED, "fraud": _JUDGED, "default": _DEFAULT},
    "demo": {"billing": _SEND, "fraud": _SEND, "default": _DEFAULT},
}
