"""What a reader must know of an image, and why a result has no DICOM file."""

import sqlalchemy as sa
from alembic import op

from lungline.results.records import ResultRecord
from worklist.database.ingest import warnings_of

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, and fill the list's from the records."""
    op.add_column("records", sa.Column("capture_error", sa.Text(), nullable=True))
    op.add_column("entries", sa.Column("attention", sa.Text(), nullable=True))
    connection = op.get_bind()
    shown = sa.text(
        "SELECT entries.number, records.body FROM entries JOIN records ON records.id = entries.record "
        'WHERE records.body LIKE \'%"warnings":["%\''
    )
    for number, body in connection.execute(shown).all():
        attention = "; ".join(warnings_of(ResultRecord.model_validate_json(body)))
        if attention:
            change = sa.text("UPDATE entries SET attention = :attention WHERE number = :number")
            connection.execute(change, {"attention": attention, "number": number})


def downgrade() -> None:
    """Drop the columns."""
    op.drop_column("entries", "attention")
    op.drop_column("records", "capture_error")
