"""Log lines as an operator's collector would read them, and what must never be in one."""

from __future__ import annotations

import io
import json
import logging
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from service.errors import PolicyUnavailable, SetupError
from service.telemetry.logs import LogFormat, LogLevel, configure_logging, describe

SECRET = "4111-1111-1111-1111"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def configured() -> Iterator[Callable[..., io.StringIO]]:
    """Configures logging into a buffer, and leaves the process as it was."""
    root, levels = logging.getLogger(), {name: logging.getLogger(name).level for name in ("winnow", "uvicorn")}
    handlers, level = root.handlers[:], root.level

    def configure(
        style: LogFormat = "json", threshold: LogLevel = "debug", stream: io.StringIO | None = None
    ) -> io.StringIO:
        target = stream or io.StringIO()
        configure_logging(style, threshold, target)
        return target

    yield configure
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, earlier in levels.items():
        logging.getLogger(name).setLevel(earlier)
    structlog.contextvars.clear_contextvars()


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_time_level_logger_and_request(configured: Any) -> None:
    stream = configured()
    structlog.contextvars.bind_contextvars(request_id="req-1")
    logging.getLogger("winnow.store").warning("%d answers wait", 3)
    (line,) = _lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "3 answers wait", "level": "warning", "logger": "winnow.store", "request_id": "req-1"}


@pytest.mark.parametrize(
    ("style", "stream", "is_json"),
    [
        ("auto", io.StringIO(), True),
        ("auto", Terminal(), False),
        ("json", Terminal(), True),
        ("text", io.StringIO(), False),
    ],
)
def test_auto_is_text_on_a_terminal(configured: Any, style: LogFormat, stream: io.StringIO, is_json: bool) -> None:
    configured(style, "info", stream)
    logging.getLogger("winnow.gateway").info("ready")
    assert stream.getvalue().startswith("{") == is_json
    assert "ready" in stream.getvalue()
    assert ("\x1b[" in stream.getvalue()) == (not is_json and stream.isatty())


def test_the_level_is_the_gateways_and_libraries_stay_at_warnings(configured: Any) -> None:
    stream = configured("json", "debug")
    for name in ("winnow.request", "uvicorn.error", "sse_starlette.sse", "aiosqlite", "asyncio"):
        logging.getLogger(name).debug("quiet")
        logging.getLogger(name).info("usual")
        logging.getLogger(name).warning("loud")
    seen = {(line["logger"], line["event"]) for line in _lines(stream)}
    assert seen == {
        ("winnow.request", "quiet"),
        ("winnow.request", "usual"),
        ("winnow.request", "loud"),
        ("uvicorn.error", "usual"),
        ("uvicorn.error", "loud"),
        ("sse_starlette.sse", "loud"),
        ("aiosqlite", "loud"),
        ("asyncio", "loud"),
    }
    quieter = configured("json", "error")
    logging.getLogger("winnow.request").warning("not now")
    logging.getLogger("uvicorn.error").info("nor this")
    assert quieter.getvalue() == ""


def test_an_exception_is_its_types_and_frames_and_never_its_message(configured: Any) -> None:
    stream = configured()
    try:
        try:
            raise sqlite3.IntegrityError(f"UNIQUE failed: {SECRET}")
        except sqlite3.IntegrityError as cause:
            raise PolicyUnavailable(f"the policy answered 500: {SECRET}") from cause
    except PolicyUnavailable as error:
        logging.getLogger("winnow.gateway").error("request failed", exc_info=error)
        logging.getLogger("winnow.gateway").error("the store failed: %s", error.__cause__)
        logging.getLogger("winnow.gateway").error("gave up after %(error)s", {"error": error})
    assert SECRET not in stream.getvalue()
    failed, store, gave_up = _lines(stream)
    first, *_, last = failed["exception"].split("\n")
    assert first == "PolicyUnavailable (policy_unavailable)"
    assert "caused by\nIntegrityError\n" in failed["exception"]
    assert "test_logs.py" in last
    assert "exc_info" not in failed
    assert store["event"] == "the store failed: IntegrityError"
    assert gave_up["event"] == "gave up after PolicyUnavailable (policy_unavailable)"


def test_a_terminal_shows_no_message_either(configured: Any) -> None:
    stream = configured("text", "info", Terminal())
    secret = SECRET
    try:
        raise ValueError(secret)
    except ValueError:
        logging.getLogger("winnow.gateway").exception("request failed")
    assert "ValueError" in stream.getvalue()
    assert SECRET not in stream.getvalue()


def test_what_asyncio_says_of_a_lost_task_is_cut_before_its_representation(configured: Any) -> None:
    stream = configured()
    lost = f"Task exception was never retrieved\nfuture: <Task exception=ValueError('{SECRET}')>"
    logging.getLogger("asyncio").error(lost, exc_info=ValueError(SECRET))
    assert SECRET not in stream.getvalue()
    assert _lines(stream)[0]["event"] == "Task exception was never retrieved"


def test_a_setup_error_is_shown_whole_because_it_is_ours() -> None:
    assert describe(SetupError("no keys file is set")) == "no keys file is set"
    assert describe(KeyError(SECRET)) == "KeyError"
