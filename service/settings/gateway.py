"""Every setting of the gateway, once: from the command line, WINNOW_* variables, or winnow.toml, in this order."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from routing.routes import Route
from routing.settings import RouterSettings
from service.errors import SetupError
from service.settings.parameters import NEVER_PASSED, PASSED_PARAMETERS
from service.settings.policy import Dialect, PolicySettings, UpstreamSettings, base_url
from service.settings.routes import PROFILES, Profile, RouteSettings
from service.settings.store import StoreSettings
from service.settings.tenants import TenantLimits, TenantSettings
from service.telemetry.logs import LogFormat, LogLevel


class Settings(BaseSettings):
    """Settings of the gateway. In the environment: WINNOW_PORT, WINNOW_ROUTES__BILLING__N and so on."""

    model_config = SettingsConfigDict(env_prefix="WINNOW_", env_nested_delimiter="__", extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on.")
    profile: Profile = Field(
        "standard",
        description="`standard` holds billing and fraud answers that are not accepted; `demo` sends them.",
    )
    keys_file: Path | None = Field(None, description="JSON file of hashed API keys, made by `winnow key`.")
    policy_url: str = Field(
        "http://127.0.0.1:8001", description="Base URL of the policy, an OpenAI-compatible server, without /v1."
    )
    policy_model: str = Field("smollm2-135m-instruct", description="Model name to request from the policy.")
    policy_api_key: str | None = Field(None, description="Bearer token that the policy requires, if any.")
    policy_dialect: Dialect = Field(
        "vllm", description="Which parameters the policy understands; see `dialect` of a policy."
    )
    policy_headers: dict[str, str] = Field(default_factory=dict, description="Additional headers for the policy.")
    policy_revision: str | None = Field(
        None, description="Revision of the policy's weights. Calibrators fitted on another revision do not hold."
    )
    policies: dict[str, PolicySettings] = Field(default_factory=dict, description="Additional policies, by name.")
    scorer_url: str = Field("http://127.0.0.1:8002", description="Base URL of the Winnow scorer.")
    scorer_api_key: str | None = Field(None, description="Bearer token that the scorer requires, if any.")
    scorer_cache_salt: bool = Field(
        True,
        description="Separate tenants in the scorer's prefix cache, so that none can tell by timing what another "
        "has sent. Off: instructions that tenants have in common are computed once.",
    )
    upstreams: UpstreamSettings = Field(
        default_factory=UpstreamSettings, description="When a policy or the scorer counts as failed."
    )
    max_body_bytes: int = Field(
        1_000_000, ge=1_000, description="Maximum size of a request body, in bytes. Larger ones get a 413."
    )
    max_inflight_candidates: int = Field(
        512,
        ge=1,
        description="Maximum number of candidates in progress on this gateway: a greedy answer counts 1, best-of-8 "
        "counts 8. Beyond it, requests get a 503 with `retry-after`.",
    )
    concurrent_candidates: int = Field(
        256,
        ge=1,
        description="Maximum number of candidates that one tenant may have in progress on each gateway. Beyond it, "
        "the tenant gets a 429.",
    )
    requests_per_minute: int = Field(
        600, ge=1, description="Maximum number of requests of one tenant per minute. Beyond it, the tenant gets a 429."
    )
    tokens_per_minute: int = Field(
        1_000_000,
        ge=1,
        description="Maximum number of sampled tokens of one tenant per minute, all candidates counted. n * "
        "max_tokens are reserved when a request starts, and what was not sampled is returned at its "
        "end. Beyond it, the tenant gets a 429.",
    )
    tenants: dict[str, TenantSettings] = Field(default_factory=dict, description="Limits of single tenants, by name.")
    limits_url: str | None = Field(
        None,
        description="`redis://HOST:6379/0`, `rediss://...` or `valkey://...`, to share the limits per minute among "
        "several gateways (extra `redis`). Unset, or while that server does not answer: each gateway "
        "counts for itself.",
    )
    drain_seconds: int = Field(
        60, ge=0, description="How long requests in flight may take to finish when the gateway stops, in seconds."
    )
    drain_delay_seconds: float = Field(
        0,
        ge=0,
        description="How long a stopping gateway that is no longer ready still accepts requests, in seconds, so "
        "that a load balancer that polls /readyz notices. Not needed on Kubernetes, whose preStop hook "
        "does the same.",
    )
    log_format: LogFormat = Field(
        "auto",
        description="`json` writes one JSON object a line, `text` is for people; `auto` writes text on a terminal, "
        "else JSON.",
    )
    log_level: LogLevel = Field("info", description="Minimum severity of the gateway's log messages.")
    traces_endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="OTLP/HTTP collector of OpenTelemetry spans, such as http://collector:4318. Needs the extra "
        "`otel`. OTEL_* variables set headers, sampling and resource attributes. Unset: no tracing.",
    )
    keepalive_seconds: float = Field(
        5.0, gt=0, description="Interval of keep-alive comments on a stream that has no data yet, in seconds."
    )
    remembered_responses: int = Field(
        10_000, ge=0, description="Number of `rerank` objects kept in memory for lookup by response id."
    )
    passed_parameters: tuple[str, ...] = Field(
        PASSED_PARAMETERS, description="Request parameters beyond OpenAI's that are passed on to the policy."
    )
    unknown_parameters: Literal["refuse", "ignore"] = Field(
        "refuse",
        description="What to do with any other parameter: refuse it with a 400 that names it, or ignore it and name "
        "it in the header `x-winnow-ignored`.",
    )
    cors_origins: tuple[str, ...] = Field(
        (), description="Origins whose pages may call the API from a browser, or `*`. Empty: none."
    )
    store: StoreSettings = Field(default_factory=StoreSettings, description="What is stored, and where.")
    router: RouterSettings = Field(
        default_factory=RouterSettings, description="The router's model, thresholds and rules."
    )
    routes: dict[Route, RouteSettings] = Field(
        default_factory=dict, validate_default=True, description="What each route does."
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

    @field_validator("policy_url", "scorer_url")
    @classmethod
    def _base_urls(cls, url: str) -> str:
        return base_url(url)

    @model_validator(mode="after")
    def _policies_exist(self) -> Settings:
        for name, route in self.routes.items():
            if route.policy != "default" and route.policy not in self.policies:
                raise ValueError(f"routes.{name}.policy: no policy goes by the name {route.policy!r}")
        return self

    @field_validator("passed_parameters")
    @classmethod
    def _policy_is_ours(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := sorted(set(names) & NEVER_PASSED):
            raise ValueError(f"{wrong[0]} is set by the gateway and never passes from a request")
        return names

    @model_validator(mode="after")
    def _promises_can_be_kept(self) -> Settings:
        promises = ((name, promise) for name, route in self.routes.items() if (promise := route.promise()))
        name, promise = next(promises, (None, None))
        if name is None or (self.store.url != "none" and self.store.texts):
            return self
        missing = (
            "store.url=none keeps no ticket for them" if self.store.url == "none" else "store.texts=false hides replies"
        )
        remedy = "set store.url" if self.store.url == "none" else "set store.texts=true"
        raise ValueError(
            f"routes.{name}.{promise} promises that a person will answer, and {missing}: {remedy}, or let each route "
            "send its answers (on_review=send, on_fallback=send, and a fallback_message that promises nobody, as "
            "profile=demo has them)"
        )

    def policy(self, name: str) -> PolicySettings:
        """The endpoint that a route's `policy` names."""
        if name == "default":
            return PolicySettings(
                url=self.policy_url,
                model=self.policy_model,
                api_key=self.policy_api_key,
                dialect=self.policy_dialect,
                headers=self.policy_headers,
                revision=self.policy_revision,
            )
        return self.policies[name]

    @model_validator(mode="after")
    def _routes_fit_the_limits(self) -> Settings:
        """A route that a limit never lets through is a mistake."""
        for name, route in self.routes.items():
            least, tokens = route.least_n, route.least_n * route.max_tokens
            if self.max_inflight_candidates < least:
                raise ValueError(f"max_inflight_candidates is below {least}, which routes.{name} needs at once")
            for tenant in ("", *self.tenants):
                limits, owner = self.tenant(tenant), f"tenants.{tenant}." if tenant else ""
                if limits.concurrent_candidates < least:
                    raise ValueError(
                        f"{owner}concurrent_candidates is below {least}, which routes.{name} needs at once"
                    )
                if limits.tokens_per_minute < tokens:
                    raise ValueError(f"{owner}tokens_per_minute is below {tokens}, which routes.{name} needs at once")
        return self

    def tenant(self, name: str) -> TenantLimits:
        """The limits that hold for a tenant."""
        own = self.tenants.get(name, TenantSettings())
        return TenantLimits(
            own.requests_per_minute or self.requests_per_minute,
            own.concurrent_candidates or self.concurrent_candidates,
            own.tokens_per_minute or self.tokens_per_minute,
        )

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
