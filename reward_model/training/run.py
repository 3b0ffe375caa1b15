"""One training run, from a recipe and a data folder to a checkpoint folder."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from reward_model import base_model
from reward_model.base_model import sha256_of
from reward_model.checkpoint import (
    MANIFEST,
    Base,
    Manifest,
    ScoreHistogram,
    read_manifest,
    save_checkpoint,
    tokenizer_sha256,
    verify_files,
)
from reward_model.errors import BadInput
from reward_model.training.card import model_card
from reward_model.training.data import (
    LabelledReply,
    Pair,
    Split,
    by_split,
    digest,
    pairs_from_labels,
    read_rows,
)
from reward_model.training.metrics import pair_figures
from reward_model.training.recipe import Recipe, Source
from reward_model.training.trainer import Trainee, build, fit, rows_of, score_rows

Pairs = dict[str, dict[Split, list[Pair]]]


def train(recipe: Recipe, data: Path, out: Path, labels: Path | None) -> Manifest:
    """Run `recipe` on `data/preferences/*.jsonl.gz` and the train split of `labels`; write `out`.

    Raises BadInput when a file that the recipe names is missing or wrong, before anything is trained.
    """
    parent = read_parent(recipe)
    sources = read_sources(recipe, data, labels)
    chosen = choose(recipe, sources)
    validation = [pair for splits in sources.values() for pair in splits["validation"]]
    trainee = build(recipe)
    with tempfile.TemporaryDirectory(prefix="winnow-train-") as scratch:
        log = fit(trainee, recipe.optim, chosen, _thin(validation, recipe), Path(scratch))
    metrics, scores = held_out_figures(trainee, sources, recipe.optim.max_row_tokens)
    metrics["log"] = [entry for entry in log if "eval_accuracy" in entry or "train_runtime" in entry]
    manifest = _manifest(recipe, trainee, sources, chosen, metrics, scores)
    manifest.parent = parent
    texts = {
        "README.md": model_card(manifest),
        "evaluation.json": json.dumps(metrics, indent=1) + "\n",
        "training_log.json": json.dumps(log) + "\n",
    }
    return save_checkpoint(out, trainee.model.backbone, trainee.model.head, manifest, texts)


def read_parent(recipe: Recipe) -> dict[str, Any] | None:
    """What the manifest says of the checkpoint that the run goes on from; None for a fresh start.

    Raises BadInput when the recipe asks for another architecture or another format than that checkpoint has.
    """
    folder = recipe.model.start_from
    if folder is None:
        return None
    parent = read_manifest(folder)
    verify_files(folder, parent)
    ours = {**recipe.model.model_dump(mode="json"), "start_from": None}
    theirs = {**parent.recipe["model"], "start_from": None}
    if ours != theirs or recipe.formatting != parent.formatting:
        raise BadInput(
            f"the recipe's [model] and [formatting] must be those of {folder}: {theirs}, {parent.formatting}"
        )
    kept = parent.model_dump(mode="json", include={"id", "recipe", "data", "parent", "git_revision"})
    return {"manifest_sha256": sha256_of(folder / MANIFEST), **kept}


def read_sources(recipe: Recipe, data: Path, labels: Path | None) -> Pairs:
    """Every source of the recipe by split of its groups; the project's own labels bring their splits along."""
    sources: Pairs = {}
    for name in recipe.sources:
        path = next(
            (p for p in (data / "preferences" / f"{name}.jsonl{e}" for e in (".gz", "")) if p.exists()), None
        )
        if path is None:
            raise BadInput(
                f"the recipe names the source {name}, but {data}/preferences has no {name}.jsonl.gz"
            )
        sources[name] = by_split(read_rows(path, Pair))
    if recipe.authored is not None:
        if labels is None:
            raise BadInput("the recipe uses authored labels; say where they are with --labels")
        replies = list(read_rows(labels, LabelledReply))
        sources["authored"] = {
            "train": pairs_from_labels(r for r in replies if r.split == "train"),
            "validation": [],
            "test": pairs_from_labels(r for r in replies if r.split == "test"),
        }
    return sources


def choose(recipe: Recipe, sources: Pairs) -> list[Pair]:
    """The training pairs: each source's cap drawn by seed, by whole groups, and its repeats."""
    wanted: dict[str, Source] = dict(recipe.sources)
    if recipe.authored is not None:
        wanted["authored"] = recipe.authored
    chosen: list[Pair] = []
    for name, source in wanted.items():
        pairs = _cap(sources[name]["train"], source.max_pairs, recipe.optim.seed)
        for turn in range(source.repeat):
            # A repeat is a group of its own, so that it gets rows of its own.
            chosen += [p.model_copy(update={"group": f"{p.group}#{turn}"}) for p in pairs] if turn else pairs
    return chosen


def held_out_figures(trainee: Trainee, sources: Pairs, max_tokens: int) -> tuple[dict[str, Any], Any]:
    """Figures on the test split of every source, and all its scores."""
    figures: dict[str, Any] = {}
    everything = []
    for name, splits in sources.items():
        rows = rows_of(splits["test"], trainee.formatter, max_tokens)
        scores = score_rows(trainee.model, rows)
        figures[name] = pair_figures(splits["test"], scores)
        everything.append(scores)
    return {"held_out": figures}, np.concatenate(everything)


def _cap(pairs: Sequence[Pair], limit: int | None, seed: int) -> list[Pair]:
    if limit is None or len(pairs) <= limit:
        return list(pairs)
    groups = sorted({pair.group for pair in pairs})
    Random(seed).shuffle(groups)
    rank = {group: position for position, group in enumerate(groups)}
    return sorted(pairs, key=lambda pair: rank[pair.group])[:limit]


def _thin(validation: list[Pair], recipe: Recipe, limit: int = 500) -> list[Pair]:
    return _cap(validation, limit, recipe.optim.seed)


def git_revision() -> str:
    """The commit of the code that trained, or `unknown` outside a checkout."""
    done = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def _manifest(
    recipe: Recipe, trainee: Trainee, sources: Pairs, chosen: list[Pair], metrics: dict[str, Any], scores: Any
) -> Manifest:
    bundled = recipe.model.base == "bundled"
    weights = (
        base_model.weights_sha256(trainee.base) if bundled else sha256_of(trainee.base / "model.safetensors")
    )
    counts, edges = np.histogram(scores, bins=20)
    data = {
        name: {split: {"pairs": len(pairs), "digest": digest(pairs)} for split, pairs in splits.items()}
        for name, splits in sources.items()
    }
    return Manifest(
        id=recipe.id,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        base=Base(
            name=base_model.NAME if bundled else trainee.base.name,
            weights_sha256=weights,
            path=None if bundled else str(trainee.base),
        ),
        layers=recipe.model.layers,
        hidden_size=trainee.model.head.in_features,
        formatting=recipe.formatting,
        template_sha256=trainee.formatter.template_sha256,
        tokenizer_sha256=tokenizer_sha256(trainee.base),
        recipe=recipe.model_dump(mode="json"),
        data={"sources": data, "trained_pairs": len(chosen), "trained_digest": digest(chosen)},
        git_revision=git_revision(),
        metrics=metrics,
        reference_scores=ScoreHistogram(
            edges=[round(float(e), 4) for e in edges],
            counts=[int(c) for c in counts],
            of="both replies of every held-out pair",
        ),
        files={},
    )
