"""`winnow data build`: from a recipe to a curated set, the same bytes from the same inputs."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from reward_model.digests import sha256_of
from reward_model.errors import BadInput
from reward_model.jsonl import read_jsonl, write_jsonl
from reward_model.labels import Pair, Split, digest, parse_row
from reward_model.training.curation.build_recipe import BuildRecipe, load_build_recipe, source_file
from reward_model.training.curation.draw import draw
from reward_model.training.curation.screen import ScreenedPair, alternate_order, candidate, screen, to_judge_again

MANIFEST = "manifest.json"
PAIRS = "pairs.jsonl.gz"
DROPPED = "dropped.jsonl.gz"
TO_JUDGE = "to_judge.jsonl.gz"


def build(recipe_path: Path, out: Path, data: Path | None = None) -> dict[str, Any]:
    """Write the set of a recipe to the folder `out`, all of it or nothing, and return its manifest.

    `out/{train,validation,test}/pairs.jsonl.gz` hold the pairs, `dropped.jsonl.gz` why each other one is not
    among them, `to_judge.jsonl.gz` pairs to be judged again with their replies swapped. Raises BadInput for a
    recipe or a source that does not fit, or an `out` that exists.
    """
    if out.exists():
        raise BadInput(f"{out} exists; choose another --out")
    recipe = load_build_recipe(recipe_path)
    files = {name: source_file(name, source, recipe_path, data) for name, source in recipe.sources.items()}
    candidates = [one for name, file in files.items() for one in _read(name, file, recipe)]
    screen(candidates, recipe)
    controls = draw(candidates, recipe)
    alternate_order(candidates)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".writing-") as scratch:
        made = Path(scratch) / out.name
        outputs = _write(made, candidates, recipe)
        manifest = {
            "recipe": recipe.model_dump(mode="json"),
            "inputs": {name: _input(file, name, candidates) for name, file in files.items()},
            "outputs": outputs,
            "by_bucket": _by_bucket(candidates),
            "controls": controls,
            "dropped": dict(sorted(Counter(one.dropped for one in candidates if one.dropped).items())),
        }
        (made / MANIFEST).write_bytes(_pretty(manifest))
        made.rename(out)
    return manifest


def _read(name: str, file: Path, recipe: BuildRecipe) -> Iterable[ScreenedPair]:
    for number, raw in read_jsonl(str(file)):
        yield candidate(name, raw, parse_row(raw, Pair, f"{file}, line {number}"), recipe)


def _write(made: Path, candidates: Sequence[ScreenedPair], recipe: BuildRecipe) -> dict[str, Any]:
    """Write all rows; for each file its digests, for each split what is in it."""
    outputs: dict[str, Any] = {}
    for split in get_args(Split):
        path = made / split / PAIRS
        members = [one for one in candidates if one.dropped is None and one.split == split]
        write_jsonl(path, (one.row for one in members))
        outputs[split] = {
            "file": f"{split}/{PAIRS}",
            "sha256": sha256_of(path),
            "digest": digest([one.pair for one in members]),
            "pairs": len(members),
            "ties": sum(one.pair.outcome == "tie" for one in members),
            "groups": len({one.pair.group for one in members}),
        }
    dropped = [{"id": one.pair.id, "source": one.source, "reason": one.dropped} for one in candidates if one.dropped]
    extra = {DROPPED: dropped}
    if recipe.winner_always_first == "swap":
        extra[TO_JUDGE] = to_judge_again(candidates)
    for name, rows in extra.items():
        write_jsonl(made / name, rows)
        outputs[name.split(".")[0]] = {"file": name, "sha256": sha256_of(made / name), "pairs": len(rows)}
    return outputs


def _input(file: Path, name: str, candidates: Sequence[ScreenedPair]) -> dict[str, Any]:
    mine = [one for one in candidates if one.source == name]
    return {
        "file": file.name,
        "sha256": sha256_of(file),
        "digest": digest([one.pair for one in mine]),
        "pairs": len(mine),
        "written": sum(one.dropped is None for one in mine),
    }


def _by_bucket(candidates: Sequence[ScreenedPair]) -> dict[str, Any]:
    """Pairs that were read, that may be trained on, and that were written, by split too; sorted by name."""
    read = Counter(one.pair.bucket for one in candidates)
    usable = Counter(one.pair.bucket for one in candidates if one.dropped in (None, "not_drawn"))
    written = Counter((one.pair.bucket, one.split) for one in candidates if one.dropped is None)
    return {
        name: {
            "read": read[name],
            "usable": usable[name],
            "written": sum(written[name, split] for split in get_args(Split)),
            **{split: written[name, split] for split in get_args(Split)},
        }
        for name in sorted(read)
    }


def _pretty(manifest: dict[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()
