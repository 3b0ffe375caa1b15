from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import HFValidationError

from reward_model.errors import CheckpointError, IntegrityError
from reward_model.registry.history import history
from reward_model.registry.registry import read_aliases
from reward_model.training.release import hub
from reward_model.training.release.publish import publish

Make = Callable[..., Path]


class FakeHub:
    """Records every call; has the tags and the manifest it is given."""

    def __init__(self, tags: list[str], manifest: Path | None = None, source: Path | None = None) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.tags, self.manifest, self.source = tags, manifest, source

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **how: Any) -> Any:
            self.calls.append((name, args, how))
            if name == "list_repo_refs":
                return SimpleNamespace(tags=[SimpleNamespace(name=tag) for tag in self.tags])
            if name == "snapshot_download" and self.source:
                shutil.copytree(self.source, how["local_dir"])
            if name == "hf_hub_download":
                return str(self.manifest)
            return SimpleNamespace(oid="abc123")

        return call


@pytest.fixture
def registry(make: Make, tmp_path: Path) -> Path:
    folder = tmp_path / "registry"
    publish(make(1), folder)
    return folder


def test_a_push_uploads_and_then_tags_that_commit(registry: Path) -> None:
    api: Any = FakeHub(tags=["0"])
    done = hub.push("challenger", registry, "team/tiny", api)
    assert done == {"orm": "tiny@1", "repo": "team/tiny", "revision": "1", "pushed": True}
    upload = {
        "repo_id": "team/tiny",
        "repo_type": "model",
        "folder_path": registry / "tiny/1",
        "commit_message": "tiny@1",
        "ignore_patterns": [".*", "**/.*"],
        "delete_patterns": ["*"],
    }
    assert api.calls == [
        ("create_repo", ("team/tiny",), {"repo_type": "model", "private": True, "exist_ok": True}),
        ("list_repo_refs", ("team/tiny",), {"repo_type": "model"}),
        ("upload_folder", (), upload),
        ("create_tag", ("team/tiny",), {"tag": "1", "revision": "abc123", "repo_type": "model"}),
    ]


def test_a_version_is_pushed_once(registry: Path, make: Make) -> None:
    api: Any = FakeHub(tags=["1"], manifest=registry / "tiny/1/manifest.json")
    assert hub.push("tiny@1", registry, "team/tiny", api)["pushed"] is False
    other: Any = FakeHub(tags=["1"], manifest=make(1, "other") / "manifest.json")
    with pytest.raises(CheckpointError, match="another checkpoint as 1"):
        hub.push("tiny@1", registry, "team/tiny", other)
    assert [name for name, _, _ in [*api.calls, *other.calls]].count("upload_folder") == 0


def test_a_damaged_checkpoint_is_not_pushed(registry: Path) -> None:
    (registry / "tiny/1/redteam.json").write_text("{}")
    api: Any = FakeHub(tags=[])
    with pytest.raises(IntegrityError, match="redteam"):
        hub.push("tiny@1", registry, "team/tiny", api)
    assert api.calls == []


def test_a_pull_is_checked_and_published(registry: Path, make: Make) -> None:
    api: Any = FakeHub(tags=[], source=make(2))
    done = hub.pull("team/tiny", registry, api, "2", alias="trial", by="ann@desk")
    assert (done["orm"], done["published"], read_aliases(registry)["trial"]) == ("tiny@2", True, "tiny@2")
    assert history(registry)[-1].by == "ann@desk"
    ((name, args, how),) = api.calls
    assert (name, args, how.pop("local_dir").name) == ("snapshot_download", ("team/tiny",), "checkpoint")
    assert how == {"repo_type": "model", "revision": "2"}
    assert list((registry / ".incoming").iterdir()) == []


@pytest.mark.parametrize("what", ["damaged", "unsafe", "no checkpoint"])
def test_what_is_pulled_and_not_fit_to_serve_never_appears(registry: Path, make: Make, what: str) -> None:
    source = make(2, passed=what != "unsafe")
    if what == "damaged":
        (source / "README.md").write_text("changed on the way")
    if what == "no checkpoint":
        (source / "manifest.json").unlink()
    api: Any = FakeHub(tags=[], source=source)
    with pytest.raises(CheckpointError, match=r"README\.md|red team|has no manifest"):
        hub.pull("team/tiny", registry, api)
    assert not (registry / "tiny/2").exists()


def test_the_hubs_refusal_is_said_in_one_line(registry: Path) -> None:
    class Refusing:
        def create_repo(self, *args: Any, **how: Any) -> None:
            raise HFValidationError("Repo id must be this\nand that")

    refusing: Any = Refusing()
    with pytest.raises(CheckpointError, match=r"^the hub, for team/tiny: Repo id must be this$"):
        hub.push("tiny@1", registry, "team/tiny", refusing)


@pytest.fixture
def server(make: Make) -> Iterator[str]:
    """The part of a hub's HTTP interface that a download uses, over the folder of tiny@2."""
    source = make(2)
    commit = "c" * 40
    files = {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*") if path.is_file()}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = self.path.split("?")[0]
            if path.startswith(("/api/models/team/tiny/revision/2", f"/api/models/team/tiny/revision/{commit}")):
                siblings = [{"rfilename": name} for name in files]
                content = json.dumps({"id": "team/tiny", "sha": commit, "siblings": siblings}).encode()
            elif path.startswith("/api/models/team/tiny/tree/"):
                content = json.dumps(
                    [{"type": "file", "path": n, "size": len(c), "oid": sha1(c).hexdigest()} for n, c in files.items()]
                ).encode()
            else:
                content = files.get(path.partition("/resolve/")[2].partition("/")[2], b"")
            self.send_response(200 if content else 404)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/json" if "/api/" in path else "application/octet-stream")
            self.send_header("ETag", f'"{sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def test_a_pull_over_http(registry: Path, server: str) -> None:
    done = hub.pull("team/tiny", registry, hub.connect(server), "2")
    assert (done["orm"], done["published"]) == ("tiny@2", True)
    with pytest.raises(CheckpointError, match=r"the hub, for team/none: .*404"):
        hub.pull("team/none", registry, hub.connect(server), "2")


def test_a_hub_that_does_not_answer_is_said(registry: Path) -> None:
    dead = hub.connect("http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="the hub, for team/tiny"):
        hub.push("tiny@1", registry, "team/tiny", dead)
    with pytest.raises(CheckpointError, match="the hub, for team/tiny"):
        hub.pull("team/tiny", registry, dead)
