"""Calls upstream carry the request's id and its trace."""

from __future__ import annotations

from aiohttp import ClientHandlerType, ClientRequest, ClientResponse

from service.telemetry.tracing import outgoing_headers


async def send_context(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """Middleware of the client session that calls policies and the scorer."""
    request.headers.update(outgoing_headers())
    return await handler(request)
