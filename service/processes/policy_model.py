"""What is known of a policy model before vLLM loads it: the bundled one, a folder, or a repository of the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from service.errors import SetupError

BUNDLED = "bundled"
BUNDLED_NAME = "smollm2-135m-instruct"

# Where configurations state how many tokens a text may have; vLLM takes the least of them too.
_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_HUB_SECONDS = 10


def served_name(model: str) -> str:
    """The name that clients and calibrators know the model by: a folder's own name, not where it lies."""
    if model == BUNDLED:
        return BUNDLED_NAME
    return Path(model).resolve().name if Path(model).exists() else model


def context_length(model: str) -> int | None:
    """Tokens of the longest text that a model takes; None if its configuration does not say.

    Raises SetupError if there is no such folder and the hub has no such model, or cannot be asked.
    """
    if Path(model).is_file():
        # One file of weights, such as GGUF.
        return None
    config = _read(Path(model) / "config.json") if Path(model).is_dir() else _read(_from_hub(model))
    text = next((config[key] for key in ("text_config", "llm_config") if isinstance(config.get(key), dict)), config)
    lengths = [text[key] for key in _LENGTHS if isinstance(text.get(key), int) and text[key] > 0]
    return min(lengths, default=None)


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise SetupError(f"{str(path.parent)!r} is no model folder: it has no config.json") from error
    except (OSError, ValueError) as error:
        raise SetupError(f"{str(path)!r} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise SetupError(f"{str(path)!r} is not a model's configuration: it holds no JSON object")
    return config


def _from_hub(model: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(hf_hub_download(model, "config.json", etag_timeout=_HUB_SECONDS))
    except HFValidationError as error:
        raise SetupError(f"there is no folder {model!r}, and that is no name of a model on the hub") from error
    except GatedRepoError as error:
        raise SetupError(f"{model} is gated: accept its licence on the hub, then set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise SetupError(f"there is no folder {model!r}, and no such model on the hub (or set HF_TOKEN)") from error
    except LocalEntryNotFoundError as error:
        raise SetupError(
            f"there is no folder {model!r} here, it was not downloaded before, and the hub cannot be reached; download "
            f"it where it can (`hf download {model}`), or name a folder with --model"
        ) from error
    except (EntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise SetupError(f"the configuration of {model} cannot be read from the hub: {error}") from error
