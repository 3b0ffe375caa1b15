"""The gateway's errors, as one tree, and the HTTP status and body of each.

WinnowError
├── SetupError              something must be installed, configured or freed first (command line only)
└── ApiError                has an HTTP status and an OpenAI error body
    ├── InvalidRequest      400  what was sent cannot be answered; `param` says which part
    │   ├── BodyTooLarge    413
    │   └── WrongMediaType  415
    ├── NotAuthenticated    401
    ├── Forbidden           403
    ├── NotFound            404
    ├── Conflict            409  somebody else was first, or it is not in the state for this
    ├── RateLimited         429  this tenant sent too much
    ├── Overloaded          503  the gateway has as much as it can carry
    ├── ShuttingDown        503  the gateway is stopping; another one, or the same one later, answers
    ├── StoreUnavailable    503  what a person is promised cannot be kept
    ├── UpstreamError            a policy or the scorer failed
    │   ├── PolicyUnavailable     502  the policy cannot be reached, broke off, or is not set up for what it is asked
    │   │   └── PolicyOverloaded  503  the policy has as much as it can carry
    │   └── ScorerUnavailable     503  the scorer cannot be reached, or failed
    │       ├── ScorerLate             it works, and has no time left for this
    │       └── ModelMoved             it serves another version than the one that was pinned
    └── DeadlineMissed      504  nothing was ready in time
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

# How an upstream failed: unreachable, silent for too long, broke off in mid-answer, answered nonsense, refused the
# gateway's key or model, has too much to do, refused the request, failed by its own account, serves another version,
# or was not asked at all because it failed before.
Failure = Literal[
    "unreachable",
    "timeout",
    "broke_off",
    "malformed",
    "misconfigured",
    "overloaded",
    "refused",
    "failed",
    "moved",
    "circuit_open",
]


class WinnowError(Exception):
    """Base of the tree; the message is meant for a person."""


class SetupError(WinnowError):
    """Something must be installed, configured or freed first."""


class ApiError(WinnowError):
    """An error with an HTTP status and an OpenAI body."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code or self.code
        self.retry_after = retry_after
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(ApiError):
    """What was sent cannot be answered."""

    status = 400
    type = "invalid_request_error"


class BodyTooLarge(InvalidRequest):
    """The body is over the limit."""

    status = 413
    code = "body_too_large"


class WrongMediaType(InvalidRequest):
    """The body is not of the type, or in the encoding, that is read here."""

    status = 415
    code = "unsupported_media_type"


class NotAuthenticated(ApiError):
    """No key, or one that nobody has."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(ApiError):
    """The key's role does not allow this."""

    status = 403
    type = "permission_error"
    code = "insufficient_role"


class NotFound(ApiError):
    """No such model or response."""

    status = 404
    type = "invalid_request_error"


class Conflict(ApiError):
    """Somebody else was first, or it is not in the state for this."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"


class RateLimited(ApiError):
    """This tenant sent too much."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class Overloaded(ApiError):
    """The gateway has as much as it can carry."""

    status = 503
    code = "overloaded"


class ShuttingDown(ApiError):
    """The gateway is stopping."""

    status = 503
    code = "shutting_down"


class UpstreamError(ApiError):
    """A policy or scorer failed. `kind` says how, in a word for metrics; the message never holds its own text."""

    def __init__(
        self,
        message: str,
        *,
        kind: Failure = "failed",
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code, retry_after=retry_after)
        self.kind = kind


class PolicyUnavailable(UpstreamError):
    """The policy cannot be reached, broke off, or is not set up for what it is asked."""

    status = 502
    code = "policy_unavailable"


class PolicyOverloaded(PolicyUnavailable):
    """The policy has as much as it can carry."""

    status = 503
    code = "policy_overloaded"


class StoreUnavailable(ApiError):
    """What a person is promised cannot be kept."""

    status = 503
    code = "store_unavailable"


class ScorerUnavailable(UpstreamError):
    """The scorer cannot be reached, or failed."""

    status = 503
    code = "scorer_unavailable"


class ScorerLate(ScorerUnavailable):
    """The scorer works, and could not score this before its deadline."""


class ModelMoved(ScorerUnavailable):
    """The scorer no longer serves the version that was pinned: `Scorer.resolve(orm, fresh=True)` says which it does."""


class DeadlineMissed(ApiError):
    """Nothing was ready in time."""

    status = 504
    code = "deadline_missed"
