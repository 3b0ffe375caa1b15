"""Every failure as OpenAI's error body, with its HTTP status."""

from __future__ import annotations

import logging
from math import ceil

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from starlette.exceptions import HTTPException

from service.errors import ApiError, InvalidRequest, NotFound, StoreUnavailable
from service.request.schemas import describe
from service.telemetry.failure import failure, frames
from service.telemetry.summary import note

log = logging.getLogger("winnow.gateway")

_STORE_AWAY = (OperationalError, InterfaceError, ConnectionError)
_SERVED = "POST /v1/chat/completions, /v1/responses and /v1/completions, and GET /v1/models"


def add_error_handlers(app: FastAPI) -> None:
    """Let `app` answer every error with a body of OpenAI's shape."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _bad_parameter)
    for away in _STORE_AWAY:
        app.add_exception_handler(away, _store_away)
    # By name: what only `Exception` catches is raised again and logged by the server, message and all.
    app.add_exception_handler(DBAPIError, _bug)
    app.add_exception_handler(Exception, _bug)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    # Rounded up: who comes back earlier is refused again.
    retry = {} if error.retry_after is None else {"retry-after": str(max(1, ceil(error.retry_after)))}
    return _json(error.status, error, error.headers | retry)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers, path = dict(error.headers or {}), request.url.path
    if error.status_code == 404:
        shown: ApiError = NotFound(f"there is no {path} here; Winnow serves {_SERVED}", code="unknown_url")
    elif error.status_code == 405:
        shown = InvalidRequest(f"{path} takes {headers.get('Allow', 'other methods')}", code="method_not_allowed")
    else:
        shown = InvalidRequest(f"{request.method} {path}: {error.detail}", code="bad_request")
    return _json(error.status_code, shown, headers)


async def _bad_parameter(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # Without where it stood, such as `query`.
    return _json(400, describe({**first, "loc": first["loc"][1:]}), {})


async def _store_away(request: Request, error: Exception) -> Response:
    return await _api_error(request, as_api_error(error))


async def _bug(request: Request, error: Exception) -> Response:
    # What is raised here passes by the middleware that labels every other response.
    headers = {"x-request-id": request.state.id} if hasattr(request.state, "id") else {}
    return _json(500, as_api_error(error), headers | getattr(request.state, "response_headers", {}))


def as_api_error(error: Exception) -> ApiError:
    """What a client may see of an error; the log has the rest of one that is not the client's business."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, _STORE_AWAY):
        # Drivers tell a store that is locked, full or gone in ways of their own.
        log.error("the store failed: %s", failure(error))
        return StoreUnavailable("the store does not answer now; ask again later", retry_after=5)
    log.error("request failed: %s", frames(error))
    return ApiError("something went wrong here; the log has the details under this request's id", code="internal")


def _json(status: int, error: ApiError, headers: dict[str, str]) -> Response:
    note(code=error.code or error.type)
    return Response(orjson.dumps(error.body()), status, headers, media_type="application/json")
