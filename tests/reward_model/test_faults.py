"""A schema's problem in one line."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError, field_validator, model_validator

from reward_model.faults import first_fault


class Child(BaseModel):
    """Something within another."""

    age: int

    @field_validator("age")
    @classmethod
    def _is_young(cls, age: int) -> int:
        if age > 17:
            raise ValueError("a child is younger")
        return age


class Family(BaseModel):
    """Something with a list."""

    children: list[Child]

    @model_validator(mode="after")
    def _has_one(self) -> Family:
        if not self.children:
            raise ValueError("there are no children")
        return self


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"children": [{"age": 3}, {"age": 40}]}, "children.1.age: a child is younger"),
        ({}, "children: Field required"),
        ({"children": []}, "there are no children"),
    ],
)
def test_the_first_fault_is_named_by_its_path(raw: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError) as error:
        Family.model_validate(raw)
    assert str(first_fault(error.value)) == text
