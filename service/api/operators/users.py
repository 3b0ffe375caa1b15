"""DELETE /v1/users/{user}: everything that is kept of a tenant's user. For admins of that tenant."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from service.api.http.state import identify, state_of
from service.errors import Forbidden
from service.identity import Identity
from service.store.actions import log_action
from service.store.privacy.retention import forget_user
from service.store.tables import responses

router = APIRouter(prefix="/v1/users")


class DeletedUser(BaseModel):
    """How many answers to the user were deleted, or would be."""

    object: Literal["user.deleted"] = "user.deleted"
    tenant: str
    user: str
    answers: int
    deleted: bool


@router.delete("/{user:path}", response_model=DeletedUser)
async def delete_user(
    request: Request,
    user: Annotated[str, Path(pattern=r"^[^\x00]{1,256}$", description="The `user` that requests named.")],
    tenant: Annotated[str | None, Query(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Else the key's own.")] = None,
    dry_run: Annotated[bool, Query(description="Only count.")] = False,
) -> dict[str, Any]:
    """Delete every answer to a user of the tenant's, with its candidates, reviews and feedback."""
    state = state_of(request)
    identity = identify(request, state)
    owner = _owner(identity, tenant)
    engine = state.required_engine
    count = await _count(engine, owner, user)
    if not dry_run:
        # In the log first: a deletion that was broken off is in it too.
        await _log(engine, identity, owner, user, count)
        state.recent.forget_user(owner, user)
        count = await forget_user(engine, owner, user)
    return {"tenant": owner, "user": user, "answers": count, "deleted": not dry_run}


def _owner(identity: Identity, tenant: str | None) -> str:
    identity.require("admin")
    owner = identity.tenant if tenant is None else tenant
    if identity.visible is not None and owner not in identity.visible:
        raise Forbidden(f"your key does not see the tenant {owner}", param="tenant", code="tenant_not_visible")
    return owner


async def _count(engine: AsyncEngine, tenant: str, user: str) -> int:
    query = select(func.count()).where(responses.c.tenant == tenant, responses.c.user == user)
    async with engine.connect() as connection:
        return int((await connection.execute(query)).scalar_one())


async def _log(engine: AsyncEngine, identity: Identity, tenant: str, user: str, count: int) -> None:
    """The log is never changed, so it names the user by a digest."""
    subject = f"user:{hashlib.sha256(f'{tenant}:{user}'.encode()).hexdigest()[:32]}"
    async with engine.begin() as connection:
        await log_action(connection, tenant, identity.actor, "delete_user", subject, {"answers": count})
