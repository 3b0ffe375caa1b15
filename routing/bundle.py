"""A router's folder: `weights.npz` (plain arrays, no pickle) and a `manifest.json` that describes and seals it."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from routing.classifier import Calibration, Classifier, NgramModel
from routing.errors import BundleError
from routing.features import BUCKETS

BUNDLED = Path(__file__).parent / "bundled"
MANIFEST = "manifest.json"
WEIGHTS = "weights.npz"


class TrainedThresholds(BaseModel):
    """Probability of high stakes from which a route is taken, chosen on the validation split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    billing: float = Field(ge=0.0, le=1.0)
    fraud: float = Field(ge=0.0, le=1.0)


class TrainedCalibration(BaseModel):
    """What `probability` means, and the texts it was fitted on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["platt"] = "platt"
    event: Literal["high_stakes"] = "high_stakes"
    slope: float = Field(gt=0.0, allow_inf_nan=False)
    intercept: float = Field(allow_inf_nan=False)
    labels: int = Field(ge=0, description="Texts it was fitted on, none of them trained on.")
    positives: int = Field(ge=0)


class Manifest(BaseModel):
    """All that is known of a trained router; `files` maps each file to its SHA-256."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = 1
    id: str
    created: str
    thresholds: TrainedThresholds
    calibration: TrainedCalibration
    recipe: dict[str, Any]
    data: list[dict[str, Any]]
    figures: dict[str, Any]
    files: dict[str, str]


def load_bundle(folder: Path) -> tuple[Manifest, Classifier]:
    """Read and verify a router's folder; raises BundleError naming what is wrong."""
    manifest = read_manifest(folder)
    for name, digest in manifest.files.items():
        if _read(folder / name) is None or sha256(folder / name) != digest:
            raise BundleError(f"{folder / name}: not the file that {MANIFEST} lists; copy or train the router again")
    try:
        with np.load(folder / WEIGHTS, allow_pickle=False) as arrays:
            ngrams = NgramModel(*(arrays[name].astype(np.float32) for name in ("weights", "bias", "idf")))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(f"{folder / WEIGHTS}: not the arrays of a router ({error})") from error
    if ngrams.weights.shape != (3, BUCKETS) or ngrams.idf.shape != (BUCKETS,) or ngrams.bias.shape != (3,):
        raise BundleError(f"{folder / WEIGHTS}: weights for other features; train the router again")
    fitted = manifest.calibration
    return manifest, Classifier(ngrams, Calibration(fitted.slope, fitted.intercept))


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json`; raises BundleError."""
    content = _read(folder / MANIFEST)
    if content is None:
        raise BundleError(f"{folder}: no router here ({MANIFEST} cannot be read)")
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise BundleError(f"{folder / MANIFEST}: not a router's manifest ({error})") from error


def write_bundle(folder: Path, arrays: dict[str, Any], manifest: Manifest) -> Manifest:
    """Write weights, then the manifest that seals them."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / WEIGHTS, allow_pickle=False, **arrays)
    sealed = manifest.model_copy(update={"files": {WEIGHTS: sha256(folder / WEIGHTS)}})
    (folder / MANIFEST).write_text(json.dumps(sealed.model_dump(), indent=2) + "\n", encoding="utf-8")
    return sealed


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
