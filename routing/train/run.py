"""One training run: data in, a sealed router's folder out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from routing.errors import BadRoutingInput
from routing.model.bundle import ENCODER, NGRAMS, VOCABULARY, WINDOWS, load_encoder, load_ngrams, save_ngrams, seal
from routing.model.classifier import NgramModel, TextModel
from routing.model.manifest import RouterManifest
from routing.router import Router
from routing.train.curves import LongTextFit, fit_cascade, fit_curve
from routing.train.data import Corpus, Example, digests, load
from routing.train.evaluate import ENOUGH, choose_threshold, labels, odds_of
from routing.train.long_texts import training_examples
from routing.train.ngrams import fit_ngrams
from routing.train.recipe import DistilRecipe
from routing.train.report import figures

# Below the 0.05 that is promised, because a threshold chosen on one sample meets another.
FALSE_POSITIVE_RATE = 0.04
# Fewer long texts teach nothing of prose.
ENOUGH_PROSE = 50


def train(
    data: Path, base: Path | None, out: Path, recipe: DistilRecipe, hold_out_phrasing: bool, sources: str
) -> RouterManifest:
    """Train on `data`; write the router's folder `out`. Without `base`, a BERT encoder, n-grams decide alone."""
    corpus = load(data, hold_out_phrasing)
    need_all_classes(corpus)
    out.mkdir(parents=True, exist_ok=True)
    _say("n-grams")
    save_ngrams(out, fit_ngrams(corpus.on("train")), NGRAMS)
    if len(corpus.prose_on("train")) >= ENOUGH_PROSE and len(corpus.prose_on("validation")) >= ENOUGH_PROSE:
        _say("n-grams of a long text's windows")
        examples = training_examples(corpus.on("train"), corpus.prose_on("train"), recipe.seed)
        save_ngrams(out, fit_ngrams(examples), WINDOWS)
    if base is not None:
        _say("student encoder")
        train_encoder(base, out, corpus, recipe)
    return finish(out, data, corpus, {**asdict(recipe), "hold_out_phrasing": hold_out_phrasing}, sources)


def train_encoder(base: Path, out: Path, corpus: Corpus, recipe: DistilRecipe) -> None:
    """Write the student encoder and its word pieces."""
    from routing.train.distil import train_student, vocabulary_of
    from routing.train.student import export_onnx

    (out / VOCABULARY).write_text("\n".join(vocabulary_of(base)[: recipe.vocabulary]) + "\n", encoding="utf-8")
    student = train_student(base, out / VOCABULARY, corpus.on("train"), len(corpus.classes), recipe)
    export_onnx(student, out / ENCODER)


def finish(out: Path, data: Path, corpus: Corpus, recipe: dict[str, Any], sources: str) -> RouterManifest:
    """Fit curves and choose the threshold on the validation side, measure on the others, seal the folder."""
    _say("calibration and figures, with the files as they are served")
    classes = len(corpus.classes)
    encoder = load_encoder(out, classes) if (out / ENCODER).exists() else None
    manifest = _calibrated(corpus, load_ngrams(out, classes), encoder)
    if (out / WINDOWS).exists():
        threshold = max(manifest.thresholds.values())
        fit = LongTextFit(load_ngrams(out, classes, WINDOWS), encoder, threshold, FALSE_POSITIVE_RATE)
        manifest = manifest.model_copy(update={"long": fit.fit(corpus)})
    rule = (
        f"lowest with a false-positive rate of at most {FALSE_POSITIVE_RATE} on every source of the validation side "
        f"with at least {ENOUGH} texts without stakes"
    )
    manifest = manifest.model_copy(
        update={
            "recipe": {**recipe, "trained_on": len(corpus.on("train")), "threshold_rule": rule},
            "data": [{"note": sources}, *digests(data)],
        }
    )
    sealed = seal(out, manifest)
    return seal(out, sealed.model_copy(update={"figures": figures(Router.load(out), corpus)}))


def need_all_classes(corpus: Corpus) -> None:
    """Raise BadRoutingInput if a side of the split lacks a class."""
    for side in ("train", "validation"):
        present = {example.label for example in corpus.examples if example.side == side}
        if missing := sorted({*range(len(corpus.classes))} - present):
            raise BadRoutingInput(
                f"too few texts of {corpus.classes[missing[0]]!r}: none fell to the {side} side; give it some dozens"
            )


def _calibrated(corpus: Corpus, ngrams: NgramModel, encoder: TextModel | None) -> RouterManifest:
    validation = corpus.on("validation")
    truth = labels(validation)
    grams = _logits(ngrams, validation)
    read = None if encoder is None else _logits(encoder, validation)
    odds = np.stack([odds_of(each) for each in (read, grams) if each is not None], axis=1)
    calibration = fit_curve(odds, truth > 0)
    scores = odds @ np.array(calibration.slopes) + calibration.intercept
    threshold = choose_threshold(1 / (1 + np.exp(-scores)), validation, FALSE_POSITIVE_RATE)
    return RouterManifest(
        id="winnow-router@2",
        created=datetime.now(UTC).date().isoformat(),
        classes=corpus.classes,
        thresholds=dict.fromkeys(corpus.classes[1:], threshold),
        calibration=calibration,
        cascade=None if read is None else fit_cascade(read, grams, truth, calibration, threshold),
        recipe={},
        data=[],
        figures={},
        files={},
    )


def _logits(model: TextModel, examples: Sequence[Example]) -> np.ndarray:
    return model.logits([example.text for example in examples])


def _say(what: str) -> None:
    print(f"route-train: {what}", file=sys.stderr, flush=True)
