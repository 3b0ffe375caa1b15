"""Who may start. A request counts once (`admit`); its work is reserved before it begins (`reserve`), weighed by
candidates: a greedy answer weighs 1, best-of-16 weighs 16.

Candidates at once are bounded in this process, with no await between the check and the taking. Requests and tokens a
minute are `Rates`, which several gateways can share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache, partial

from service.admission.permit import Permit
from service.admission.rates import Rates
from service.admission.window import Window
from service.errors import InvalidRequest, Overloaded, RateLimited
from service.identity import Identity
from service.settings.tenants import TenantLimits
from service.telemetry.metrics import Metrics

# Candidates end within seconds, and when is not known.
_SOON_SECONDS = 1.0


class Admission:
    """At most `bound` candidates at work in this gateway, and each tenant within its limits."""

    def __init__(self, bound: int, limits: Callable[[str], TenantLimits], rates: Rates, metrics: Metrics) -> None:
        self.inflight = 0
        self._bound = bound
        # Tenants are those of the keys file.
        self._limits = cache(limits)
        self._rates = rates
        self._metrics = metrics.admission
        self._held: Counter[str] = Counter()
        # Read when somebody looks, not written at every change.
        metrics.admission.inflight.set_function(lambda: self.inflight)

    async def admit(self, identity: Identity) -> dict[str, str]:
        """Count one request; returns the x-ratelimit headers for its response. Raises RateLimited, with the same."""
        tenant = identity.tenant
        limits = self._limits(tenant)
        allowed, requests = await self._rates.take("requests", tenant, limits.requests_per_minute, 1)
        tokens = await self._rates.glance("tokens", tenant, limits.tokens_per_minute)
        headers = requests.headers("requests") | tokens.headers("tokens")
        if not allowed:
            raise self._refused(
                "requests", f"{limits.requests_per_minute} requests a minute are allowed", requests.wait(1), headers
            )
        return headers

    def check(self) -> None:
        """Overloaded at once if not even one candidate has room, before any work is spent on the request."""
        if self.inflight >= self._bound:
            raise self._overloaded()

    async def reserve(
        self, identity: Identity, route: str, *, n: int, max_tokens: int, min_n: int | None = None
    ) -> Permit:
        """A permit for `n` candidates of at most `max_tokens` tokens each, or for fewer, down to `min_n`.

        Raises RateLimited at a limit of the tenant, Overloaded at one of the gateway, InvalidRequest for what is
        beyond a limit even if nothing else is at work.
        """
        tenant, limits = identity.tenant, self._limits(identity.tenant)
        least = n if min_n is None else min(n, min_n)
        self._refuse_impossible(limits, least, max_tokens)
        permit = self._take(tenant, limits, n, least)
        try:
            window = await self._take_tokens(permit, tenant, limits, least, max_tokens)
        except BaseException:
            permit.release()
            raise
        permit.headers |= window.headers("tokens")
        if permit.n < n:
            self._metrics.shrunk.labels(route).inc()
        return permit

    async def settled(self) -> None:
        """Wait until every token that was settled is counted."""
        await self._rates.charged()

    async def close(self) -> None:
        """Count what was settled, and leave the shared store."""
        await self._rates.close()

    def _take(self, tenant: str, limits: TenantLimits, n: int, least: int) -> Permit:
        """As many candidates as there is room for. No await in here: nobody can take the same room."""
        mine, anyones = limits.concurrent_candidates - self._held[tenant], self._bound - self.inflight
        if mine < least:
            message = f"{limits.concurrent_candidates} candidates at once are allowed, and this request needs {least}"
            raise self._refused("candidates", message, _SOON_SECONDS, {})
        if anyones < least:
            raise self._overloaded()
        taken = min(n, mine, anyones)
        self._hold(tenant, taken)
        charge = partial(self._rates.charge, "tokens", tenant, limits.tokens_per_minute)
        return Permit(taken, 0, release=lambda count: self._hold(tenant, -count), charge=charge)

    async def _take_tokens(
        self, permit: Permit, tenant: str, limits: TenantLimits, least: int, max_tokens: int
    ) -> Window:
        """Reserve the tokens of as many of the permit's candidates as the tenant has tokens left for."""
        limit, count = limits.tokens_per_minute, permit.n
        while True:
            done, window = await self._rates.take("tokens", tenant, limit, count * max_tokens)
            if done:
                permit.shrink(count, count * max_tokens)
                return window
            # Others may have taken tokens meanwhile, so a smaller request can be refused too.
            count = min(count - 1, window.remaining // max_tokens)
            if count < least:
                message = f"{limit} tokens a minute are allowed, and this request may sample {least * max_tokens}"
                raise self._refused("tokens", message, window.wait(least * max_tokens), window.headers("tokens"))

    def _hold(self, tenant: str, count: int) -> None:
        self.inflight += count
        self._held[tenant] += count
        if not self._held[tenant]:
            del self._held[tenant]

    def _refuse_impossible(self, limits: TenantLimits, least: int, max_tokens: int) -> None:
        most = min(self._bound, limits.concurrent_candidates)
        if least > most:
            raise InvalidRequest(
                f"this request needs {least} candidates, and no more than {most} are ever allowed at once",
                param="rerank.n",
                code="request_too_large",
            )
        if least * max_tokens > limits.tokens_per_minute:
            raise InvalidRequest(
                f"{least} candidates of {max_tokens} tokens are more than the {limits.tokens_per_minute} tokens that "
                "are allowed in a minute; ask for fewer",
                param="max_tokens",
                code="request_too_large",
            )

    def _refused(self, limit: str, message: str, wait: float, headers: dict[str, str]) -> RateLimited:
        self._metrics.refused.labels(limit).inc()
        return RateLimited(f"{message}; try again later", retry_after=wait, headers=headers)

    def _overloaded(self) -> Overloaded:
        self._metrics.refused.labels("gateway").inc()
        message = f"{self.inflight} candidates are at work, and this gateway takes {self._bound}; try again later"
        return Overloaded(message, retry_after=_SOON_SECONDS)
