"""Checkpoints to and from a repository on a Hugging Face hub: one repository a name, one tag a version.

Nothing here loads a model. What is pulled goes through every check of `publish` before it appears in the registry.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.errors import CheckpointError, PreparationError
from reward_model.registry.history import history, verify
from reward_model.registry.placing import scratch
from reward_model.registry.registry import checkpoints, identify

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_MANIFEST = "manifest.json"


def connect(endpoint: str | None = None) -> HfApi:
    """The hub, with the token of `hf auth login` or HF_TOKEN."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint)


def push(name: str, registry: Path, repo: str, hub: HfApi, private: bool = True) -> dict[str, Any]:
    """Upload a registry's checkpoint and tag it with its version; a version that is there already is left alone.

    Raises IntegrityError when the checkpoint is damaged, CheckpointError when the hub refuses, or has another
    checkpoint under that version.
    """
    identity = identify(name, registry)
    verify(identity, registry, history(registry))
    folder, version = checkpoints(registry)[identity], identity.split("@")[1]
    with _hub_errors(repo):
        hub.create_repo(repo, repo_type="model", private=private, exist_ok=True)
        if version in {tag.name for tag in hub.list_repo_refs(repo, repo_type="model").tags}:
            _hold_same(folder, hub.hf_hub_download(repo, _MANIFEST, revision=version), repo, version)
            return {"orm": identity, "repo": repo, "revision": version, "pushed": False}
        # Files of the version before, which this one does not have, go: the tag keeps them for that version.
        commit = hub.upload_folder(
            repo_id=repo,
            repo_type="model",
            folder_path=folder,
            commit_message=identity,
            ignore_patterns=[".*", "**/.*"],
            delete_patterns=["*"],
        )
        hub.create_tag(repo, tag=version, revision=commit.oid, repo_type="model")
    return {"orm": identity, "repo": repo, "revision": version, "pushed": True}


def pull(
    repo: str,
    registry: Path,
    hub: HfApi,
    revision: str | None = None,
    alias: str = "challenger",
    allow_unsafe: str | None = None,
    by: str | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Download a checkpoint and publish it; returns what `publish` does.

    Raises CheckpointError when there is no such checkpoint, PreparationError without torch, and what `publish` raises.
    """
    try:
        from reward_model.training.release.publish import RedTeam, make_registry, publish
    except ModuleNotFoundError as error:
        hint = "pip install 'winnow-rerank[train]'"
        raise PreparationError(
            f"a checkpoint is loaded before it is published, which needs {error.name}: {hint}"
        ) from error
    make_registry(registry)
    with scratch(registry) as folder:
        download(repo, revision, folder / "checkpoint", hub)
        return publish(folder / "checkpoint", registry, alias, RedTeam(override=allow_unsafe), by, device)


def download(repo: str, revision: str | None, folder: Path, hub: HfApi) -> None:
    """Fetch a repository at a tag, branch or commit into `folder`.

    Raises CheckpointError when there is no such thing, or it is no checkpoint.
    """
    with _hub_errors(repo):
        hub.snapshot_download(repo, repo_type="model", revision=revision, local_dir=folder)
    if not (folder / _MANIFEST).is_file():
        raise CheckpointError(f"{repo} at {revision or 'its newest'} is not a checkpoint: it has no {_MANIFEST}")


def _hold_same(folder: Path, theirs: str, repo: str, version: str) -> None:
    if (folder / _MANIFEST).read_bytes() != Path(theirs).read_bytes():
        raise CheckpointError(f"{repo} has another checkpoint as {version}; versions are immutable: raise it")


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """What goes wrong at the hub, or on the way there, as a CheckpointError."""
    from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

    try:
        yield
    # HTTPError is that of the HTTP library which huggingface_hub uses: a refusal, or no answer at all.
    except (HTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(f"the hub, for {repo}: {str(error).strip().splitlines()[0]}") from error
