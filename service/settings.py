"""Every setting of the gateway, once: from the command line, WINNOW_* variables, or winnow.toml, in this order."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from reward_model.stopping import ExpectedGain, StoppingRule, Waves
from routing.rules import RouterSettings, TextRule, need_names
from service.errors import SetupError

RouteName = Literal["billing", "fraud", "default"]
Profile = Literal["standard", "demo"]

# A ticket's reason holds it.
_FLAG_NAME = 50
_HELD = "Thank you for your message. A person will check the answer and reply to you shortly."
_SORRY = "I am sorry, I cannot answer this reliably. A person will look into it and reply to you."


class PolicySettings(BaseModel):
    """A policy endpoint beside the default one, named in a route's `policy`."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(description="Base URL of an OpenAI-compatible server, without /v1.")
    model: str = Field(description="Model name to ask it for.")
    api_key: str | None = Field(None, description="Bearer token it wants, if any.")


class RouteSettings(BaseModel):
    """What is done with one kind of request."""

    model_config = ConfigDict(extra="forbid")

    strategy: Literal["best_of_n", "greedy"] = Field("best_of_n", description="How it is answered.")
    policy: str = Field("default", description="Which policy samples.")
    orm: str = Field("champion", description="Which reward model scores: an alias, or name@version.")
    n: int = Field(8, ge=1, le=64, description="Candidates sampled.")
    max_n: int = Field(16, ge=1, le=64, description="Most candidates that a request may ask for.")
    temperature: float = Field(0.8, ge=0, le=2, description="Sampling temperature of candidates.")
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
        (), description="Keywords and patterns in question or reply that send an answer to a person (docs/store.md)."
    )
    review_share: float = Field(
        1.0, ge=0, le=1, description="Share of review decisions that a person sees where `on_review` sends them anyway."
    )
    spot_check: float = Field(
        0.0, ge=0, le=1, description="Share of all other answers that a person sees, so that verdicts speak for all."
    )
    budget_ms: int = Field(30_000, ge=100, description="Time to answer in, from the request's arrival.")
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
    def _bounds_hold(self) -> RouteSettings:
        if self.n > self.max_n:
            raise ValueError(f"n={self.n} is above max_n={self.max_n}")
        if self.budget_ms > self.max_budget_ms:
            raise ValueError(f"budget_ms={self.budget_ms} is above max_budget_ms={self.max_budget_ms}")
        if self.review_threshold > self.accept_threshold:
            raise ValueError("review_threshold is above accept_threshold")
        need_names(self.red_flags)
        if long := [flag.name for flag in self.red_flags if len(flag.name) > _FLAG_NAME]:
            raise ValueError(f"red_flags: the name {long[0]!r} has more than {_FLAG_NAME} characters")
        self.stopping_rule(self.accept_threshold)
        return self

    def stopping_rule(self, accept_threshold: float) -> StoppingRule:
        """What may end sampling early, where answers are accepted from `accept_threshold` on."""
        return StoppingRule(
            gain=None if self.stop_cost is None else ExpectedGain(cost=self.stop_cost, marks=tuple(self.stop_marks)),
            waves=None if self.waves is None else Waves(sizes=tuple(self.waves), cost=self.wave_cost),
            accept_from=accept_threshold if self.early_accept else None,
        )


_SEND: dict[str, Any] = {"on_review": "send", "on_fallback": "send"}
_DEFAULT: dict[str, Any] = {
    "strategy": "greedy",
    "on_review": "send",
    "on_fallback": "send",
    "max_tokens": 512,
}
PROFILES: dict[Profile, dict[RouteName, dict[str, Any]]] = {
    "standard": {"billing": {}, "fraud": {}, "default": _DEFAULT},
    "demo": {"billing": _SEND, "fraud": _SEND, "default": _DEFAULT},
}


def state_folder() -> Path:
    """`WINNOW_STATE_DIR`, else `$XDG_STATE_HOME/winnow`, else `~/.local/state/winnow`."""
    if chosen := os.environ.get("WINNOW_STATE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "winnow"


_LEAST_SECRET = 16


class StoreSettings(BaseModel):
    """What is remembered of reranked requests, and where."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        "auto",
        description="`sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`; `auto`: a file in the state folder; "
        "`none`: nothing is kept.",
    )
    prompts: bool = Field(True, description="Keep what was asked, redacted.")
    texts: bool = Field(True, description="Keep candidates' texts, redacted.")
    webhook_url: str | None = Field(None, description="Told of reviews that are opened and decided (docs/store.md).")
    webhook_secret: str = Field("", description="Signs what it is told; wanted with `webhook_url`.")
    days: float | None = Field(90, gt=0, description="Delete answers that are older; `null`: never.")
    waiting: int = Field(10_000, ge=1, description="Answers that may wait to be written; more are dropped and counted.")

    @model_validator(mode="after")
    def _webhook_is_signed(self) -> StoreSettings:
        if self.webhook_url is not None and len(self.webhook_secret) < _LEAST_SECRET:
            raise ValueError(f"webhook_secret: at least {_LEAST_SECRET} characters, so that nobody guesses it")
        return self

    def address(self) -> str | None:
        """Where it is kept; None where nothing is."""
        return {"none": None, "auto": f"sqlite:///{state_folder() / 'winnow.db'}"}.get(self.url, self.url)


class Settings(BaseSettings):
    """Settings of the gateway. In the environment: WINNOW_PORT, WINNOW_ROUTES__BILLING__N and so on."""

    model_config = SettingsConfigDict(env_prefix="WINNOW_", env_nested_delimiter="__", extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on.")
    profile: Profile = Field(
        "standard",
        description="`standard` holds billing and fraud answers that are not accepted; `demo` sends them.",
    )
    keys_file: Path | None = Field(None, description="JSON file of hashed API keys (`winnow key`).")
    policy_url: str = Field("http://127.0.0.1:8001", description="Policy: an OpenAI-compatible server, without /v1.")
    policy_model: str = Field("smollm2-135m-instruct", description="Model name to ask the policy for.")
    policy_api_key: str | None = Field(None, description="Bearer token that the policy wants, if any.")
    policies: dict[str, PolicySettings] = Field(default_factory=dict, description="Further policies, by name.")
    scorer_url: str = Field("http://127.0.0.1:8002", description="Winnow scorer.")
    scorer_api_key: str | None = Field(None, description="Bearer token that the scorer wants, if any.")
    max_body_bytes: int = Field(1_000_000, ge=1_000, description="Largest request body.")
    max_inflight: int = Field(64, ge=1, description="Requests at work at once; more get a 503 and retry-after.")
    requests_per_minute: int = Field(600, ge=1, description="Requests of one tenant in a minute; more get a 429.")
    drain_seconds: int = Field(20, ge=0, description="Time that requests at work have to finish when it stops.")
    keepalive_seconds: float = Field(5.0, gt=0, description="Comment interval of a stream while it waits.")
    remembered_responses: int = Field(10_000, ge=0, description="Responses kept for lookup by id, in memory.")
    store: StoreSettings = Field(default_factory=StoreSettings, description="What is remembered (table below).")
    router: RouterSettings = Field(default_factory=RouterSettings, description="Thresholds and rules of routing.")
    routes: dict[RouteName, RouteSettings] = Field(
        default_factory=dict, validate_default=True, description="What is done on each route (table below)."
    )

    @model_validator(mode="before")
    @classmethod
    def _complete_routes(cls, data: Any) -> Any:
        """Lay what was given for a route over the profile's values."""
        profile = data.get("profile", "standard")
        given = data.get("routes") or {}
        if profile not in PROFILES or not isinstance(given, dict):
            return data
        names = [*PROFILES[profile], *(name for name in given if name not in PROFILES[profile])]
        merged = {name: {**PROFILES[profile].get(name, {}), **_as_dict(given.get(name))} for name in names}
        return {**data, "routes": merged}

    @model_validator(mode="after")
    def _policies_exist(self) -> Settings:
        for name, route in self.routes.items():
            if route.policy != "default" and route.policy not in self.policies:
                raise ValueError(f"routes.{name}.policy: no policy goes by the name {route.policy!r}")
        return self

    def policy(self, name: str) -> PolicySettings:
        """The endpoint that a route's `policy` names."""
        if name == "default":
            return PolicySettings(url=self.policy_url, model=self.policy_model, api_key=self.policy_api_key)
        return self.policies[name]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line, then environment, then the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def _as_dict(value: Any) -> dict[str, Any]:
    if isinstance(value, RouteSettings):
        return value.model_dump(exclude_unset=True)
    return value or {}


def load_settings(config: Path | None = None, **overrides: Any) -> Settings:
    """Settings from `config` (a TOML file), the environment, and the overrides that are not None.

    Raises SetupError naming the setting that does not fit.
    """
    chosen = config or (Path(path) if (path := os.environ.get("WINNOW_CONFIG")) else None)
    if chosen is not None and not chosen.is_file():
        raise SetupError(f"{chosen}: no such file")

    class Configured(Settings):
        model_config = SettingsConfigDict(toml_file=chosen)

    try:
        return Configured(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        problems = "\n".join(
            f"  {'.'.join(str(step) for step in item['loc']) or 'settings'}: {item['msg']}" for item in error.errors()
        )
        raise SetupError(f"the settings do not fit:\n{problems}") from error
    except ValueError as error:
        raise SetupError(f"{chosen}: {error}") from error


def settings_table() -> str:
    """The README's tables of settings, in Markdown."""
    return "\n".join(
        [
            *markdown_table(Settings, "WINNOW_"),
            "",
            "Each route:",
            "",
            *markdown_table(RouteSettings, ""),
            "",
            "The store:",
            "",
            *markdown_table(StoreSettings, "WINNOW_STORE__"),
        ]
    )


def markdown_table(model: type[BaseModel], prefix: str) -> list[str]:
    """Lines of a table of a model's fields; with a prefix, of the variables that set them."""
    lines = [f"| {'variable' if prefix else 'setting'} | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        default = "" if field.is_required() or field.default_factory else f"`{field.get_default()}`"
        shown = f"{prefix}{name.upper()}" if prefix else name
        lines.append(f"| `{shown}` | {default} | {field.description} |")
    return lines
