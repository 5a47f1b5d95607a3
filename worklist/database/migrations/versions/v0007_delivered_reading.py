"""Which reader's verdict a destination has had, so that a later one is sent as a correction."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("deliveries", sa.Column("reading", sa.String(64), nullable=True))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("deliveries", "reading")
