"""The outbox of results for other systems."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "deliveries",
        sa.Column("number", _NUMBER, primary_key=True),
        sa.Column("identity", sa.String(64), nullable=False),
        sa.Column("record", sa.String(512), nullable=False),
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("sent", sa.BigInteger, nullable=True),
        sa.Column("error", sa.Text, nullable=True),
        sa.UniqueConstraint("record", "destination", name="deliveries_once"),
    )
    op.create_index("ix_deliveries_identity", "deliveries", ["identity"])
    op.create_index("deliveries_due", "deliveries", ["state", "destination", "due"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("deliveries")
