"""Erasing an upload leaves nothing of it, spares all others, outlives crashes and late events, and yields to holds."""

import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lungline.diagnosis.diagnoser import Diagnoser
from lungline.diagnosis.upload import diagnose_upload
from lungline.errors import LunglineError, UploadErased
from lungline.events.uploads import Upload
from lungline.registry.history import GENESIS
from lungline.results import latest_list, record_store
from lungline.results.records import ResultRecord
from lungline.retention import plan as plans
from lungline.retention.due import run
from lungline.retention.erasure import Eraser, Place
from lungline.retention.holds import Holds, OnHold
from lungline.retention.plan import Plan
from lungline.retention.proof import Proof, Remainder, verify
from lungline.retention.rules import EVERYWHERE, Kind, RetentionRule, RetentionRules
from lungline.retention.subjects import Subject, of_identities, of_patient
from lungline.site_key import generate_key, trusted_keys
from lungline.storage.s3 import Storage
from tests.support.kept_uploads import KeptUploads
from tests.support.predictor import IMAGE
from worklist.database import audit
from worklist.database.session import Database

KEY, OTHER = "ward/Doe-Jane.jpeg", "ward/other.jpeg"
WHO: dict[str, Any] = {"by": "Dr. A", "reason": "the patient's request"}


@pytest.fixture(scope="module")
def shared(store: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeptUploads]:
    site = KeptUploads.make(store, tmp_path_factory.mktemp("home"), "kept")
    yield site
    site.database.close()


@pytest.fixture
def site(shared: KeptUploads) -> KeptUploads:
    """A site without uploads."""
    shared.empty()
    return shared


def erase(site: KeptUploads, *results: ResultRecord) -> Proof:
    subjects = of_identities([each.upload.identity for each in results], site.storage, site.settings)
    return site.eraser.carry_out(site.eraser.plan(subjects, **WHO))


def share_a_place(site: KeptUploads, *results: ResultRecord) -> None:
    """List several results in one object, as a burst does."""
    names = ".".join(each.upload.identity for each in results)
    key = latest_list.latest_key(names, "1", results[0].times.received)
    site.storage.put(site.settings.results_bucket, key, b"")


def test_nothing_of_an_upload_is_left_and_all_of_others(site: KeptUploads) -> None:
    kept = site.add(OTHER, "PID-8", days=0.5, probability=0.1)
    after_one = Counter(site.eraser.look(of_identities([kept.upload.identity], site.storage, site.settings)))
    erased = site.add(KEY, "PID-4711")
    share_a_place(site, erased, kept)
    words = (erased.upload.identity, KEY, "PID-4711", "Doe-Jane")
    assert site.names(*words) == list(words)
    proof = erase(site, erased)
    # The audit log, which names no patient, keeps the identity.
    assert site.names(*words) == [erased.upload.identity]
    assert site.names("Doe-Jane", "PID-4711", KEY) == []
    left = site.eraser.look(of_identities([kept.upload.identity], site.storage, site.settings))
    assert left == after_one + Counter({"places among the latest": 1})
    listed = record_store.latest(site.storage, site.settings.results_bucket, 5)
    assert {each.upload.identity for each in listed} == {kept.upload.identity}
    assert proof.before == dict(after_one) | {"places among the latest": 3}
    assert set(proof.after.values()) == {0}


def test_the_audit_log_names_the_erasure_and_still_verifies(site: KeptUploads) -> None:
    erased = site.add(KEY, "PID-4711")
    with site.database.writing() as session:
        audit.record(session, "dr.adams", "reader", "opened", identity=erased.upload.identity)
    proof = erase(site, erased)
    checked = audit.verify(site.database, site.storage, site.settings.results_bucket)
    assert (checked.problems, checked.entries) == ((), 2)
    with site.database.reading() as session:
        entry = audit.lines(session)[0]
    assert (entry.who, entry.act, entry.identity, entry.detail) == (
        "Dr. A",
        "erased",
        erased.upload.identity,
        proof.id,
    )


def test_a_proof_names_nobody_and_shows_every_change(site: KeptUploads, tmp_path: Path) -> None:
    result = site.add(KEY, "PID-4711")
    subjects = of_patient("PID-4711", site.storage, site.settings)
    plan = site.eraser.plan(subjects, patient_id="PID-4711", **WHO)
    proof = site.eraser.carry_out(plan)
    path = tmp_path / "proof.json"
    path.write_text(proof.text())
    stored = site.storage.get(site.settings.results_bucket, proof.place).data
    assert stored == path.read_bytes()
    assert not [word for word in ("PID-4711", KEY, result.upload.identity) if word in path.read_text()]
    keys = trusted_keys(site.settings)
    assert verify(path, keys) == proof
    with pytest.raises(LunglineError, match="is not trusted here"):
        verify(path, [generate_key().public])
    path.write_text(proof.text().replace('"X-rays": 1', '"X-rays": 2'))
    with pytest.raises(LunglineError, match="was changed after it was signed"):
        verify(path, keys)
    path.write_text(GENESIS)
    with pytest.raises(LunglineError, match="is no proof"):
        verify(path, keys)


def test_a_patient_is_erased_and_nobody_else(site: KeptUploads) -> None:
    mine = [site.add(f"{number}/{KEY}", "PID-4711", data=bytes([number])) for number in range(2)]
    other = site.add(OTHER, "PID-8")
    subjects = of_patient("PID-4711", site.storage, site.settings)
    assert {each.identity for each in subjects} == {each.upload.identity for each in mine}
    site.eraser.carry_out(site.eraser.plan(subjects, **WHO))
    assert site.names("PID-4711", "Doe-Jane") == []
    assert site.names(OTHER, "PID-8", other.upload.identity) == [OTHER, "PID-8", other.upload.identity]
    with pytest.raises(LunglineError, match="Nothing is stored"):
        site.eraser.plan(of_patient("PID-4711", site.storage, site.settings), **WHO)


def test_the_patient_may_stand_in_the_key(site: KeptUploads) -> None:
    worklist = site.settings.worklist.model_copy(update={"patient_pattern": r"^patients/([^/]+)/"})
    named = KeptUploads(site.storage, site.settings.model_copy(update={"worklist": worklist}), site.database)
    mine, other = (named.add(f"patients/{name}/x.jpeg") for name in ("jane", "joe"))
    assert [each.identity for each in of_patient("jane", site.storage, named.settings)] == [mine.upload.identity]
    hold = Holds(site.storage, named.settings).add(patient_id="joe", **WHO)
    (subject,) = of_identities([other.upload.identity], site.storage, named.settings)
    assert hold.is_on(subject)


def test_a_hold_forbids_everything_until_it_is_lifted(site: KeptUploads) -> None:
    held, free = site.add(KEY, "PID-4711"), site.add(OTHER, "PID-8")
    holds = Holds(site.storage, site.settings)
    on_patient, on_upload = holds.add(patient_id="PID-4711", **WHO), holds.add(identity=held.upload.identity, **WHO)
    before = sorted(site.objects())
    for results in ((held,), (free, held)):
        with pytest.raises(OnHold, match=rf"legal hold .*{on_upload.id}"):
            erase(site, *results)
    assert sorted(site.objects()) == before
    holds.remove(on_patient.id)
    with pytest.raises(OnHold):
        erase(site, held)
    holds.remove(on_upload.id)
    assert holds.every() == []
    erase(site, held)
    with pytest.raises(LunglineError, match="There is no hold"):
        holds.remove(on_upload.id)


def test_a_hold_that_cannot_be_read_forbids_everything(site: KeptUploads) -> None:
    result = site.add(KEY)
    site.storage.put(site.settings.patients_bucket, "holds/abc.json", b"{")
    with pytest.raises(LunglineError, match="may be on any upload"):
        erase(site, result)


def test_a_research_copy_that_is_being_made_is_awaited(site: KeptUploads) -> None:
    result = site.add(KEY)
    bucket, owed = site.settings.results_bucket, [f"owed/{result.upload.identity}-{version}" for version in "12"]
    plan = site.eraser.plan(of_identities([result.upload.identity], site.storage, site.settings), **WHO)
    done = threading.Event()

    def copy() -> None:
        done.wait(0.5)
        for key in owed:
            site.storage.delete(bucket, key)
        done.set()

    thread = threading.Thread(target=copy)
    thread.start()
    replace(site.eraser, copy_seconds=30).carry_out(plan)
    assert done.is_set()
    thread.join()


class Killed(Exception):
    """As if the process had died."""


@dataclass(frozen=True)
class Deadly:
    """The places of a site, of which the one with this number ends the process."""

    site: KeptUploads
    number: int

    def of(self, kinds: Sequence[Kind]) -> list[Place]:
        places = list(self.site.eraser.places.of(kinds))
        places[self.number] = self
        return places

    def look(self, subjects: Sequence[Subject]) -> Counter[str]:
        return Counter()

    def erase(self, subjects: Sequence[Subject]) -> None:
        raise Killed

    def remains(self, plan: Plan) -> Sequence[Remainder]:
        return self.site.eraser.places.remains(plan)

    def note(self, plan: Plan) -> None:
        self.site.eraser.places.note(plan)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_erasure_that_was_cut_short_is_finished(site: KeptUploads, number: int) -> None:
    erased, kept = site.add(KEY, "PID-4711"), site.add(OTHER, "PID-8")
    plan = site.eraser.plan(of_identities([erased.upload.identity], site.storage, site.settings), **WHO)
    cut = Eraser(site.storage, site.settings, Deadly(site, number), 0)
    with pytest.raises(Killed):
        cut.carry_out(plan)
    assert list(plans.unfinished(site.storage, site.settings)) == [plan]
    (proof,) = site.eraser.finish()
    assert (proof.id, proof.before) == (plan.id, plan.before)
    assert site.names(KEY, "Doe-Jane", "PID-4711") == []
    assert site.names(kept.upload.identity)
    assert list(plans.unfinished(site.storage, site.settings)) == []
    site.eraser.carry_out(plan)  # as after a crash right at the end
    with site.database.reading() as session:
        assert [entry.act for entry in audit.lines(session)] == ["erased"]


def test_a_late_event_brings_nothing_back(site: KeptUploads, diagnoser: Diagnoser) -> None:
    """And the same image that is sent again is judged: no X-ray may be lost."""
    result = site.add(KEY, "PID-4711", data=IMAGE)
    upload = Upload(site.settings.uploads_bucket, KEY, None, result.upload.etag)
    erase(site, result)
    before = sorted(site.objects())
    with pytest.raises(UploadErased) as late:
        diagnose_upload(upload, diagnoser, site.storage, site.settings)
    assert KEY not in str(late.value)
    site.storage.put(site.settings.uploads_bucket, KEY, b"another image")
    with pytest.raises(UploadErased):
        diagnose_upload(upload, diagnoser, site.storage, site.settings)
    assert not record_store.is_known(site.storage, site.settings.results_bucket, upload.identity)
    site.storage.delete(site.settings.uploads_bucket, KEY)
    assert len(before) < len(list(site.objects()))  # the other image has a result of its own
    site.storage.put(site.settings.uploads_bucket, KEY, IMAGE)
    again = diagnose_upload(upload, diagnoser, site.storage, site.settings)
    assert (again.outcome, again.upload.identity) == ("judged", upload.identity)


def test_an_object_that_another_upload_has_taken_stays(site: KeptUploads) -> None:
    result = site.add(KEY)
    etag = site.storage.put(site.settings.uploads_bucket, KEY, b"another X-ray under the same key")
    erase(site, result)
    assert site.storage.head(site.settings.uploads_bucket, KEY).etag == etag


def test_older_versions_go_and_later_ones_stay(store: Storage, tmp_path: Path) -> None:
    site = KeptUploads.make(store, tmp_path, "versions")
    bucket = site.settings.uploads_bucket
    client = site.storage._client  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - as an operator would
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    site.storage.put(bucket, KEY, b"the oldest")
    (oldest,) = site.storage.versions(bucket, KEY)
    before = Upload(bucket, KEY, oldest.version_id, oldest.etag)
    result = site.add(KEY, data=b"meant")
    later = site.storage.put(bucket, KEY, b"a later upload")
    subjects = of_identities([result.upload.identity], site.storage, site.settings, older=True)
    assert {before.identity, result.upload.identity} <= {each.identity for each in subjects}
    site.eraser.carry_out(site.eraser.plan(subjects, **WHO))
    assert [info.etag for info in site.storage.versions(bucket, KEY)] == [later]


def test_rules_erase_what_is_due_and_not_held(site: KeptUploads) -> None:
    rules = RetentionRules((RetentionRule(name="a", bucket=EVERYWHERE, days=400, label=("Normal",)),))
    due = site.add("due.jpeg", days=401, probability=0.1)
    held = site.add("held.jpeg", "PID-9", days=401, probability=0.1)
    young, positive = site.add("young.jpeg", days=399, probability=0.1), site.add("positive.jpeg", days=401)
    Holds(site.storage, site.settings).add(patient_id="PID-9", **WHO)
    before = sorted(site.objects())
    planned = run(site.eraser, rules, dry_run=True)
    assert (planned.due, planned.held, planned.proofs) == (1, 1, [])
    assert sorted(site.objects()) == before
    done = run(site.eraser, rules)
    assert (done.due, done.held, len(done.proofs), done.objects) == (1, 1, 1, planned.objects)
    assert site.names("due.jpeg") == []
    stored = {each.upload.identity for each in record_store.every(site.storage, site.settings.results_bucket)}
    assert stored == {each.upload.identity for each in (held, young, positive)}
    assert due.upload.identity not in stored
    assert str(run(site.eraser, rules)) == "Due by 1 rule: 0 uploads; legal holds keep 1 more."


def test_rules_may_take_the_image_and_leave_its_result(site: KeptUploads) -> None:
    rules = RetentionRules((RetentionRule(name="a", bucket=("uploads", "research"), days=30),))
    result = site.add(KEY, days=31)
    site.storage.put(site.settings.uploads_bucket, "never judged", b"x")
    done = run(site.eraser, rules)
    assert set(done.objects) == {"X-rays", "research copies"}
    assert record_store.find(site.storage, site.settings.results_bucket, result.upload.identity)
    assert [info.key for info in site.storage.list(site.settings.uploads_bucket)] == ["never judged"]
    later = run(site.eraser, rules, now=datetime(2100, 1, 1, tzinfo=UTC))
    assert later.objects == {"X-rays": 1}
    assert list(site.storage.list(site.settings.uploads_bucket)) == []


def test_deleted_rows_leave_the_files_of_the_database(site: KeptUploads) -> None:
    """Also rows that were rewritten before, and while another process has the file open."""
    result = site.add(KEY, "PID-4711")
    with closing(Database.open(site.settings)) as other:
        with other.reading() as session:
            assert audit.lines(session) == []
        for number in range(50):
            with other.writing() as session:
                audit.record(session, "x" * 500, "reader", "opened", detail=json.dumps([number]))
        erase(site, result)
        files = [path.read_bytes() for path in (site.settings.home / "worklist").iterdir()]
        assert not [data for data in files if b"Doe-Jane" in data or b"PID-4711" in data]
        with other.reading() as session:
            assert len(audit.lines(session)) == 51
