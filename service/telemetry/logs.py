"""Logs: standard logging, written as JSON lines, or by structlog as text for a terminal.

Nothing that came from outside reaches a line: an exception is written as its type and its frames, never its message,
because drivers and upstreams quote in theirs what they were sent.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict

from service.errors import ApiError, SetupError

LogFormat = Literal["auto", "json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]

# What a record may carry beside its message: further fields. Anything else that a library attaches is left out.
_EXTRA = "request"


def configure_logging(style: LogFormat, level: LogLevel, stream: TextIO | None = None) -> None:
    """Send every log of this process to `stream` (standard error) in one format; `auto` is text on a terminal.

    Libraries log from warnings upwards whatever the level: some of them write at `debug` what they send.
    """
    target = stream or sys.stderr
    text = style == "text" or (style == "auto" and target.isatty())
    handler = logging.StreamHandler(target)
    handler.addFilter(_without_messages)
    handler.setFormatter(EventFormatter(_text(target) if text else _json))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("winnow").setLevel(level.upper())
    _adopt_uvicorn(max(logging.INFO, logging.getLevelNamesMapping()[level.upper()]))


def describe(error: BaseException) -> str:
    """An error as logs may show it: its type, and its code where it is ours."""
    if isinstance(error, SetupError):
        return str(error)
    code = error.code if isinstance(error, ApiError) else None
    return f"{type(error).__name__} ({code})" if code else type(error).__name__


def _adopt_uvicorn(level: int) -> None:
    """Undo the server's own logging configuration; its access log holds paths, and our line replaces it."""
    for name, threshold in (("uvicorn", level), ("uvicorn.error", logging.NOTSET), ("uvicorn.access", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(threshold)


class EventFormatter(logging.Formatter):
    """Formats a record as one event, which `render` writes as a line.

    structlog's own formatter copies each record and passes it through a chain of processors, which took 4 % of a
    request's CPU time.
    """

    def __init__(self, render: Callable[[EventDict], str]) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        message = record.getMessage().strip()
        # asyncio puts the representation of a failed task, its exception included, on further lines.
        event: EventDict = {"event": message.split("\n", 1)[0] if record.name == "asyncio" else message}
        structlog.contextvars.merge_contextvars(None, "", event)
        event["logger"] = record.name
        event["level"] = record.levelname.lower()
        moment = datetime.fromtimestamp(record.created, UTC).replace(tzinfo=None)
        event["timestamp"] = f"{moment.isoformat(timespec='microseconds')}Z"
        event.update(getattr(record, _EXTRA, {}))
        if record.exc_info and (error := record.exc_info[1]) is not None:
            event["exception"] = "\n".join(_frames(error))
        return self._render(event)


def _text(target: TextIO) -> Callable[[EventDict], str]:
    console = structlog.dev.ConsoleRenderer(colors=target.isatty())
    return lambda event: str(console(None, event["level"], event))


def _json(event: EventDict) -> str:
    return orjson.dumps(event, default=lambda value: type(value).__name__).decode()


def _without_messages(record: logging.LogRecord) -> bool:
    """Exceptions among a record's arguments are described, not quoted."""
    if isinstance(record.args, tuple):
        record.args = tuple(_shown(value) for value in record.args)
    elif record.args:
        record.args = {name: _shown(value) for name, value in record.args.items()}
    return True


def _shown(value: object) -> object:
    return describe(value) if isinstance(value, BaseException) else value


def _frames(error: BaseException) -> list[str]:
    lines, seen, current = list[str](), set[int](), error
    while id(current) not in seen:
        seen.add(id(current))
        lines.append(describe(current))
        lines += [f"  {f.filename}:{f.lineno} in {f.name}" for f in traceback.extract_tb(current.__traceback__)]
        following = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
        if following is None:
            break
        lines.append("caused by")
        current = following
    return lines
