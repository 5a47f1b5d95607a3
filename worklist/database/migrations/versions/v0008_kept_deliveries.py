"""Whether the results bucket says too that something was delivered; what was sent before is kept there from now on."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("deliveries", sa.Column("kept", sa.Integer(), nullable=False, server_default="1"))
    op.execute("UPDATE deliveries SET kept = 0 WHERE sent IS NOT NULL")
    op.create_index("ix_deliveries_kept", "deliveries", ["kept"])


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_deliveries_kept", "deliveries")
    op.drop_column("deliveries", "kept")
