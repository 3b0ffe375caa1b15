"""A router's folder: its files, and a `manifest.json` that describes and seals them.

ngrams.npz     the n-gram model of short texts, plain arrays (nothing here is a pickle)
windows.npz    the n-gram model of a longer text's windows, if there is one
encoder.onnx   the student encoder, int8, if there is one
vocab.txt      its word pieces
manifest.json  what it is, what was measured, the SHA-256 of each file
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from pathlib import Path

import numpy as np
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile

from routing.errors import BundleError
from routing.model.classifier import Cascade, Classifier, NgramModel, Stage, StakesCalibration
from routing.model.encoder import EncoderModel
from routing.model.features import BUCKETS
from routing.model.manifest import MANIFEST, FittedCalibration, FittedCascade, RouterManifest, read_manifest

BUNDLED = Path(__file__).parents[1] / "bundled"
ENCODER, VOCABULARY, NGRAMS, WINDOWS = "encoder.onnx", "vocab.txt", "ngrams.npz", "windows.npz"
FILES = (NGRAMS, WINDOWS, ENCODER, VOCABULARY)


def load_bundle(folder: Path) -> tuple[RouterManifest, Classifier]:
    """Read and verify a router's folder; raises BundleError naming what is wrong."""
    manifest = read_manifest(folder)
    classes = len(manifest.classes)
    needed = [NGRAMS]
    if len(manifest.calibration.slopes) == 2:
        needed += [ENCODER, VOCABULARY]
    if manifest.long is not None:
        needed.append(WINDOWS)
    for name in needed:
        if manifest.files.get(name) != _digest(folder / name):
            raise BundleError(f"{folder / name}: not the file that {MANIFEST} lists; copy or train the router again")
    encoder = load_encoder(folder, classes) if ENCODER in needed else None
    short = stage(load_ngrams(folder, classes), manifest.calibration, manifest.cascade)
    long = short
    if manifest.long is not None:
        long = stage(load_ngrams(folder, classes, WINDOWS), manifest.long.calibration, manifest.long.cascade)
    return manifest, Classifier(short, long, encoder)


def stage(ngrams: NgramModel, fitted: FittedCalibration, cascade: FittedCascade | None) -> Stage:
    """A stage of the classifier with the curves that a manifest holds; without an encoder the n-grams decide all."""
    if len(fitted.slopes) == 1:
        return Stage(ngrams, None, Cascade(math.inf, math.inf, 0.0, curve(fitted)))
    if cascade is None:
        return Stage(ngrams, curve(fitted))
    return Stage(ngrams, curve(fitted), Cascade(cascade.lower, cascade.upper, cascade.margin, curve(cascade.alone)))


def curve(fitted: FittedCalibration) -> StakesCalibration:
    """What a manifest's curve computes."""
    return StakesCalibration(fitted.slopes, fitted.intercept, fitted.windows)


def load_encoder(folder: Path, classes: int) -> EncoderModel:
    """The student encoder of a folder; raises BundleError."""
    try:
        encoder = EncoderModel(folder / ENCODER, folder / VOCABULARY)
        width = encoder.logits([""]).shape[1]
    except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile, OSError) as error:
        raise BundleError(f"{folder / ENCODER}: not a graph that can be served ({error})") from error
    if width != classes:
        raise BundleError(f"{folder / ENCODER}: tells {width} classes apart, {MANIFEST} lists {classes}")
    return encoder


def load_ngrams(folder: Path, classes: int, name: str = NGRAMS) -> NgramModel:
    """An n-gram model of a folder; raises BundleError."""
    path = folder / name
    try:
        with np.load(path, allow_pickle=False) as arrays:
            weights, bias, idf = (arrays[field].astype(np.float32) for field in ("weights", "bias", "idf"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path}: not the arrays of a router ({error})") from error
    if (weights.shape, bias.shape, idf.shape) != ((classes, BUCKETS), (classes,), (BUCKETS,)):
        raise BundleError(f"{path}: weights for other features or classes than it is read with; train the router again")
    return NgramModel(weights, bias, idf)


def save_ngrams(folder: Path, model: NgramModel, name: str = NGRAMS) -> None:
    """Write an n-gram model in half precision (it was fitted and rounded so)."""
    halves = {"weights": model.weights.astype(np.float16), "idf": model.idf.astype(np.float16)}
    np.savez_compressed(folder / name, allow_pickle=False, bias=model.bias, **halves)


def seal(folder: Path, manifest: RouterManifest) -> RouterManifest:
    """Write the manifest with the digests of the files that lie in the folder."""
    digests = {name: digest for name in FILES if (digest := _digest(folder / name)) is not None}
    sealed = manifest.model_copy(update={"files": digests})
    (folder / MANIFEST).write_text(json.dumps(sealed.model_dump(), indent=2) + "\n", encoding="utf-8")
    return sealed


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
