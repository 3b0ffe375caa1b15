"""What every schema of a request shares: null means absent, and a value is of its type or refused."""

from __future__ import annotations

from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError

# The type of errors whose message was written here, not by pydantic.
OWN_ERROR = "winnow"


def refuse(message: str) -> NoReturn:
    """Fail validation of the field at hand; the message follows the field's path."""
    # The placeholder keeps braces of the message from being read as a template.
    raise PydanticCustomError(OWN_ERROR, "{message}", {"message": message})


_BOUNDS = {"ge": "minimum", "le": "maximum"}


class NullsAbsent(BaseModel):
    """Base of the schemas: a field that is null counts as missing, as OpenAI has it. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Whatever may be missing may be null."""
        shape = handler.resolve_ref_schema(handler(schema))
        required = shape.get("required", [])
        for name, field in shape.get("properties", {}).items():
            for branch in (field, *field.get("anyOf", [])):
                # Of a number with a validator before its bounds pydantic writes the bounds as it calls them itself.
                branch.update({word: branch.pop(short) for short, word in _BOUNDS.items() if short in branch})
            if name not in required and {"type": "null"} not in field.get("anyOf", []) and field:
                words = {word: field.pop(word) for word in ("title", "description", "default") if word in field}
                shape["properties"][name] = {"anyOf": [field, {"type": "null"}], **words} if field else words
        return shape


class NoOtherFields(NullsAbsent):
    """The same, and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 16.0 is a whole one. True is none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


def deprecated(instead: str) -> BeforeValidator:
    """A field that is refused unless it is empty, since `instead` took its place."""
    return BeforeValidator(lambda value: refuse(f"is deprecated; send {instead}") if value else None)
