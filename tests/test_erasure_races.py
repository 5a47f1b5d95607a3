"""An upload that is judged while it is erased leaves nothing, whichever step of the two comes first."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from laptop.erasing.site import SitePlaces
from lungline.diagnosis.diagnoser import Diagnoser
from lungline.diagnosis.upload import diagnose_upload
from lungline.errors import Busy, UploadErased
from lungline.events.uploads import Upload
from lungline.package.card import Thresholds
from lungline.package.package import Package
from lungline.results import record_store
from lungline.results.records import ResultRecord
from lungline.retention.due import run
from lungline.retention.erasure import Eraser
from lungline.retention.rules import RetentionRules
from lungline.retention.subjects import Subject, of_identities
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.dicom_files import film, write
from tests.support.halting_store import Call, Halting
from tests.support.kept_uploads import KeptUploads
from tests.support.tiny_package import write_tiny_package

KEY = "ward/Doe-Jane.dcm"
WORDS = ("Doe-Jane", "PID-4711", "MUSTERMANN")
XRAY = write(film(64), PatientID="PID-4711", PatientName="MUSTERMANN^Erika")
WHO: dict[str, Any] = {"by": "Dr. A", "reason": "the patient's request"}


@pytest.fixture(scope="module")
def unsure(tmp_path_factory: pytest.TempPathFactory) -> Diagnoser:
    """A model that is unsure of everything, so that research has copies."""
    folder = tmp_path_factory.mktemp("model") / "1"
    write_tiny_package(folder, seed=3, version="1", thresholds=Thresholds(low=0.0, high=1.0, operating=1.0, chosen="x"))
    return Diagnoser(Package.load(folder))


@pytest.fixture(scope="module")
def site(store: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeptUploads]:
    made = KeptUploads.make(store, tmp_path_factory.mktemp("home"), "race")
    with closing(made.database):
        yield made


def begin(site: KeptUploads) -> Upload:
    """The only upload of the site."""
    site.empty()
    return send(site)


def send(site: KeptUploads) -> Upload:
    bucket = site.settings.uploads_bucket
    return Upload(bucket, KEY, None, site.storage.put(bucket, KEY, XRAY))


def judging(site: KeptUploads, upload: Upload, diagnoser: Diagnoser, *halts: int, **changes: Any) -> Halting:
    settings: Settings = site.settings.model_copy(update=changes)
    return Halting(lambda storage: diagnose_upload(upload, diagnoser, storage, settings), site.storage, halts).start()


def erasing(site: KeptUploads, upload: Upload, *halts: int) -> Halting:
    def erase(storage: Storage) -> None:
        eraser = Eraser(storage, site.settings, SitePlaces(storage, site.settings, site.database), 0)
        eraser.carry_out(eraser.plan(subjects(site, upload), **WHO))

    return Halting(erase, site.storage, halts).start()


def subjects(site: KeptUploads, upload: Upload) -> list[Subject]:
    (subject,) = of_identities([upload.identity], site.storage, site.settings)
    return [placed(subject, upload)]


def placed(subject: Subject, upload: Upload) -> Subject:
    return subject.model_copy(update={"bucket": upload.bucket, "key": upload.key, "etag": upload.etag})


def number_of(calls: list[Call], verb: str, prefix: str) -> int:
    return next(at for at, (done, _, key) in enumerate(calls) if done == verb and key.startswith(prefix))


def decisive(calls: list[Call]) -> list[int]:
    """The steps of an erasure that change something from its tombstone on, or look for records."""
    begin = number_of(calls, "put", "erased/")
    return [at for at, (verb, _, key) in enumerate(calls) if at >= begin and is_decisive(verb, key)]


def is_decisive(verb: str, key: str) -> bool:
    return verb in {"put", "delete"} or (verb == "list" and key.startswith("results/"))


def require_nothing_left(site: KeptUploads, upload: Upload, where: object) -> None:
    left = site.eraser.look(subjects(site, upload))
    assert (where, dict(left), site.names(*WORDS)) == (where, {}, [])


@pytest.mark.parametrize("purpose", ["answer", "shadow"])
def test_an_erasure_between_any_two_steps_leaves_nothing(site: KeptUploads, unsure: Diagnoser, purpose: str) -> None:
    steps = judging(site, begin(site), unsure, purpose=purpose).finish().calls
    for step in range(len(steps)):
        upload = begin(site)
        work = judging(site, upload, unsure, step, purpose=purpose)
        assert erasing(site, upload).finish().error is None
        work.finish()
        assert work.error is None or isinstance(work.error, UploadErased)
        require_nothing_left(site, upload, steps[step])


@pytest.mark.parametrize("before", ["save", "look"])
def test_a_judgement_ends_at_any_step_of_an_erasure(site: KeptUploads, unsure: Diagnoser, before: str) -> None:
    """It has read the X-ray before the erasure begins, and is about to save, or has saved and is about to look."""
    steps = judging(site, begin(site), unsure).finish().calls
    halt = number_of(steps, "put_if_absent", "results/") if before == "save" else number_of(steps, "get", "erased/")
    for step in decisive(erasing(site, begin(site)).finish().calls):
        upload = begin(site)
        work = judging(site, upload, unsure, halt)
        erasure = erasing(site, upload, step)
        work.finish()
        assert erasure.finish().error is None
        require_nothing_left(site, upload, (step, erasure.calls[step]))


def test_an_image_that_is_sent_again_is_judged(site: KeptUploads, unsure: Diagnoser) -> None:
    """While the judgement of before its erasure takes back what it has saved, whichever step that has come to."""
    halt = number_of(judging(site, begin(site), unsure).finish().calls, "put_if_absent", "results/")
    count, step = halt + 1, halt + 1
    while step <= count:
        upload = begin(site)
        late = judging(site, upload, unsure, halt, step)
        erasing(site, upload).finish()
        late.go_on()
        again = judging(site, send(site), unsure).finish()
        late.finish()
        count, step = len(late.calls), step + 1
        if isinstance(late.error, Busy):  # whose event comes again
            again = judging(site, upload, unsure).finish()
        assert isinstance(again.result, ResultRecord)
        assert record_store.find(site.storage, site.settings.results_bucket, upload.identity)
        assert site.storage.exists(site.settings.patients_bucket, again.result.patient or "")


def left_by_the_dead(site: KeptUploads, diagnoser: Diagnoser) -> Upload:
    """An erased upload with a record: its predictor died before it asked for the tombstone."""
    steps = judging(site, begin(site), diagnoser).finish().calls
    upload = begin(site)
    save, look = number_of(steps, "put_if_absent", "results/"), number_of(steps, "get", "erased/")
    work = judging(site, upload, diagnoser, save, look)
    erasing(site, upload).finish()
    work.go_on()
    work.die()
    assert site.names("Doe-Jane") == ["Doe-Jane"]
    return upload


def test_a_predictor_that_died_leaves_nothing(site: KeptUploads, unsure: Diagnoser) -> None:
    """It has saved and has not looked; its event comes again."""
    upload = left_by_the_dead(site, unsure)
    again = judging(site, upload, unsure).finish()
    assert isinstance(again.error, UploadErased)
    require_nothing_left(site, upload, "after the event came again")


def test_a_run_of_the_rules_sweeps_what_nobody_took_back(site: KeptUploads, unsure: Diagnoser) -> None:
    """The predictor died, and its event does not come again; what was sent again stays."""
    upload = left_by_the_dead(site, unsure)
    run(site.eraser, RetentionRules())
    require_nothing_left(site, upload, "after the run")
    judging(site, send(site), unsure).finish()
    run(site.eraser, RetentionRules())
    assert record_store.find(site.storage, site.settings.results_bucket, upload.identity)
