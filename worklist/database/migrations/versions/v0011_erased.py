"""Uploads that were erased: a result that was on its way meanwhile must not come back."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table; of earlier erasures nothing is on its way any more."""
    op.create_table(
        "erased",
        sa.Column("identity", sa.String(64), primary_key=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("erased")
