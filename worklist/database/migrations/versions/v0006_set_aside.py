"""Images that were set aside stand at the end of the list, not among the refused ones."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_ENTRIES = sa.table("entries", sa.column("priority", sa.Integer), sa.column("reason", sa.Text))
_REASONS = ("not-meant", "own-result")


def upgrade() -> None:
    """Move them."""
    op.execute(_ENTRIES.update().where(_ENTRIES.c.reason.in_(_REASONS)).values(priority=5000))


def downgrade() -> None:
    """Move them back."""
    op.execute(_ENTRIES.update().where(_ENTRIES.c.priority == 5000).values(priority=3000))
