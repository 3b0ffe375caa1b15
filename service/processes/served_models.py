"""Which models a running policy serves."""

from __future__ import annotations

import httpx

from service.errors import SetupError
from service.settings import PolicySettings

_TIMEOUT_SECONDS = 10.0


def served_models(policy: PolicySettings) -> list[str]:
    """Names of the models of an OpenAI-compatible server, adapters left out; `policy.model` is not looked at.

    Raises SetupError when it cannot be asked.
    """
    url, headers = policy.url, dict(policy.headers)
    if policy.api_key is not None:
        headers["authorization"] = f"Bearer {policy.api_key}"
    try:
        response = httpx.get(f"{url}/v1/models", headers=headers, timeout=_TIMEOUT_SECONDS)
        response.raise_for_status()
        models = response.json()["data"]
        # vLLM lists a LoRA adapter with the model that it stands on as its parent.
        return [str(model["id"]) for model in models if not model.get("parent")]
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = f"status {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else str(error)
        raise SetupError(
            f"the policy at {url} does not say which model it serves ({reason}): start it first, or name its model "
            "with --policy-model"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SetupError(
            f"{url}/v1/models is no list of models: is this an OpenAI-compatible server? Name its model with "
            "--policy-model if it is"
        ) from error
