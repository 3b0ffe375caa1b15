"""The router's settings as the gateway reads them: WINNOW_ROUTER__* variables, then a TOML file's `[router]` table."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from routing.errors import BadRoutingInput
from routing.settings import RouterSettings


class _RouterTable(BaseSettings):
    """One table of the gateway's settings; what the others hold is the gateway's business."""

    model_config = SettingsConfigDict(env_prefix="WINNOW_", env_nested_delimiter="__", extra="ignore")

    router: RouterSettings = Field(default_factory=RouterSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment, then the file."""
        return env_settings, TomlConfigSettingsSource(settings_cls)


def load_router_settings(config: Path | None = None) -> RouterSettings:
    """Settings from `config`, else from the file that WINNOW_CONFIG names, and the environment.

    Raises BadRoutingInput naming the setting that does not fit.
    """
    chosen = config or (Path(path) if (path := os.environ.get("WINNOW_CONFIG")) else None)
    if chosen is not None and not chosen.is_file():
        raise BadRoutingInput(f"{chosen}: no such file")

    class RouterTable(_RouterTable):
        model_config = SettingsConfigDict(toml_file=chosen)

    try:
        return RouterTable().router
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise BadRoutingInput(f"the router's settings do not fit: {problems}") from error
    except ValueError as error:
        raise BadRoutingInput(f"{chosen or 'WINNOW_ROUTER'}: {error}") from error
