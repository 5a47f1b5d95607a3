"""Whom uploads are of, and who may see it. Nobody who is signed in gains the right by the migration."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TEXTS = (
    *("patient_id", "issuer", "name", "accession", "study_date", "study_uid", "series_uid", "instance_uid"),
    *("sop_class", "modality", "view"),
)
_SOUGHT = ("sought_patient_id", "sought_accession", "sought_name")


def upgrade() -> None:
    """Add the table of patients, and the right to see them."""
    op.create_table(
        "patients",
        sa.Column("identity", sa.String(64), primary_key=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in _TEXTS),
        *(sa.Column(name, sa.Text, nullable=False) for name in _SOUGHT),
    )
    op.create_index("patients_same", "patients", ["patient_id", "issuer"])
    for name in ("study_uid", *_SOUGHT[:2]):
        op.create_index(f"ix_patients_{name}", "patients", [name])
    for table in ("tokens", "sessions"):
        op.add_column(table, sa.Column("patients", sa.Integer, nullable=False, server_default="0"))


def downgrade() -> None:
    """Drop them."""
    for table in ("tokens", "sessions"):
        op.drop_column(table, "patients")
    op.drop_table("patients")
