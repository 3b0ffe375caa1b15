"""What is wrong with a body, in a sentence that names the field and what would fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from service.errors import InvalidRequest
from service.request.schemas.fields import OWN_ERROR
from service.request.schemas.json_body import read_object

Body = TypeVar("Body", bound=BaseModel)
_Sentence = str | Callable[[Mapping[str, Any]], str]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


_SENTENCES: dict[str, _Sentence] = {
    OWN_ERROR: lambda context: str(context["message"]),
    "missing": "is missing",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "literal_error": lambda context: f"must be {context['expected']}",
    "greater_than": lambda context: f"must be greater than {context['gt']}",
    "greater_than_equal": lambda context: f"must be at least {context['ge']}",
    "less_than": lambda context: f"must be less than {context['lt']}",
    "less_than_equal": lambda context: f"must be at most {context['le']}",
    "string_too_short": lambda context: f"must have at least {_count(context['min_length'], 'character')}",
    "string_too_long": lambda context: f"must have at most {_count(context['max_length'], 'character')}",
    "string_pattern_mismatch": lambda context: f"must match the pattern {context['pattern']}",
    "string_unicode": "must be Unicode text",
    "too_short": lambda context: f"must have at least {_count(context['min_length'], 'item')}",
    "too_long": lambda context: f"must have at most {_count(context['max_length'], 'item')}",
}


def parse(body: bytes, model: type[Body]) -> Body:
    """A checked body; raises InvalidRequest that names the field at fault."""
    return validate(read_object(body), model)


def validate(raw: Mapping[str, Any], model: type[Body]) -> Body:
    """A checked object; raises InvalidRequest that names the field at fault."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise describe(error.errors(include_url=False, include_input=False)[0]) from error


def describe(problem: Mapping[str, Any]) -> InvalidRequest:
    """One of pydantic's problems in our words."""
    where = ".".join(str(step) for step in problem["loc"]) or "body"
    if problem["type"] == "extra_forbidden":
        return InvalidRequest(f"{where} is not a parameter of this API", param=where, code="unknown_parameter")
    if problem["type"] == "value_error":
        # A sentence of ours, from a validator of a whole model.
        return InvalidRequest(f"{where}: {problem['ctx']['error']}", param=where)
    sentence = _SENTENCES.get(problem["type"], "does not fit")
    shown = sentence if isinstance(sentence, str) else sentence(problem.get("ctx", {}))
    return InvalidRequest(f"{where} {shown}", param=where)
