"""The scorer's settings from a command's options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reward_model.errors import BadInput

if TYPE_CHECKING:
    from reward_model.serving.settings import ScorerSettings


def settings_of(**given: Any) -> ScorerSettings:
    """The settings with those that were given (not None) in place of WINNOW_SCORER_*; BadInput names a bad one."""
    from pydantic import ValidationError

    from reward_model.serving.settings import ScorerSettings

    try:
        return ScorerSettings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
