"""`winnow ablate`: one recipe, several variants of it, one table of accuracy beside cost.

A variant is compared on the validation split: the test split is for what is reported of the checkpoint that is
served, and choosing by it would flatter that. A variant whose line is already in the results is not run again.
"""

from __future__ import annotations

import json
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from reward_model.checkpoint.loaded_model import LoadedModel
from reward_model.errors import BadInput
from reward_model.faults import first_fault
from reward_model.labels import Pair, as_completion
from reward_model.training.evaluation.metrics import acceptance_figures, pair_figures
from reward_model.training.fit.build import Trainee, build, formatter_of
from reward_model.training.fit.mixture import Sources, cap, choose, read_sources
from reward_model.training.fit.recipe import Recipe, resolved
from reward_model.training.fit.trainer import fit, rows_of, score_rows
from reward_model.training.fit.truncation import distinct_sources

# A request of the kind that is served: a prompt with a policy, and eight candidates.
PROMPT_TOKENS, COMPLETION_TOKENS, CANDIDATES = 250, 110, 8


class Ablation(BaseModel):
    """A recipe under [recipe], and under [variants.NAME] what each variant changes in it."""

    model_config = ConfigDict(extra="forbid")

    recipe: dict[str, Any]
    validation_pairs: int = 200
    variants: dict[str, dict[str, Any]]


def load_ablation(path: Path) -> tuple[Ablation, dict[str, Recipe]]:
    """The file and each variant's whole recipe; BadInput names the field at fault."""
    try:
        ablation = Ablation.model_validate(tomllib.loads(path.read_text()))
        recipes = {
            name: resolved(Recipe.model_validate(merged(ablation.recipe, changes)), path.parent)
            for name, changes in ablation.variants.items()
        }
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        raise BadInput(f"{path}: {first_fault(error)}") from error
    return ablation, recipes


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, table by table; a value of "none" takes a key away.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": "none"}})
    {'a': {'b': 3}}
    """
    whole = dict(base)
    for key, value in changes.items():
        if value == "none":
            whole.pop(key, None)
        else:
            whole[key] = merged(whole.get(key, {}), value) if isinstance(value, dict) else value
    return whole


def ablate(path: Path, data: Path, results: Path) -> Iterator[dict[str, Any]]:
    """Run the variants that `results` does not hold yet, append a line for each, and yield every line."""
    ablation, recipes = load_ablation(path)
    done = (
        {line["variant"]: line for line in map(json.loads, results.read_text().splitlines())}
        if results.exists()
        else {}
    )
    # Every variant is measured on the same pairs, also where it does not learn from them.
    everything = Recipe.model_validate(ablation.recipe)
    sources = read_sources(resolved(everything, path.parent), data, None)
    distinct = distinct_sources(sources, formatter_of(everything)).sources
    validation = _validation(distinct, ablation, everything.optim.seed)
    for name, recipe in recipes.items():
        if name not in done:
            with tempfile.TemporaryDirectory(prefix="winnow-ablation-") as scratch:
                done[name] = {"variant": name, **_run(recipe, data, validation, Path(scratch))}
            with results.open("a") as stream:
                stream.write(json.dumps(done[name]) + "\n")
        yield done[name]


def _validation(sources: Sources, ablation: Ablation, seed: int) -> dict[str, Any]:
    return {name: cap(splits["validation"], ablation.validation_pairs, seed) for name, splits in sources.items()}


def _run(recipe: Recipe, data: Path, validation: dict[str, Any], scratch: Path) -> dict[str, Any]:
    chosen = choose(recipe, distinct_sources(read_sources(recipe, data, None), formatter_of(recipe)).sources)
    training = [pair for pairs in chosen.values() for pair in pairs]
    held_back = [pair for pairs in validation.values() for pair in pairs]
    trainee = build(recipe)
    began = time.monotonic()
    log = fit(trainee, recipe.loss, recipe.optim, training, cap(held_back, 200, recipe.optim.seed), scratch)
    seconds = time.monotonic() - began
    figures: dict[str, Any] = {}
    by_length: tuple[list[bool], list[bool]] = ([], [])
    judged: dict[tuple[str, str], tuple[bool, float]] = {}
    for name, pairs in validation.items():
        rows = rows_of(pairs, trainee.formatter, recipe.optim.max_row_tokens)
        scores = score_rows(trainee.model, rows, locales=[pair.locale for pair in pairs])
        figures[name] = pair_figures(pairs, scores)
        figures[name].pop("by_bucket")
        for pair, (chosen, rejected) in zip(pairs, scores, strict=True):
            judged |= _judged(pair, chosen, rejected)
            by_length[_length(pair.chosen) > _length(pair.rejected)].append(bool(chosen > rejected))
    return {
        "pairs": len(training),
        "train_seconds": round(seconds),
        "loss": [entry["loss"] for entry in log if "loss" in entry][-1:],
        "ms_per_candidate": round(serving_cost(trainee), 1),
        "accuracy_where_the_shorter_wins": round(fmean(by_length[0]), 4),
        "accuracy_where_the_longer_wins": round(fmean(by_length[1]), 4),
        "acceptable": acceptance_figures(*map(list, zip(*judged.values(), strict=True))) if judged else None,
        "validation": figures,
    }


def _judged(pair: Pair, chosen: float, rejected: float) -> dict[tuple[str, str], tuple[bool, float]]:
    """Label and score of the pair's labelled replies, by prompt and reply: one may stand in several pairs."""
    prompt = repr(pair.prompt)
    replies = ((pair.chosen, pair.acceptable.chosen, chosen), (pair.rejected, pair.acceptable.rejected, rejected))
    return {
        (prompt, as_completion(reply).text()): (label, float(score))
        for reply, label, score in replies
        if label is not None
    }


def _length(reply: Any) -> int:
    return len(as_completion(reply).text())


def serving_cost(trainee: Trainee) -> float:
    """Milliseconds for each of eight candidates of one request, scored in one batch as they are served; median of 5."""
    backbone: Any = trainee.model.backbone
    if hasattr(backbone, "merge_and_unload"):
        trainee.model.backbone = backbone.merge_and_unload()
    trainee.model.backbone.to(torch.bfloat16)
    model = LoadedModel("", trainee.formatter, trainee.model.eval(), None, None, torch.device("cpu"))
    ids = [[5 + (i + j) % 100 for j in range(PROMPT_TOKENS + COMPLETION_TOKENS)] for i in range(CANDIDATES)]
    times = []
    for _ in range(6):
        began = time.monotonic()
        model.score(ids)
        times.append((time.monotonic() - began) * 1000 / CANDIDATES)
    return median(times[1:])


def markdown(lines: list[dict[str, Any]]) -> str:
    """The table for the documents: a row for each variant, a column for each source."""
    sources = list(lines[0]["validation"]) if lines else []
    head = ["variant", *sources, "mean", "shorter wins", "acceptable: AUC", "right at 0", "training", "serving"]
    rows = [head, ["---"] * len(head)]
    for line in lines:
        values = [line["validation"][name]["accuracy"] for name in sources]
        shorter = f"{line['accuracy_where_the_shorter_wins']:.3f}"
        known = line.get("acceptable")
        sent = [f"{known['auc']:.3f}", f"{known['right_at_zero']:.3f}"] if known else ["", ""]
        cost = [shorter, *sent, f"{line['train_seconds']} s", f"{line['ms_per_candidate']} ms"]
        rows.append([line["variant"], *(f"{v:.3f}" for v in values), f"{sum(values) / len(values):.3f}", *cost])
    longer = [lines[0]["validation"][name]["longer_wins"] for name in sources] if lines else []
    counts = [str(lines[0]["validation"][name]["pairs"]) for name in sources] if lines else []
    blank = [""] * (len(head) - 1 - len(sources))
    rows += [["longer wins", *(f"{v:.3f}" for v in longer), *blank], ["pairs", *counts, *blank]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
