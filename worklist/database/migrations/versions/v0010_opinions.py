"""Second opinions: what other versions say of uploads, beside their results."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table; `lungline worklist rebuild` fills it from the store where there were any."""
    op.create_table(
        "opinions",
        sa.Column("purpose", sa.String(16), primary_key=True),
        sa.Column("identity", sa.String(64), primary_key=True),
        sa.Column("version", sa.String(128), primary_key=True),
        sa.Column("task", sa.String(40), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("label", sa.String(32), nullable=True),
        sa.Column("probability", sa.Float(), nullable=True),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("waited", sa.Float(), nullable=False),
        sa.Column("worked", sa.Float(), nullable=False),
    )
    op.create_index("opinions_latest", "opinions", ["purpose", "version", "done"])
    op.create_index("opinions_upload", "opinions", ["identity"])


def downgrade() -> None:
    """Drop it."""
    op.drop_index("opinions_upload", "opinions")
    op.drop_index("opinions_latest", "opinions")
    op.drop_table("opinions")
