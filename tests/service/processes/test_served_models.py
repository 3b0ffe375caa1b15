"""A running policy is asked which models it serves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from service.errors import SetupError
from service.processes.served_models import served_models
from service.settings import PolicySettings


class _Policy(BaseHTTPRequestHandler):
    body = b""
    status = 200
    sent: list[tuple[str | None, str | None]]

    def do_GET(self) -> None:
        self.sent.append((self.headers["authorization"], self.headers["x-team"]))
        self.send_response(self.status if self.path == "/v1/models" else 404)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def policy() -> Iterator[tuple[str, type[_Policy]]]:
    handler = type("Policy", (_Policy,), {"sent": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler
        server.shutdown()


def test_models_without_adapters_with_the_key(policy: tuple[str, type[_Policy]]) -> None:
    url, handler = policy
    handler.body = b'{"data": [{"id": "qwen", "parent": null}, {"id": "tuned", "parent": "qwen"}, {"id": "other"}]}'
    keyed = PolicySettings(url=f"{url}/", model="", api_key="secret", headers={"x-team": "a"})
    assert served_models(keyed) == ["qwen", "other"]
    assert served_models(PolicySettings(url=url, model="")) == ["qwen", "other"]
    assert handler.sent == [("Bearer secret", "a"), (None, None)]


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, b"{}", "status 401"),
        (200, b"<html>", "no list of models"),
        (200, b"[]", "no list of models"),
        (200, b'{"data": [1]}', "no list of models"),
    ],
)
def test_what_answers_otherwise_is_said(
    policy: tuple[str, type[_Policy]], status: int, body: bytes, message: str
) -> None:
    url, handler = policy
    handler.status, handler.body = status, body
    with pytest.raises(SetupError, match=message):
        served_models(PolicySettings(url=url, model=""))


def test_what_does_not_answer_is_said_with_the_remedy() -> None:
    with pytest.raises(SetupError, match="--policy-model"):
        served_models(PolicySettings(url="http://127.0.0.1:1", model=""))
