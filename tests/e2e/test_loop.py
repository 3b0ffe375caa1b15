"""People judge what the real gateway answered, and their judgments train: on SQLite; on Postgres with two gateways."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from reward_model.labels import split_of
from service.keys.key_file import add_key

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
WRITTEN = "Please check the invoice in your account; our billing team will look at the second charge."
# A few short candidates; what is held waits for a person, what fraud sends is looked at by chance.
ROUTES = {
    "WINNOW_ROUTES__BILLING__BUDGET_MS": "120000",
    "WINNOW_ROUTES__FRAUD__BUDGET_MS": "120000",
    "WINNOW_ROUTES__BILLING__N": "3",
    "WINNOW_ROUTES__BILLING__MAX_TOKENS": "24",
    "WINNOW_ROUTES__FRAUD__N": "3",
    "WINNOW_ROUTES__FRAUD__MAX_TOKENS": "24",
    "WINNOW_ROUTES__FRAUD__ON_REVIEW": "send",
    "WINNOW_ROUTES__FRAUD__ON_FALLBACK": "send",
    "WINNOW_ROUTES__FRAUD__SPOT_CHECK": "0.5",
}


def _questions() -> list[str]:
    """Eight about bills, of which the trainer's own split takes six to train on and two to validate."""
    wanted = {"train": 6, "validation": 2, "test": 0}
    chosen = []
    for number in range(1_000):
        text = f"I was charged twice on invoice {number}. What should I do?"
        asked = orjson.dumps([{"role": "user", "content": text}])
        split = split_of(f"winnow-{hashlib.sha256(asked).hexdigest()[:16]}")
        if wanted[split]:
            wanted[split] -= 1
            chosen.append(text)
    return chosen


BILLING = _questions()
FRAUD = [f"Somebody stole my card and paid {amount} euros with it. Help!" for amount in (20, 35, 50, 80)]


class Gateway:
    """A gateway process of its own, over the running policy and scorer."""

    def __init__(self, stack: Any, environment: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        policy = f"http://127.0.0.1:{stack.policy_port}"
        arguments = ["gateway", "--port", str(self.port), "--policy-url", policy, "--scorer-url", stack.scorer_url]
        command = [sys.executable, "-m", "service", *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment)
        for _ in range(300):
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise AssertionError("the gateway did not become ready")

    def call(self, method: str, path: str, key: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.request(method, f"{self.url}{path}", headers=headers, json=body, timeout=120)

    def ask(self, key: str, question: str) -> Any:
        body = {"model": "winnow", "messages": [{"role": "user", "content": question}]}
        answer = self.call("POST", "/v1/chat/completions", key, body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def stop(self, how: int = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(timeout=60)


@pytest.fixture
def gateways(stack: Any) -> Iterator[Any]:
    """Starts gateways that share one store; those that still run at the end are stopped."""
    started: list[Gateway] = []

    def start(count: int, environment: dict[str, str]) -> list[Gateway]:
        with ThreadPoolExecutor() as pool:
            new = list(pool.map(lambda _: Gateway(stack, environment), range(count)))
        started.extend(new)
        return new

    yield start
    for gateway in started:
        if gateway.process.poll() is None:
            gateway.stop()


def _winnow(environment: dict[str, str], *arguments: str) -> Any:
    """A command of ours, typed; what it printed as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        cwd=ROOT,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _review(gateways: list[Gateway], anna: str, review_id: str) -> None:
    """Claimed at one gateway, decided at another."""
    claimed = gateways[0].call("POST", f"/v1/reviews/{review_id}/claim", anna)
    assert claimed.status_code == 200, claimed.text
    said = {"verdict": "edit", "text": WRITTEN, "reasons": ["policy_clarity"]}
    decided = gateways[-1].call("POST", f"/v1/reviews/{review_id}/verdict", anna, said)
    assert decided.status_code == 200, decided.text


def _label_all(gateway: Gateway, key: str, audit: str) -> int:
    """All that this annotator is given; prefers the shorter reply, and would send what ends in a full stop."""
    count = 0
    while (item := gateway.call("POST", f"/v1/audits/{audit}/next", key).json())["item"] is not None:
        left, right = item["left"]["content"], item["right"]["content"]
        label: dict[str, Any] = {"choice": "left" if len(left) < len(right) else "right"}
        label |= {"left_acceptable": left.endswith("."), "right_acceptable": right.endswith(".")}
        kept = gateway.call("PUT", f"/v1/audits/{audit}/items/{item['item']}", key, label)
        assert kept.status_code == 200, kept.text
        count += 1
    return count


def _train(data: Path, out: Path, environment: dict[str, str]) -> Any:
    """The smallest run on the real base: what matters is that it takes the pairs."""
    recipe = data.parent / "recipe.toml"
    recipe.write_text(
        'id = "exported@1"\n[model]\nlayers = 1\nlora_rank = 2\n[sources.reviews]\n[sources.audits]\n'
        "[optim]\nepochs = 1\nevaluations = 1\n"
    )
    return _winnow(environment, "train", str(recipe), "--data", str(data), "--out", str(out))


@pytest.mark.parametrize(("kind", "count"), [("sqlite", 1), ("postgresql", 2)])
def test_from_traffic_to_training(
    stack: Any, tmp_path: Path, gateways: Any, request: Any, kind: str, count: int
) -> None:
    url = (
        f"sqlite:///{tmp_path / 'winnow.db'}" if kind == "sqlite" else f"{request.getfixturevalue('postgres')}/postgres"
    )
    keys = tmp_path / "keys.json"
    acme, stranger = (add_key(keys, name, "client") for name in ("acme", "stranger"))
    anna, bob = (add_key(keys, name, "operator", tenants=["*"]) for name in ("anna", "bob"))
    environment = ROUTES | {
        "WINNOW_STORE__URL": url,
        "WINNOW_KEYS_FILE": str(keys),
        "WINNOW_POLICY_URL": f"http://127.0.0.1:{stack.policy_port}",
        "WINNOW_API_KEY": anna,
    }
    running = gateways(count, environment)
    # Traffic, turn by turn over the gateways; what is about bills is held, and its ticket promised.
    held = [running[turn % count].ask(acme, question) for turn, question in enumerate(BILLING)]
    assert all(answer["rerank"]["route"] == "billing" for answer in held)
    sent = [running[turn % count].ask(acme, question) for turn, question in enumerate(FRAUD)]
    tickets = [answer["rerank"]["review_id"] for answer in held]
    assert all(tickets)
    assert not [answer for answer in sent if answer["rerank"]["review_id"]]
    if kind == "sqlite":
        _kill_behind_an_answer(running[0], tmp_path, acme, tickets)
        running = gateways(1, environment)
    last = running[-1]
    # Fetched by who asked, from the gateway that did not answer, before and after it is decided.
    path = f"/v1/rerank/{held[0]['id']}"
    assert last.call("GET", path, acme).json()["review"]["status"] == "open"
    for review_id in tickets:
        _review(running, anna, review_id)
    fetched = last.call("GET", path, acme).json()
    assert (fetched["review"]["verdict"], fetched["review"]["text"]) == ("edit", WRITTEN)
    assert fetched["rerank"]["winner"] == held[0]["rerank"]["winner"]
    assert last.call("GET", path, stranger).status_code == 404
    feedback = {"response_id": sent[0]["id"], "thumb": "down"}
    assert last.call("POST", "/v1/feedback", acme, feedback).status_code == 201

    # A week's audit: drawn from both routes, the real policy asked for greedy answers, labelled by two at once.
    time.sleep(1)  # History is written half a second behind the requests.
    audit = _winnow(environment, "audit", "draw", "--size", "10", "--overlap", "0.4")
    assert {name.split("/")[0] for name in audit["strata"]} == {"billing", "fraud"}
    with ThreadPoolExecutor() as pool:
        labelled = list(pool.map(_label_all, [running[0], last], [anna, bob], [audit["id"]] * 2))
    assert sum(labelled) == audit["labels_wanted"]
    page = tmp_path / "audit.html"
    report = _winnow(environment, "audit", "report", "--html", str(page))
    assert (report["id"], report["labels"], report["items"]) == (audit["id"], audit["labels_wanted"], 10)
    assert report["labelled"] == 10
    assert report["agreement"]["rows"] + report["win_rate_over_greedy"]["rows"] >= 8
    assert report["calibration"]["calibrators"][0]["event"] == "acceptable"
    assert report["verdicts"]["weighted"]["labels"] == len(BILLING)
    assert audit["id"].removeprefix("audit-") in page.read_text()

    # What they said becomes pairs and replies, and a checkpoint.
    data = tmp_path / "data"
    exported = _winnow(environment, "data", "export", str(data), "--gateway", last.url)
    assert exported["pairs"]["reviews"] == len(BILLING)
    assert exported["pairs"]["audits"] >= 6
    assert exported["replies"]["feedback"] == 1
    trained = _train(data, tmp_path / "exported" / "1", environment)
    assert trained["orm"] == "exported@1"
    manifest = json.loads((tmp_path / "exported" / "1" / "manifest.json").read_text())
    assert manifest["data"]["sources"]["reviews"]["train"]["pairs"] == 6


def _kill_behind_an_answer(gateway: Gateway, folder: Path, acme: str, tickets: list[str]) -> None:
    """kill -9: the file is whole, and what was promised is in it."""
    promised = {*tickets, gateway.ask(acme, BILLING[0])["rerank"]["review_id"]}
    gateway.stop(signal.SIGKILL)
    with sqlite3.connect(folder / "winnow.db") as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        kept = {name for (name,) in connection.execute("select id from reviews where status = 'open'")}
    connection.close()
    assert promised <= kept
