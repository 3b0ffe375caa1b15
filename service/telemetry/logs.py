"""Logs: standard logging, written by structlog as JSON lines or as text for a terminal.

Nothing that came from outside reaches a line: an exception is written as its type and its frames, never its message,
because drivers and upstreams quote in theirs what they were sent.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from service.errors import ApiError, SetupError

LogFormat = Literal["auto", "json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]

# What a record may carry beside its message; anything else that a library attaches is left out.
_EXTRAS = ("request",)


def configure_logging(style: LogFormat, level: LogLevel, stream: TextIO | None = None) -> None:
    """Send every log of this process to `stream` (standard error) in one format; `auto` is text on a terminal.

    Libraries log from warnings upwards whatever the level: some of them write at `debug` what they send.
    """
    target = stream or sys.stderr
    text = style == "text" or (style == "auto" and target.isatty())
    handler = logging.StreamHandler(target)
    handler.addFilter(_without_messages)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_processors(),
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(text, target)],
        )
    )
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


def _processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(_EXTRAS),
        _flatten_request,
        _without_tasks,
        _describe_exception,
    ]


def _renderer(text: bool, target: TextIO) -> Processor:
    if text:
        return structlog.dev.ConsoleRenderer(colors=target.isatty())
    return structlog.processors.JSONRenderer(serializer=_json)


def _json(event: EventDict, **_: Any) -> str:
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


def _flatten_request(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    event.update(event.pop("request", {}))
    return event


def _without_tasks(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """asyncio puts the representation of a failed task, its exception included, on further lines."""
    message = str(event["event"]).strip()
    return {**event, "event": message.split("\n", 1)[0] if event["logger"] == "asyncio" else message}


def _describe_exception(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Types and frames of an exception and its causes, outermost first."""
    record: logging.LogRecord | None = event.get("_record")
    event.pop("exc_info", None)
    if record is None or not record.exc_info or (error := record.exc_info[1]) is None:
        return event
    event["exception"] = "\n".join(_frames(error))
    return event


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
