"""What a reader must know of an image stands out in viewer and list; routine conversions do not."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.support.worklist_site import home, record, running_site
from tests.test_worklist_store import undo_tasks
from worklist.database.ingest import ingest
from worklist.database.models import WorklistEntry
from worklist.database.session import Database

LATERAL = "the DICOM names a lateral view"
ROUTINE = [
    "window applied", "window table applied", "12 bit reduced to 8", "MONOCHROME1 inverted",
    "no window: grey levels were spread", "DICOM without its preamble",
]  # fmt: skip


@pytest.mark.parametrize(
    ("warnings", "notes"), [((LATERAL,), tuple(ROUTINE)), ((ROUTINE[0], LATERAL, *ROUTINE[1:]), ())]
)
def test_warnings_stand_out_and_notes_do_not(tmp_path: Path, warnings: tuple[str, ...], notes: tuple[str, ...]) -> None:
    """Also in records that list both as warnings."""
    result = record(warnings=warnings, notes=notes)
    with running_site(home(tmp_path)) as site, site.client() as client:
        site.send(result)
        site.send(record(1, notes=(ROUTINE[0],)))
        page = client.get(f"/x/{result.upload.identity}").text
        assert page.count('class="warning"') == 1
        assert '<p class="warning" role="note">The DICOM names a lateral view.</p>' in page
        notes_shown = page.partition('class="notes"')[2].partition("</dd>")[0]
        assert "Window applied. " in notes_shown
        assert "12 bit reduced to 8. " in notes_shown
        rows = client.get("/rows").text
        assert rows.count('class="attention"') == 1
        assert "The DICOM names a lateral view." in rows
        assert "indow applied" not in rows


def test_reasons_of_an_unsure_result_stand_on_row_and_page(tmp_path: Path) -> None:
    reason = "the lungs cannot be outlined: the share of the image that is lung is 0.02, expected 0.12 to 0.65"
    doubted, plain = record(0, 0.5, warnings=(reason,), doubts=("no-lungs",)), record(1, 0.5)
    with running_site(home(tmp_path)) as site, site.client() as client:
        for result in (doubted, plain):
            site.send(result)
        assert f"{reason[0].upper()}{reason[1:]}." in client.get("/rows").text
        page = client.get(f"/x/{doubted.upload.identity}").text
        assert "Unsure whatever the risk, because:" in page
        assert f"{reason[0].upper()}{reason[1:]}." in page
        assert "because" not in client.get(f"/x/{plain.upload.identity}").text


def test_migration_fills_the_list_from_stored_records(tmp_path: Path) -> None:
    with closing(Database.open(home(tmp_path))) as database:
        ingest(database, record(warnings=("window applied", LATERAL)), record(1, warnings=("window applied",)))
    with closing(sqlite3.connect(tmp_path / "worklist/worklist.db")) as connection, connection:
        undo_tasks(connection)
        for statement in (
            "DROP TABLE deliveries",
            "DROP TABLE patients",
            "ALTER TABLE tokens DROP COLUMN patients",
            "ALTER TABLE sessions DROP COLUMN patients",
            "ALTER TABLE audit DROP COLUMN hash",
            "ALTER TABLE entries DROP COLUMN attention",
            "ALTER TABLE records DROP COLUMN capture_error",
            "UPDATE alembic_version SET version_num = '0001'",
        ):
            connection.execute(statement)
    connection.close()
    with closing(Database.open(home(tmp_path))) as database, database.reading() as session:
        stored = session.scalars(select(WorklistEntry.attention).order_by(WorklistEntry.number)).all()
        assert stored == [LATERAL, None]
