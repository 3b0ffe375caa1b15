"""Which folder a model's name stands for: `name@version`, `name` (its newest version), an alias, or a path.

Checkpoints lie in `FOLDER/name/version/`: in the operator's registry folder, where there is one, before those
that come with this package. `FOLDER/aliases.json` maps an alias to `name@version`; without one, `champion` is
the bundled model. How aliases came to point where they do is in `registry_history`.
"""

from __future__ import annotations

import json
from pathlib import Path

from reward_model.errors import CheckpointError, UnknownModel

BUNDLED = Path(__file__).parents[1] / "bundled"
DEFAULT = "winnow-orm"
CHAMPION = "champion"
ALIASES = "aliases.json"


def resolve(name: str, registry: Path | None = None) -> Path:
    """Folder of the checkpoint called `name`; UnknownModel lists the names there are.

    Raises CheckpointError when the registry is no folder or its aliases cannot be read.
    """
    if registry is not None and not registry.is_dir():
        raise CheckpointError(f"the registry {registry} is not a folder")
    wanted = {CHAMPION: DEFAULT, **read_aliases(registry)}.get(name, name)
    known = checkpoints(registry)
    if "@" not in wanted:
        wanted = _newest(wanted, known) or wanted
    if wanted in known:
        return known[wanted]
    if (Path(name) / "manifest.json").is_file():
        return Path(name)
    alias = f", which stands for {wanted}" if wanted != name else ""
    raise UnknownModel(f"no reward model is called {name!r}{alias}; there are {', '.join(sorted(known)) or 'none'}")


def checkpoints(registry: Path | None = None) -> dict[str, Path]:
    """Every checkpoint by its id; the registry's hide bundled ones of the same id."""
    found: dict[str, Path] = {}
    for folder in (BUNDLED, registry):
        for manifest in sorted(folder.glob("*/*/manifest.json")) if folder else ():
            found[f"{manifest.parts[-3]}@{manifest.parts[-2]}"] = manifest.parent
    return found


def identify(name: str, registry: Path | None) -> str:
    """The `name@version` that `name` stands for in a registry or among the bundled checkpoints.

    Raises UnknownModel when it stands for nothing, or for a folder elsewhere.
    """
    folder = resolve(name, registry)
    for identity, known in checkpoints(registry).items():
        if known == folder:
            return identity
    raise UnknownModel(f"{name} is a folder outside the registry; publish it there first")


def read_aliases(registry: Path | None) -> dict[str, str]:
    """What `aliases.json` says; CheckpointError when it says nothing that can be understood."""
    path = registry / ALIASES if registry else None
    if path is None or not path.is_file():
        return {}
    try:
        read = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(read, dict) or not all(isinstance(target, str) for target in read.values()):
        raise CheckpointError(f"{path} must map each alias to a name@version")
    return read


def _newest(name: str, known: dict[str, Path]) -> str | None:
    versions = [identity for identity in known if identity.rsplit("@", 1)[0] == name]
    return max(versions, key=_version, default=None)


def _version(identity: str) -> tuple[tuple[int, int, str], ...]:
    """Orders 2 before 10 and 1.9 before 1.10; numbers before words."""
    parts = identity.rsplit("@", 1)[1].split(".")
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)
