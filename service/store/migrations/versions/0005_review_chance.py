"""How likely an answer was to be reviewed, and whether its winner was acceptable."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("responses", sa.Column("review_chance", sa.Float, nullable=False, server_default="0"))
    op.add_column("candidates", sa.Column("disagreement", sa.Float))
    op.add_column("reviews", sa.Column("acceptable", sa.Boolean))


def downgrade() -> None:
    """Take them away."""
    op.drop_column("reviews", "acceptable")
    op.drop_column("candidates", "disagreement")
    op.drop_column("responses", "review_chance")
