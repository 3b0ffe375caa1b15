"""The OpenAPI document: bodies that are parsed by hand, errors, and who may ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.request.respond import MODEL
from service.settings import Settings

Handler = TypeVar("Handler", bound=Callable[..., Any])
_BODY, _REF = "body_schema", "#/components/schemas/{model}"
_DESCRIPTION = "Best-of-N chat completions, scored by a reward model and decided by a calibrated probability."
_ERRORS = {
    400: "What was sent does not fit; `param` names the field.",
    401: "No API key, or one that nobody has.",
    403: "The key's role does not allow this.",
    404: "There is no such thing, or it is another tenant's.",
    409: "Somebody else was first.",
    413: "The body is too large.",
    415: "The body is not JSON as it stands.",
    429: "Too much was asked for; `retry-after` says when to come back.",
    500: "A defect; the log has it under the request's id.",
    502: "The policy cannot be reached or failed.",
    503: "The gateway, the scorer or the store cannot take this now.",
    504: "Nothing was ready in time.",
}
_ALWAYS = {400, 401, 403, 404, 429, 500, 503}
_OF_BODIES = {413, 415}
_OF_COMPLETIONS = {502, 504}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "description": "OpenAI's error object.",
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "Path of the field, such as `messages.0.role`."},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def takes(model: type[BaseModel]) -> Callable[[Handler], Handler]:
    """Say which body a handler parses by hand."""

    def mark(handler: Handler) -> Handler:
        setattr(handler, _BODY, model)
        return handler

    return mark


def serve_document(app: FastAPI, settings: Settings) -> None:
    """Let `app` describe itself at /openapi.json, as it is configured."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, settings)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, settings: Settings) -> dict[str, Any]:
    openapi = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes)
    components = openapi.setdefault("components", {})
    schemas: dict[str, Any] = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas |= _body_schemas(app) | {"Error": _ERROR}
    _name_passed_parameters(schemas["ChatRequest"], settings)
    for body in ("ChatRequest", "CompletionRequest", "ResponseRequest"):
        schemas[body]["properties"]["model"]["enum"] = [MODEL]
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}}
    for route in _routes(app):
        for method in route.methods or ():
            if (operation := openapi["paths"].get(route.path_format, {}).get(method.lower())) is not None:
                _complete(operation, route)
    return openapi


def _routes(app: FastAPI) -> Iterator[APIRoute]:
    for route in app.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            yield route


def _body_of(route: APIRoute) -> type[BaseModel] | None:
    return getattr(route.endpoint, _BODY, None)


def _body_schemas(app: FastAPI) -> dict[str, Any]:
    models = {model for route in _routes(app) if (model := _body_of(route)) is not None}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, document = models_json_schema([(model, "validation") for model in ordered], ref_template=_REF)
    schemas: dict[str, Any] = document["$defs"]
    return schemas


def _name_passed_parameters(schema: dict[str, Any], settings: Settings) -> None:
    for name in settings.passed_parameters:
        schema["properties"].setdefault(name, {"description": "Passed to the policy."})
    schema["additionalProperties"] = settings.unknown_parameters == "ignore"


def _complete(operation: dict[str, Any], route: APIRoute) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    if not route.path.startswith("/v1/"):
        operation["tags"] = ["operations"]
        return
    body = _body_of(route)
    completes = any(response.get("content", {}).get("text/event-stream") for response in responses.values())
    statuses = _ALWAYS | (_OF_BODIES if body else set()) | (_OF_COMPLETIONS if completes else set())
    statuses |= {409} if "{" in route.path and route.methods != {"GET"} else set()
    for status in sorted(statuses):
        schema = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
        responses[str(status)] = {"description": _ERRORS[status], "content": schema}
    if body is not None:
        schema = {"application/json": {"schema": {"$ref": _REF.format(model=body.__name__)}}}
        operation["requestBody"] = {"required": True, "content": schema}
    operation["security"] = [{"key": []}]
    operation["tags"] = [route.path.split("/")[2]]
