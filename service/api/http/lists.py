"""What lists and ids look like over HTTP."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import Path, Query
from pydantic import BaseModel

from service.store.pages import Cursor, Page

Item = TypeVar("Item")
# Ids of ours, and nothing that a database chokes on.
_ID = r"^[A-Za-z0-9._:-]{1,80}$"
IdInPath = Annotated[str, Path(pattern=_ID)]
Limit = Annotated[int, Query(ge=1, le=500, description="Most entries of a page.")]
After = Annotated[str | None, Query(pattern=_ID, description="Id of the entry that the page follows.")]
Before = Annotated[str | None, Query(pattern=_ID, description="Id of the entry that the page precedes.")]


class ListPage(BaseModel, Generic[Item]):
    """A page of a list, as OpenAI's lists are; `has_more` goes for the direction that was asked for."""

    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | int | None
    last_id: str | int | None
    has_more: bool


def cursor(limit: Limit = 50, after: After = None, before: Before = None) -> Cursor:
    """The page that the query asks for."""
    return Cursor(limit, after, before)


def listed(page: Page) -> dict[str, Any]:
    """A page as its body."""
    ids = [row["id"] for row in page.rows]
    ends = {"first_id": ids[0], "last_id": ids[-1]} if ids else {"first_id": None, "last_id": None}
    return {"object": "list", "data": page.rows, **ends, "has_more": page.has_more}
