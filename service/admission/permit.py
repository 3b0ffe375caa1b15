"""A permit to work on a request, for a number of candidates and tokens; returned when the block ends."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType


class Permit:
    """`with permit:` holds its candidates; `settle` says how many of the reserved tokens were sampled.

    A permit that is released without having been settled stays charged in full.
    """

    def __init__(
        self,
        n: int,
        tokens: int,
        *,
        release: Callable[[int], None],
        charge: Callable[[int], None],
    ) -> None:
        self.n = n
        self.headers: dict[str, str] = {}
        self._charged = tokens
        self._held = n
        self._release = release
        self._charge = charge

    def settle(self, tokens: int) -> None:
        """Charge the tokens that were sampled in all, instead of those that were reserved or settled before."""
        if tokens != self._charged:
            self._charge(tokens - self._charged)
            self._charged = tokens

    def shrink(self, n: int, tokens: int) -> None:
        """Keep `n` candidates and the tokens that were reserved for them."""
        if n < self._held:
            self._release(self._held - n)
        self.n = self._held = n
        self._charged = tokens

    def release(self) -> None:
        """Give the candidates back; a second time does nothing."""
        if self._held:
            self._release(self._held)
            self._held = 0

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
