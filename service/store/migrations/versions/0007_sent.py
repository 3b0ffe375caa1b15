"""What was sent, in the words of the answer: winner, greedy, held, fallback."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_WORDS = {"candidates": "winner", "hold_message": "held", "fallback_message": "fallback"}


def upgrade() -> None:
    """From the words of the code."""
    _rename(_WORDS)


def downgrade() -> None:
    """Back to them."""
    _rename({new: old for old, new in _WORDS.items()})


def _rename(words: dict[str, str]) -> None:
    responses = sa.table("responses", sa.column("sent", sa.String))
    for old, new in words.items():
        op.execute(responses.update().where(responses.c.sent == old).values(sent=new))
