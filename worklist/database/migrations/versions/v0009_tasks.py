"""Which task a result and a reading are of, the findings of each, and labels as long as a task may have them."""

import sqlalchemy as sa
from alembic import op

from lungline.results.records import ResultRecord
from worklist.database.ingest import also_of, priority

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_LABELS = (
    ("entries", "label"),
    ("entries", "verdict"),
    ("readings", "label"),
    ("readings", "verdict"),
    ("notices", "label"),
)


def upgrade() -> None:
    """Add the columns and the table, and fill them from the records."""
    for table in ("entries", "readings"):
        op.add_column(table, sa.Column("task", sa.String(40), nullable=False, server_default="pneumonia"))
    op.add_column("entries", sa.Column("also", sa.Text(), nullable=True))
    op.add_column("readings", sa.Column("findings", sa.JSON(), nullable=True))
    op.create_table(
        "tasks",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
    )
    op.drop_index("entries_counted", "entries")
    op.create_index("entries_counted", "entries", ["outcome", "task", "label", "read"])
    op.create_index("entries_task_urgent", "entries", ["task", "priority", "arrived", "number"])
    if op.get_bind().dialect.name != "sqlite":  # which holds nobody to a length
        for table, column in _LABELS:
            op.alter_column(table, column, type_=sa.String(32))
    _fill()


def downgrade() -> None:
    """Drop them."""
    op.drop_index("entries_task_urgent", "entries")
    op.drop_index("entries_counted", "entries")
    op.create_index("entries_counted", "entries", ["outcome", "label", "read"])
    op.drop_table("tasks")
    for table, column in (("readings", "findings"), ("readings", "task"), ("entries", "also"), ("entries", "task")):
        op.drop_column(table, column)


def _fill() -> None:
    """Take the tasks of results from their records: those without one are of the default task."""
    connection = op.get_bind()
    shown = "SELECT entries.number, records.body FROM entries JOIN records ON records.id = entries.record WHERE"
    others = sa.text(f"{shown} records.body LIKE :named AND records.body NOT LIKE :default")
    latest = connection.execute(
        sa.text(f"{shown} records.body NOT LIKE :named OR records.body LIKE :default LIMIT 1"), _NAMES
    ).all()
    rows = connection.execute(others, _NAMES).all()
    records = [(number, ResultRecord.model_validate_json(body)) for number, body in [*latest, *rows]]
    for number, record in records:
        values = {"number": number, "task": record.task, "priority": priority(record), "also": also_of(record)}
        change = "UPDATE entries SET task = :task, priority = :priority, also = :also WHERE number = :number"
        connection.execute(sa.text(change), values)
    for task, terms in {record.task: record.task_terms for _, record in records}.items():
        values = {"name": task, "body": terms.model_dump_json()}
        connection.execute(sa.text("INSERT INTO tasks (name, done, body) VALUES (:name, 0, :body)"), values)


_NAMES = {"named": '%"task":"%', "default": '%"task":"pneumonia"%'}
