"""One training run, from a recipe and a data folder to a checkpoint folder."""

from __future__ import annotations

import json
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from reward_model import base_model
from reward_model.base_model import sha256_of
from reward_model.checkpoint import (
    MANIFEST,
    WEIGHTS,
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
from reward_model.training.data import Pair, digest
from reward_model.training.metrics import pair_figures
from reward_model.training.mixture import Sources, cap, choose, read_sources
from reward_model.training.recipe import Recipe
from reward_model.training.trainer import Trainee, build, fit, rows_of, score_rows

# Validation on the way is a glance; the held-out figures at the end use everything.
VALIDATION_PAIRS = 500


def train(recipe: Recipe, data: Path, out: Path, labels: Path | None) -> Manifest:
    """Run `recipe` on `data/preferences/*.jsonl.gz` and the train split of `labels`; write `out`.

    Raises BadInput when a file that the recipe names is missing or wrong, before anything is trained.
    """
    parent = read_parent(recipe)
    sources = read_sources(recipe, data, labels)
    chosen = choose(recipe, sources)
    training = [pair for pairs in chosen.values() for pair in pairs]
    held_back = [pair for splits in sources.values() for pair in splits["validation"]]
    validation = cap(held_back, VALIDATION_PAIRS, recipe.optim.seed)
    trainee = build(recipe)
    with tempfile.TemporaryDirectory(prefix="winnow-train-") as scratch:
        log = fit(trainee, recipe.optim, training, validation, Path(scratch))
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


def held_out_figures(trainee: Trainee, sources: Sources, max_tokens: int) -> tuple[dict[str, Any], Any]:
    """Figures on the test split of every source, and all its scores."""
    figures: dict[str, Any] = {}
    everything = []
    for name, splits in sources.items():
        rows = rows_of(splits["test"], trainee.formatter, max_tokens)
        scores = score_rows(trainee.model, rows)
        figures[name] = pair_figures(splits["test"], scores)
        everything.append(scores)
    return {"held_out": figures}, np.concatenate(everything)


def git_revision() -> str:
    """The commit of the code that trained, or `unknown` outside a checkout."""
    done = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def _base(recipe: Recipe, folder: Path) -> Base:
    if recipe.model.base == "bundled":
        weights = base_model.weights_sha256(folder)
        return Base(name=base_model.NAME, weights_sha256=weights, source_sha256=base_model.GGUF_SHA256)
    return Base(name=folder.name, weights_sha256=sha256_of(folder / WEIGHTS), path=str(folder))


def _manifest(
    recipe: Recipe,
    trainee: Trainee,
    sources: Sources,
    chosen: dict[str, list[Pair]],
    metrics: dict[str, Any],
    scores: Any,
) -> Manifest:
    counts, edges = np.histogram(scores, bins=20)
    data = {
        name: {split: {"pairs": len(pairs), "digest": digest(pairs)} for split, pairs in splits.items()}
        for name, splits in sources.items()
    }
    return Manifest(
        id=recipe.id,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        base=_base(recipe, trainee.base),
        layers=recipe.model.layers,
        hidden_size=trainee.model.head.in_features,
        formatting=recipe.formatting,
        template_sha256=trainee.formatter.template_sha256,
        tokenizer_sha256=tokenizer_sha256(trainee.base),
        recipe=recipe.model_dump(mode="json"),
        data={
            "sources": data,
            "trained": {name: len(pairs) for name, pairs in chosen.items()},
            "trained_digest": digest([pair for pairs in chosen.values() for pair in pairs]),
        },
        git_revision=git_revision(),
        metrics=metrics,
        reference_scores=ScoreHistogram(
            edges=[round(float(e), 4) for e in edges],
            counts=[int(c) for c in counts],
            of="both replies of every held-out pair",
        ),
        files={},
    )
