"""What the worklist has read of an upload before its erasure is not stored after it."""

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from lungline.diagnosis.diagnoser import Diagnoser
from lungline.diagnosis.upload import diagnose_upload
from lungline.events.uploads import Upload
from lungline.results import opinions, record_store
from lungline.results.opinions import Opinion
from lungline.results.records import ResultRecord
from lungline.retention.subjects import of_identities
from lungline.storage.s3 import Storage
from tests.support.dicom_files import film, write
from tests.support.halting_store import Call, WatchedStore
from tests.support.kept_uploads import KeptUploads
from tests.support.worklist_site import Site, running_site
from worklist.database import readings
from worklist.database.entries import find
from worklist.database.rebuild import rebuild
from worklist.delivery.courier import Courier
from worklist.jobs import Jobs
from worklist.notifier import Notifier
from worklist.web import events

KEY = "ward/Doe-Jane.dcm"
XRAY = write(film(64), PatientID="PID-4711", PatientName="MUSTERMANN^Erika")
WORDS = ("Doe-Jane", "PID-4711", "MUSTERMANN")


@pytest.fixture(scope="module")
def made(store: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeptUploads]:
    kept = KeptUploads.make(store, tmp_path_factory.mktemp("home"), "list")
    with closing(kept.database):
        yield kept


@pytest.fixture
def kept(made: KeptUploads) -> KeptUploads:
    made.empty()
    return made


@pytest.fixture
def site(kept: KeptUploads) -> Iterator[Site]:
    """A worklist with the store and the database of the uploads."""
    with running_site(kept.settings, kept.storage) as site:
        yield site


def judged(kept: KeptUploads, diagnoser: Diagnoser) -> ResultRecord:
    """An upload with its record, of which the worklist has not heard."""
    bucket = kept.settings.uploads_bucket
    upload = Upload(bucket, KEY, None, kept.storage.put(bucket, KEY, XRAY))
    return diagnose_upload(upload, diagnoser, kept.storage, kept.settings)


def erase(kept: KeptUploads, result: ResultRecord) -> None:
    subjects = of_identities([result.upload.identity], kept.storage, kept.settings)
    kept.eraser.carry_out(kept.eraser.plan(subjects, by="Dr. A", reason="request 17"))


def left(kept: KeptUploads, result: ResultRecord) -> tuple[dict[str, int], list[str]]:
    subjects = of_identities([result.upload.identity], kept.storage, kept.settings)
    return dict(kept.eraser.look(subjects)), kept.names(*WORDS)


def test_a_result_read_before_an_erasure_is_not_listed(kept: KeptUploads, site: Site, diagnoser: Diagnoser) -> None:
    result, context = judged(kept, diagnoser), site.app.state.worklist
    records = context.incoming.recorded([result])
    erase(kept, result)
    events._store(context, records)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the second half of an event
    assert left(kept, result) == ({}, [])


def test_a_second_opinion_read_before_is_not_kept(kept: KeptUploads, site: Site, diagnoser: Diagnoser) -> None:
    result, context = judged(kept, diagnoser), site.app.state.worklist
    opinions.save(kept.storage, kept.settings.results_bucket, result, "shadow")
    erase(kept, result)
    given = [Opinion("shadow", result)]
    events._store_opinions(context, given)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - likewise
    assert left(kept, result) == ({}, [])


def test_the_same_image_sent_again_is_listed(kept: KeptUploads, site: Site, diagnoser: Diagnoser) -> None:
    first = judged(kept, diagnoser)
    erase(kept, first)
    again = judged(kept, diagnoser)
    assert again.upload.identity == first.upload.identity
    for _ in range(2):
        assert site.send_event(again).status_code == 204
        with kept.database.reading() as session:
            assert find(session, again.upload.identity)


def test_a_rebuild_passes_over_what_came_back(kept: KeptUploads, diagnoser: Diagnoser) -> None:
    result, bucket = judged(kept, diagnoser), kept.settings.results_bucket
    erase(kept, result)
    record_store.save(kept.storage, bucket, result)  # by a predictor that has died
    opinions.save(kept.storage, bucket, result, "shadow")
    assert rebuild(kept.database, kept.storage, kept.settings).added == 0
    with kept.database.reading() as session:
        assert find(session, result.upload.identity) is None


def jobs_with(kept: KeptUploads, before: Callable[[Call], None]) -> Jobs:
    storage = WatchedStore(kept.storage, before)
    courier = Courier(kept.database, storage, kept.settings, ())
    notifier = Notifier(kept.database, kept.settings, (), "http://127.0.0.1")
    return Jobs(kept.database, storage, kept.settings, notifier=notifier, courier=courier)


@pytest.mark.parametrize("prefix", ["captures/", "readings/"])
def test_a_job_takes_back_what_it_has_stored(kept: KeptUploads, site: Site, diagnoser: Diagnoser, prefix: str) -> None:
    """It has read the database, and the erasure passes before it puts the object."""
    result, erased = judged(kept, diagnoser), list[str]()
    assert site.send_event(result).status_code == 204
    with kept.database.writing() as session:
        entry = find(session, result.upload.identity)
        assert entry
        readings.read(session, entry, reader="dr.adams", action="read")

    def erase_first(call: Call) -> None:
        verb, _, key = call
        if verb == "put_if_absent" and key.startswith(prefix) and not erased:
            erased.append(key)
            erase(kept, result)

    jobs = jobs_with(kept, erase_first)
    (jobs.save_captures if prefix == "captures/" else jobs.save_readings)()
    assert erased
    assert left(kept, result) == ({}, [])
