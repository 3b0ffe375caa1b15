"""An error as the log may say it: drivers, parsers and models quote what people wrote in their messages."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

_CODES = ("sqlstate", "sqlite_errorname", "errno")


def failure(error: BaseException) -> str:
    """Class and code, such as `IntegrityError (23505)` or `OperationalError (SQLITE_BUSY)`, without the message."""
    original = getattr(error, "orig", None) or error
    code = next((value for name in _CODES if (value := getattr(original, name, None)) is not None), None)
    name = type(error).__name__
    return name if code is None else f"{name} ({code})"


def frames(error: BaseException) -> str:
    """Where it was raised, and what raised that, without any message."""
    parts = [f"{failure(each)}\n{''.join(traceback.format_tb(each.__traceback__))}" for each in _chain(error)]
    return "caused by ".join(parts).rstrip()


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
