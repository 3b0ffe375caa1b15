"""The plan of a request: the route's settings with the request's own options, within the route's bounds."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from reward_model.calibration import instructions_digest
from reward_model.stopping import StoppingRule
from routing.router import RouteDecision
from service.errors import InvalidRequest
from service.identity import Identity
from service.request.schemas import ChatRequest
from service.request.schemas.parameters import changing_options
from service.settings import PolicySettings, RouteSettings

Strategy = Literal["best_of_n", "greedy"]

# Tools and formats are part of what is asked, as the messages are.
_ASKED = {"tools", "tool_choice", "response_format"}


@dataclass(frozen=True)
class Plan:
    """A request as it will be carried out."""

    route: str
    routed: RouteDecision
    settings: RouteSettings
    policy: PolicySettings
    strategy: Strategy
    n: int
    temperature: float
    budget_ms: int
    accept_threshold: float
    seed: int
    messages: list[dict[str, Any]]
    max_tokens: int
    options: dict[str, Any]
    cache_salt: str
    choices: int = 1
    locale: str | None = None
    stopping: StoppingRule = field(default_factory=StoppingRule)

    @property
    def stopping_rule(self) -> str:
        """What a calibrator must have been fitted under."""
        return self.stopping.name

    @property
    def least_n(self) -> int | None:
        """The fewest candidates that this request may be answered with if a limit leaves no room for `n`."""
        shrink_to = self.settings.shrink_to
        return None if shrink_to is None else max(shrink_to, self.choices)

    @property
    def user_texts(self) -> Iterator[str]:
        """All that the user said, a turn or a part of it at a time."""
        for message in self.messages:
            if message["role"] == "user":
                content = message.get("content") or ""
                yield from [content] if isinstance(content, str) else (part["text"] for part in content)

    @property
    def tools(self) -> list[dict[str, Any]] | None:
        """The tools that the policy is shown, as the reward model is to see them too."""
        return None if self.options.get("tool_choice") == "none" else self.options.get("tools")

    def selection(self, stopping_rule: str) -> dict[str, tuple[Any, Any]]:
        """How this answer's winner is selected, part by part: (its value now, the route's own).

        A probability holds only for the selection that its calibrator was fitted under; `n` and the stopping rule have
        no value of the route's own, so a calibrator must record them.
        """
        own = self.settings
        others = sorted(changing_options(self.options) - _ASKED)
        return {
            "n": (self.n, None),
            "stopping_rule": (stopping_rule, None),
            "temperature": (self.temperature, own.temperature),
            "top_p": (self.options.get("top_p"), own.top_p),
            "min_p": (self.options.get("min_p"), own.min_p),
            "max_tokens": (self.max_tokens, own.max_tokens),
            "policy": (self.policy.model, self.policy.model),
            "policy_revision": (self.policy.revision, self.policy.revision),
            "instructions": (instructions_digest(self.messages), instructions_digest(own.instruction_messages())),
            "other_options": (others, []),
        }

    def body(self, index: int, *, greedy: bool = False) -> dict[str, Any]:
        """The policy's request for candidate `index`: its own seed, the tenant's cache salt."""
        return {
            **self.options,
            "messages": self.messages,
            "max_tokens": self.max_tokens,
            "temperature": 0.0 if greedy else self.temperature,
            "seed": candidate_seed(self.seed, index),
            "cache_salt": self.cache_salt,
        }


def candidate_seed(seed: int, index: int) -> int:
    """63 bits from (request seed, candidate index): reproducible, and never the same for two candidates."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{index}".encode()).digest()[:8]) >> 1


def make_plan(
    request: ChatRequest,
    identity: Identity,
    decision: RouteDecision,
    settings: RouteSettings,
    policy: PolicySettings,
) -> Plan:
    """Combine route and request; InvalidRequest names the bound that a wish is beyond."""
    route = decision.route
    strategy = _strategy(request, route, settings)
    temperature = _temperature(request, settings, strategy)
    n = _candidates(request, route, settings, strategy, temperature)
    threshold = _threshold(request, route, settings)
    return Plan(
        route=route,
        routed=decision,
        settings=settings,
        policy=policy,
        strategy=strategy,
        n=n,
        temperature=temperature,
        budget_ms=_budget(request, route, settings),
        accept_threshold=threshold,
        seed=secrets.randbits(63) if request.seed is None else request.seed,
        messages=_conversation(request, settings),
        max_tokens=_max_tokens(request, route, settings),
        options=settings.sampling_options() | request.sampling_options(),
        cache_salt=identity.cache_salt,
        choices=request.n,
        locale=request.rerank.locale,
        # If several choices are to be returned, the lesser ones are wanted too.
        stopping=StoppingRule() if n == 1 or request.n > 1 else settings.stopping_rule(threshold),
    )


def _strategy(request: ChatRequest, route: str, settings: RouteSettings) -> Strategy:
    mode = request.rerank.mode
    if mode == "off" and settings.strategy == "best_of_n" and not settings.allow_off:
        raise InvalidRequest(
            f"rerank.mode=off is not allowed on the route {route}, which this request takes: its answers are judged "
            "before they are sent; leave the mode out",
            param="rerank.mode",
        )
    if mode == "auto":
        return settings.strategy
    return "greedy" if mode == "off" else "best_of_n"


def _candidates(
    request: ChatRequest, route: str, settings: RouteSettings, strategy: Strategy, temperature: float
) -> int:
    n = (request.rerank.n or settings.n) if strategy == "best_of_n" else 1
    _bound("rerank.n", n, at_most=settings.max_n, route=route)
    if temperature == 0:
        # Every sample would be the same one.
        n = 1
    if request.n > n:
        raise InvalidRequest(
            f"n={request.n} choices are more than the {n} candidates sampled on the route {route} at temperature "
            f'{temperature:g}; ask for more with {{"rerank": {{"mode": "best_of_n", "n": ...}}}}, above temperature 0',
            param="n",
        )
    return n


def _budget(request: ChatRequest, route: str, settings: RouteSettings) -> int:
    budget = request.rerank.budget_ms or settings.budget_ms
    _bound("rerank.budget_ms", budget, at_most=settings.max_budget_ms, route=route)
    if budget < settings.min_budget_ms:
        raise InvalidRequest(
            f"rerank.budget_ms={budget} is below {settings.min_budget_ms}, the least that the route {route} can keep",
            param="rerank.budget_ms",
        )
    return budget


def _max_tokens(request: ChatRequest, route: str, settings: RouteSettings) -> int:
    name = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
    count = request.max_completion_tokens or request.max_tokens or settings.max_tokens
    _bound(name, count, at_most=settings.max_tokens_limit, route=route)
    return count


def _threshold(request: ChatRequest, route: str, settings: RouteSettings) -> float:
    threshold = request.rerank.accept_threshold
    if threshold is None:
        return settings.least_probability
    if threshold < settings.least_probability:
        raise InvalidRequest(
            f"rerank.accept_threshold={threshold} is below {settings.least_probability}, the route {route}'s own; "
            "a request may only be stricter",
            param="rerank.accept_threshold",
        )
    return threshold


def _conversation(request: ChatRequest, settings: RouteSettings) -> list[dict[str, Any]]:
    """The messages under the route's instructions; what a client's own system turns are worth, the route says."""
    messages, own = request.policy_messages(), settings.instruction_messages()
    if settings.on_client_system == "replace":
        messages = [message for message in messages if message["role"] not in ("system", "developer")]
        return own + messages
    if not own:
        return messages
    theirs = [message for message in messages if message["role"] in ("system", "developer")]
    if theirs and settings.on_client_system == "keep":
        return messages
    # Chat templates know one system turn: the route's instructions come first, the client's are appended to them.
    texts = [message_text(message) for message in (*own, *theirs)]
    rest = [message for message in messages if message["role"] not in ("system", "developer")]
    return [{"role": "system", "content": "\n\n".join(texts)}, *rest]


def message_text(message: dict[str, Any]) -> str:
    """A message's content as one text."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def _temperature(request: ChatRequest, settings: RouteSettings, strategy: Strategy) -> float:
    wishes = (request.rerank.temperature, request.temperature)
    requested = next((wish for wish in wishes if wish is not None), None)
    if requested is not None:
        return requested
    return settings.temperature if strategy == "best_of_n" else 0.0


def _bound(name: str, value: int, *, at_most: int, route: str) -> None:
    if value > at_most:
        raise InvalidRequest(f"{name}={value} is above {at_most}, the limit of the route {route}", param=name)
