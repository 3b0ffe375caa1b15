"""The policy: any OpenAI-compatible server, asked by streaming requests with n=1 that can be cancelled singly."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Protocol

import aiohttp
import orjson

from service.errors import InvalidRequest, NotFound, PolicyUnavailable
from service.settings import PolicySettings

_DONE = b"[DONE]"
_CONNECT_SECONDS = 5.0
_HEALTH_SECONDS = 2.0
# A line of a stream is one token with its log-probabilities; far below this.
_MAX_LINE = 2**20


class Policy(Protocol):
    """The seam to what samples. `body` is OpenAI's chat request without model and streaming fields."""

    def sample(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of one streamed completion; closing the iterator cancels it at the policy."""

    def relay(self, body: dict[str, Any]) -> AsyncGenerator[list[bytes], None]:
        """The same, each chunk as it came, those together that came together; usage is in the last."""

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """A whole completion in one chunk."""

    async def healthy(self) -> bool:
        """Whether it answers."""


class HttpPolicy:
    """A policy behind HTTP."""

    def __init__(self, endpoint: PolicySettings, session: aiohttp.ClientSession) -> None:
        self._endpoint = endpoint
        self._session = session
        self._headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}

    async def sample(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Chunks as the policy sends them; usage comes with each, so that a cancelled stream is counted too."""
        options = {"include_usage": True, "continuous_usage_stats": True}
        async with aclosing(self.relay(body | {"stream_options": options})) as blocks:
            async for payloads in blocks:
                for payload in payloads:
                    yield parse(payload)

    async def relay(self, body: dict[str, Any]) -> AsyncGenerator[list[bytes], None]:
        """Payloads of server-sent events, by the block in which the network delivered them."""
        request = {"stream_options": {"include_usage": True}, **body, "n": 1, "stream": True}
        with _reaching():
            async with self._post(request) as response:
                await _raise_for_status(response)
                async for payloads in _payloads(response):
                    yield payloads

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """Asked without streaming: one body instead of an event a token."""
        with _reaching():
            async with self._post(body | {"n": 1}) as response:
                await _raise_for_status(response)
                whole = parse(await response.read())
        choices = [choice | {"delta": choice["message"]} for choice in whole.get("choices") or []]
        if not choices:
            raise PolicyUnavailable("the policy answered without a choice")
        return whole | {"choices": choices}

    def _post(self, request: dict[str, Any]) -> Any:
        return self._session.post(
            f"{self._endpoint.url}/v1/chat/completions",
            data=orjson.dumps(request | {"model": self._endpoint.model}),
            headers=self._headers | {"Content-Type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            read_bufsize=_MAX_LINE,
        )

    async def healthy(self) -> bool:
        """Whether it lists its models: every OpenAI-compatible server does."""
        try:
            async with self._session.get(
                f"{self._endpoint.url}/v1/models",
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=_HEALTH_SECONDS),
            ) as response:
                return response.status == 200
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            return False


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
        raise PolicyUnavailable(f"the policy could not be reached or broke off ({type(error).__name__})") from error


async def _payloads(response: aiohttp.ClientResponse) -> AsyncIterator[list[bytes]]:
    rest, ended = b"", False
    async for block in response.content.iter_any():
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > _MAX_LINE:
            raise PolicyUnavailable(f"the policy sent a line of more than {_MAX_LINE} bytes")
        payloads = [line[5:].strip() for line in lines if line.startswith(b"data:")]
        if _DONE in payloads:
            ended = True
            payloads = payloads[: payloads.index(_DONE)]
        if payloads:
            yield payloads
        if ended:
            break
    if not ended:
        raise PolicyUnavailable("the policy ended its stream before the completion was done")


def parse(payload: bytes) -> dict[str, Any]:
    """A payload's object; PolicyUnavailable when it is not JSON or says that sampling failed."""
    try:
        chunk: dict[str, Any] = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise PolicyUnavailable("the policy sent something that is not JSON") from error
    if "error" in chunk:
        message = (chunk["error"] or {}).get("message", "no reason given")
        raise PolicyUnavailable(f"the policy failed while it sampled: {message}")
    return chunk


async def _raise_for_status(response: aiohttp.ClientResponse) -> None:
    if response.status == 200:
        return
    message = _error_message(await response.read())
    if response.status == 404:
        raise NotFound(f"the policy does not serve the configured model: {message}", code="policy_model_not_found")
    if response.status in (400, 413, 422):
        # The client's own parameters, such as a prompt longer than the model's context.
        raise InvalidRequest(message, code="rejected_by_policy")
    raise PolicyUnavailable(f"the policy answered {response.status}: {message}")


def _error_message(body: bytes) -> str:
    try:
        error = orjson.loads(body).get("error")
        return str(error.get("message")) if isinstance(error, dict) else str(error)
    except (orjson.JSONDecodeError, AttributeError):
        return "no reason given"
