"""Answers and their candidates."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    _create_responses()
    _create_candidates()


def _create_responses() -> None:
    op.create_table(
        "responses",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("user", sa.String(256)),
        sa.Column("route", sa.String(32), nullable=False),
        sa.Column("route_probability", sa.Float),
        sa.Column("locale", sa.String(32)),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("stop_reason", sa.String(32), nullable=False),
        sa.Column("degraded", sa.String(64)),
        sa.Column("sent", sa.String(32), nullable=False),
        sa.Column("winner", sa.Integer),
        sa.Column("score", sa.Float),
        sa.Column("probability", sa.Float),
        sa.Column("n", sa.Integer, nullable=False),
        sa.Column("n_completed", sa.Integer, nullable=False),
        sa.Column("n_scored", sa.Integer, nullable=False),
        sa.Column("prompt_tokens", sa.Integer, nullable=False),
        sa.Column("completion_tokens", sa.Integer, nullable=False),
        sa.Column("prompt", sa.JSON),
        sa.Column("parameters", sa.JSON, nullable=False),
        sa.Column("versions", sa.JSON, nullable=False),
        sa.Column("calibrator", sa.JSON),
        sa.Column("timings_ms", sa.JSON, nullable=False),
        sa.Column("redacted", sa.JSON, nullable=False),
    )
    op.create_index("ix_responses_at_ms", "responses", ["at_ms"])
    op.create_index("ix_responses_tenant_user", "responses", ["tenant", "user"])


def _create_candidates() -> None:
    op.create_table(
        "candidates",
        sa.Column("response_id", sa.String(64), nullable=False),
        sa.Column("index", sa.Integer, nullable=False),
        sa.Column("score", sa.Float),
        sa.Column("probability", sa.Float),
        sa.Column("finish_reason", sa.String(32)),
        sa.Column("stopped", sa.Boolean, nullable=False),
        sa.Column("completion_tokens", sa.Integer, nullable=False),
        sa.Column("content", sa.Text),
        sa.Column("tool_calls", sa.JSON),
        sa.PrimaryKeyConstraint("response_id", "index", name="pk_candidates"),
        sa.ForeignKeyConstraint(
            ["response_id"], ["responses.id"], name="fk_candidates_response_id", ondelete="CASCADE"
        ),
    )


def downgrade() -> None:
    """Take them away."""
    op.drop_table("candidates")
    op.drop_table("responses")
