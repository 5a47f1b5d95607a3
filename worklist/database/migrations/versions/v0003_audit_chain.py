"""The chain of the audit log; and times of results that cannot be, which earlier releases took as they came."""

import sqlalchemy as sa
from alembic import op

from lungline import bounds
from worklist.database.audit import GENESIS, hash_of
from worklist.database.models import Audit, Instant

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_AUDIT = sa.table(
    "audit",
    sa.column("number", sa.Integer),
    sa.column("at", Instant),
    *(sa.column(name, sa.Text) for name in ("who", "role", "act", "identity", "detail", "hash")),
)
_ENTRIES = sa.table("entries", *(sa.column(name, Instant) for name in ("arrived", "done")))
_RECORDS = sa.table("records", sa.column("done", Instant))


def upgrade() -> None:
    """Chain the entries as they are; give odd times the nearest that can be, so that their rows are found again."""
    op.add_column("audit", sa.Column("hash", sa.String(64), nullable=True))
    connection = op.get_bind()
    previous = GENESIS
    for row in connection.execute(sa.select(_AUDIT).order_by(_AUDIT.c.number)).mappings().all():
        entry = Audit(**{name: row[name] for name in ("at", "who", "role", "act", "identity", "detail")})
        previous = hash_of(entry, previous)
        connection.execute(sa.update(_AUDIT).where(_AUDIT.c.number == row["number"]).values(hash=previous))
    latest = bounds.latest()
    for table in (_ENTRIES, _RECORDS):
        for column in table.c:
            for odd, nearest in ((column < bounds.EARLIEST, bounds.EARLIEST), (column > latest, latest)):
                connection.execute(sa.update(table).where(odd).values({column.name: nearest}))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("audit", "hash")
