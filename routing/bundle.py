"""A router's folder: its files, and a `manifest.json` that describes and seals them.

encoder.onnx   the student encoder, int8
vocab.txt      its word pieces
ngrams.npz     the n-gram model, plain arrays (nothing here is a pickle)
manifest.json  what it is, what was measured, the SHA-256 of each file
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from routing.classifier import Classifier, NgramModel, StakesCalibration
from routing.encoder import EncoderModel
from routing.errors import BundleError
from routing.features import BUCKETS
from routing.routes import DEFAULT, SHIPPED, Route
from routing.settings import Probability

BUNDLED = Path(__file__).parent / "bundled"
MANIFEST = "manifest.json"
ENCODER, VOCABULARY, NGRAMS = "encoder.onnx", "vocab.txt", "ngrams.npz"


class FittedCalibration(BaseModel):
    """What `probability` means, and the texts it was fitted on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["platt"] = "platt"
    event: Literal["high_stakes"] = "high_stakes"
    slopes: tuple[float, float] = Field(description="Of the encoder's and the n-grams' log-odds.")
    intercept: float = Field(allow_inf_nan=False)
    labels: int = Field(ge=0, description="Texts it was fitted on, none of them trained on.")
    positives: int = Field(ge=0)


class RouterManifest(BaseModel):
    """All that is known of a trained router; `files` maps each file to its SHA-256.

    Version 1 had no `classes`: its routers tell the routes that ship.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1, 2] = 2
    id: str
    created: str
    classes: tuple[Route, ...] = Field(SHIPPED, min_length=2, description="`default` and the routes it tells from it.")
    thresholds: dict[Route, Probability] = Field(description="Probability of high stakes from which a route is taken.")
    calibration: FittedCalibration
    recipe: dict[str, Any]
    data: list[dict[str, Any]]
    figures: dict[str, Any]
    files: dict[str, str]

    @model_validator(mode="after")
    def _classes_and_thresholds_agree(self) -> Self:
        if self.classes[0] != DEFAULT or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes: expected {DEFAULT!r} and then other names, each once")
        if self.thresholds.keys() != set(self.classes[1:]):
            raise ValueError("thresholds: expected one for each class but the first")
        return self


def load_bundle(folder: Path) -> tuple[RouterManifest, Classifier]:
    """Read and verify a router's folder; raises BundleError naming what is wrong."""
    manifest = read_manifest(folder)
    for name in (ENCODER, VOCABULARY, NGRAMS):
        content = _read(folder / name)
        if content is None or hashlib.sha256(content).hexdigest() != manifest.files.get(name):
            raise BundleError(f"{folder / name}: not the file that {MANIFEST} lists; copy or train the router again")
    fitted = manifest.calibration
    calibration = StakesCalibration(fitted.slopes, fitted.intercept)
    models = (load_encoder(folder, len(manifest.classes)), load_ngrams(folder, len(manifest.classes)))
    return manifest, Classifier(models, calibration)


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


def load_ngrams(folder: Path, classes: int) -> NgramModel:
    """The n-gram model of a folder; raises BundleError."""
    path = folder / NGRAMS
    try:
        with np.load(path, allow_pickle=False) as arrays:
            weights, bias, idf = (arrays[name].astype(np.float32) for name in ("weights", "bias", "idf"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path}: not the arrays of a router ({error})") from error
    if (weights.shape, bias.shape, idf.shape) != ((classes, BUCKETS), (classes,), (BUCKETS,)):
        raise BundleError(f"{path}: weights for other features or classes than it is read with; train the router again")
    return NgramModel(weights, bias, idf)


def read_manifest(folder: Path) -> RouterManifest:
    """Read `manifest.json`; raises BundleError."""
    content = _read(folder / MANIFEST)
    if content is None:
        raise BundleError(f"{folder}: no router here ({MANIFEST} cannot be read)")
    try:
        return RouterManifest.model_validate_json(content)
    except ValidationError as error:
        raise BundleError(f"{folder / MANIFEST}: not a router's manifest ({error})") from error


def save_ngrams(folder: Path, model: NgramModel) -> None:
    """Write the n-gram model in half precision (it was fitted and rounded so)."""
    halves = {"weights": model.weights.astype(np.float16), "idf": model.idf.astype(np.float16)}
    np.savez_compressed(folder / NGRAMS, allow_pickle=False, bias=model.bias, **halves)


def seal(folder: Path, manifest: RouterManifest) -> RouterManifest:
    """Write the manifest with the digests of the files that lie in the folder."""
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (ENCODER, VOCABULARY, NGRAMS)}
    sealed = manifest.model_copy(update={"files": digests})
    (folder / MANIFEST).write_text(json.dumps(sealed.model_dump(), indent=2) + "\n", encoding="utf-8")
    return sealed


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
