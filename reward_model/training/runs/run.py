"""One training run, from a recipe and a data folder to a checkpoint folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray

from reward_model.checkpoint.checkpoint import load_checkpoint, save_checkpoint, save_ensemble, tokenizer_sha256
from reward_model.checkpoint.loaded_model import LoadedModel
from reward_model.checkpoint.manifest import (
    MANIFEST,
    Base,
    Ensemble,
    Manifest,
    ScoreHistogram,
    read_manifest,
)
from reward_model.digests import sha256_of, verify_digests
from reward_model.errors import BadInput, CheckpointError
from reward_model.labels import Pair, digest
from reward_model.model import base_model
from reward_model.model.reward_model import layers_of
from reward_model.training.evaluation.baselines import baselines
from reward_model.training.evaluation.evaluate import score_pairs
from reward_model.training.evaluation.metrics import pair_figures
from reward_model.training.fit.build import Trainee, base_of, build, formatter_of
from reward_model.training.fit.distributed import gathered, load_whole, processes, refuse_data_parallel
from reward_model.training.fit.mixture import Sources, cap, choose, read_sources
from reward_model.training.fit.recipe import EnsembleRecipe, ModelRecipe, Recipe
from reward_model.training.fit.trainer import fit
from reward_model.training.fit.truncation import Distinct, describe, distinct_sources
from reward_model.training.runs.card import model_card
from reward_model.training.runs.report import training_report


def train(recipe: Recipe, data: Path, out: Path, labels: Path | None) -> Manifest | None:
    """Run `recipe` on `data/preferences/*.jsonl.gz` and the train split of `labels`; write `out`.

    A run that was killed goes on from its last saved step when it is started again. Under `torchrun` or `accelerate
    launch` every process takes its share of the rows and the first one writes; the others get None. Pairs whose
    replies truncation makes equal are left out of every split and counted in the manifest. Raises BadInput when a file
    that the recipe names is missing or wrong, or leaves nothing to train on, before anything is trained.
    """
    refuse_data_parallel(torch.cuda.device_count(), processes(), sys.argv[1:])
    load_whole()
    parent = read_parent(recipe)
    distinct = distinct_sources(read_sources(recipe, data, labels), formatter_of(recipe))
    if recipe.ensemble is None:
        return _train_one(recipe, distinct, out, parent)
    return _train_ensemble(recipe, recipe.ensemble, distinct, out, parent)


def _train_one(
    recipe: Recipe, distinct: Distinct, out: Path, parent: dict[str, Any] | None, part: tuple[int, int] = (0, 1)
) -> Manifest | None:
    sources = distinct.sources
    chosen = choose(recipe, sources, part)
    training = [pair for pairs in chosen.values() for pair in pairs]
    held_back = [pair for splits in sources.values() for pair in splits["validation"]]
    validation = cap(held_back, recipe.optim.validation_pairs, recipe.optim.seed)
    if not training or not validation:
        raise BadInput(_too_few(training, validation, distinct))
    # What the manifest says of the base is read before the first step: a run that cannot be saved is not begun.
    base, tokenizer = _base(recipe)
    trainee = build(recipe)
    scratch = _scratch(recipe, out)
    log = fit(trainee, recipe.loss, recipe.optim, training, validation, scratch)
    main = PartialState().is_main_process
    trainee.model = gathered(trainee.model, lambda: build(recipe).model, main)
    if not main:
        return None
    draft = _draft(recipe, trainee, (base, tokenizer), sources, chosen)
    draft.parent = parent
    draft.data |= {"equal_after_truncation": distinct.equal, "validated_on": len(validation)}
    draft.metrics["log"] = [entry for entry in log if "eval_accuracy" in entry or "train_runtime" in entry]
    learned = trainee.model.backbone, trainee.model.head
    manifest = _measured_as_served(draft, sources, lambda folder: save_checkpoint(folder, *learned, draft))
    saved = save_checkpoint(out, *learned, manifest, _texts(manifest, log))
    shutil.rmtree(scratch)
    return saved


def _too_few(training: Sequence[Pair], validation: Sequence[Pair], distinct: Distinct) -> str:
    found = f"{len(training)} pairs to train on and {len(validation)} to validate on"
    if not (equal := sum(distinct.equal.values())):
        return f"{found}: the sources are too small"
    kept = sum(len(pairs) for splits in distinct.sources.values() for pairs in splits.values())
    return f"{found}: {describe(equal, kept + equal)}"


def _train_ensemble(
    recipe: Recipe, wanted: EnsembleRecipe, distinct: Distinct, out: Path, parent: dict[str, Any] | None
) -> Manifest | None:
    """Each member on its own shard and seed, then one checkpoint that holds them all."""
    folders = []
    for number in range(wanted.members):
        optim = recipe.optim.model_copy(update={"seed": recipe.optim.seed + number})
        name, version = recipe.id.split("@")
        member = recipe.model_copy(update={"id": f"{name}-{number}@{version}", "optim": optim, "ensemble": None})
        folder = out.parent / f".{out.name}.member-{number}"
        # A run that was killed after a member was finished does not train it again.
        if not folder.exists():
            _train_one(member, distinct, folder, parent, (number, wanted.members))
        folders.append(folder)
    if not PartialState().is_main_process:
        return None
    saved = combine(recipe, folders, distinct.sources, out)
    for folder in folders:
        shutil.rmtree(folder)
    return saved


def combine(recipe: Recipe, folders: Sequence[Path], sources: Sources, out: Path) -> Manifest:
    """One ensemble checkpoint from its members' folders, measured as it will be served."""
    assert recipe.ensemble is not None
    members = [read_manifest(folder) for folder in folders]
    moments = [_moments(manifest.reference_scores) for manifest in members]
    ensemble = Ensemble(
        deviations=recipe.ensemble.deviations,
        members=[f"member-{number}" for number in range(len(folders))],
        means=[mean for mean, _ in moments],
        scales=[scale for _, scale in moments],
    )
    update = {"id": recipe.id, "recipe": recipe.model_dump(mode="json"), "ensemble": ensemble, "files": {}}
    draft = members[0].model_copy(update=update)
    trained = {f"member-{number}": manifest.data["trained"] for number, manifest in enumerate(members)}
    draft.data = {**draft.data, "members": trained}
    draft.metrics = {}
    manifest = _measured_as_served(draft, sources, lambda folder: save_ensemble(folder, folders, draft))
    return save_ensemble(out, folders, manifest, _texts(manifest, []))


def _measured_as_served(draft: Manifest, sources: Sources, save: Callable[[Path], Manifest]) -> Manifest:
    """The draft with the figures and scores of the checkpoint as it is loaded to serve: its adapter merged."""
    with tempfile.TemporaryDirectory(prefix="winnow-run-") as scratch:
        folder = Path(scratch) / "1"
        save(folder)
        figures, scores = held_out_figures(load_checkpoint(folder), sources)
    return draft.model_copy(
        update={"metrics": {"held_out": figures, **draft.metrics}, "reference_scores": _histogram(scores)}
    )


def _moments(histogram: ScoreHistogram | None) -> tuple[float, float]:
    """Mean and deviation of the scores behind a histogram."""
    assert histogram is not None
    middles = (np.array(histogram.edges[1:]) + np.array(histogram.edges[:-1])) / 2
    mean = float(np.average(middles, weights=histogram.counts))
    return mean, max(1e-3, float(np.sqrt(np.average((middles - mean) ** 2, weights=histogram.counts))))


def _scratch(recipe: Recipe, out: Path) -> Path:
    """Where a run saves its steps: beside the checkpoint, so that the same command goes on after a kill.

    Raises BadInput when another recipe's unfinished run lies there.
    """
    folder = out.parent / f".{out.name}.training"
    written = folder / "recipe.json"
    ours = recipe.model_dump_json(indent=1)
    if written.exists() and written.read_text() != ours:
        raise BadInput(f"{folder} holds an unfinished run of another recipe; remove it, or choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    written.write_text(ours)
    return folder


def _texts(manifest: Manifest, log: list[Any]) -> dict[str, str]:
    return {
        "README.md": model_card(manifest),
        "evaluation.json": json.dumps(manifest.metrics, indent=1) + "\n",
        "training_log.json": json.dumps(log) + "\n",
        "report.html": training_report(manifest, log).html(),
    }


def read_parent(recipe: Recipe) -> dict[str, Any] | None:
    """What the manifest says of the checkpoint that the run goes on from; None for a fresh start.

    Raises BadInput when the recipe asks for another architecture or another format than that checkpoint has.
    """
    folder = recipe.model.start_from
    if folder is None:
        return None
    parent = read_manifest(folder)
    verify_digests(folder, parent.files)
    ours = {**recipe.model.model_dump(mode="json"), "start_from": None}
    # Through the schema, so that an older recipe is read with the defaults of what it did not know yet.
    theirs = {**ModelRecipe.model_validate(parent.recipe["model"]).model_dump(mode="json"), "start_from": None}
    if ours != theirs or recipe.formatting != parent.formatting:
        raise BadInput(
            f"the recipe's [model] and [formatting] must be those of {folder}: {theirs}, {parent.formatting}"
        )
    kept = parent.model_dump(mode="json", include={"id", "recipe", "data", "parent", "git_revision"})
    return {"manifest_sha256": sha256_of(folder / MANIFEST), **kept}


def held_out_figures(model: LoadedModel, sources: Sources) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Figures on the test split of every source beside its baselines, and all its scores [pairs, 2]."""
    figures: dict[str, Any] = {}
    everything = []
    for name, splits in sources.items():
        scores = score_pairs(model, splits["test"])
        beside = baselines(splits["test"], splits["train"], lambda pairs: score_pairs(model, pairs))
        figures[name] = {**pair_figures(splits["test"], scores), "baselines": beside}
        everything.append(scores)
    return figures, np.concatenate(everything)


def git_revision() -> str:
    """The commit of the code that trained, or `unknown` outside a checkout."""
    done = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def _base(recipe: Recipe) -> tuple[Base, str]:
    """The recipe's base and the digest of its tokenizer; CheckpointError where a file of either is missing."""
    folder = base_of(recipe)
    try:
        tokenizer = tokenizer_sha256(folder)
    except OSError as error:
        raise CheckpointError(f"{folder} has no tokenizer.json, by which a checkpoint knows its tokenizer") from error
    if recipe.model.base == "bundled":
        weights = base_model.weights_sha256(folder)
        return Base(name=base_model.NAME, weights_sha256=weights, source_sha256=base_model.GGUF_SHA256), tokenizer
    return Base(name=folder.name, weights_sha256=base_model.digest_of(folder), path=str(folder)), tokenizer


def _draft(
    recipe: Recipe, trainee: Trainee, base: tuple[Base, str], sources: Sources, chosen: dict[str, list[Pair]]
) -> Manifest:
    """The manifest but for what is measured."""
    data = {
        name: {split: {"pairs": len(pairs), "digest": digest(pairs)} for split, pairs in splits.items()}
        for name, splits in sources.items()
    }
    return Manifest(
        id=recipe.id,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        base=base[0],
        layers=len(layers_of(trainee.model.backbone)),
        hidden_size=trainee.model.head.in_features,
        pooling=recipe.model.pooling,
        locales=recipe.model.locales,
        score_clip=recipe.model.score_clip,
        formatting=recipe.formatting,
        template_sha256=trainee.formatter.template_sha256,
        tokenizer_sha256=base[1],
        recipe=recipe.model_dump(mode="json"),
        data={
            "sources": data,
            "trained": {name: len(pairs) for name, pairs in chosen.items()},
            "trained_digest": digest([pair for pairs in chosen.values() for pair in pairs]),
        },
        git_revision=git_revision(),
        metrics={},
        files={},
    )


def _histogram(scores: Any) -> ScoreHistogram:
    counts, edges = np.histogram(scores, bins=20)
    return ScoreHistogram(
        edges=[round(float(e), 4) for e in edges],
        counts=[int(c) for c in counts],
        of="both replies of every held-out pair",
    )
