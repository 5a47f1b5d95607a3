"""Dossiers: what they gather, what they leave out, and that a changed one is noticed."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lungline.dossier.making import Signed, make_dossier
from lungline.dossier.naming import identity_of
from lungline.dossier.parts import AuditFacts, EventSeen, NoticeFacts, WorklistPart
from lungline.dossier.signing import sign_document, sign_page, verify, written
from lungline.dossier.sources import Sources
from lungline.errors import KafkaUnavailable, LunglineError
from lungline.events.uploads import Upload
from lungline.results.record_store import find
from lungline.retention.tombstones import put
from lungline.site_key import generate_key, trusted_keys
from lungline.storage.s3 import Storage
from tests.support.dossier_case import COMMENT, NAME, RUN, Case, build, text_of
from tests.support.worklist_site import START, running_site

NOTICE = NoticeFacts(
    rule="urgent at night", step=0, target=0, state="sent", attempts=1, created=START, sent=START, error=None,
    acknowledged=START, acknowledged_by="dr.baker",
)  # fmt: skip
LOOK = AuditFacts(number=7, at=START, who="dr.adams", role="reader", act="opened", detail="", hash="c" * 64)


@pytest.fixture(scope="module")
def case(store: Storage, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return build(tmp_path_factory.mktemp("home"), store)


@pytest.fixture(scope="module")
def made(case: Case) -> Signed:
    """The dossier with everything that can be lent."""
    seen = EventSeen(topic="xray-uploads", partition=0, offset=41, at=START, kind="upload")
    sources = case.sources(
        events=lambda *_: [seen],
        runs=lambda _: RUN,
        worklist=lambda identity: WorklistPart(record=f"{identity}-2", notices=(NOTICE,), audit=(LOOK,)),
    )
    return make_dossier(case.identity, sources, by="ada")


def test_one_page_tells_all_that_happened(made: Signed, case: Case) -> None:
    text = text_of(made.page)
    for part in (
        "Pneumonia risk 91.0%", "Doe, Jane", "A-9", case.key, "The DICOM names a lateral view.",
        "xray-uploads 0/41",
        "The predictor received the event xray-uploads/0/40, with version 1",
        "urgent at night", "dr.baker", "Confirmed: Pneumonia", COMMENT,
        "opened", "Result of version 2 (shown on the worklist)", "Result of version 1", "films.zip", "2" * 64,
        "FINISHED", "All 11 rules passed.", "The chain of 4 entries holds", "version 2, entry 4 of the history, by Ada",
        "the same", "0.9400",
        "Second opinion, from the shadow: Unsure, risk 50.0%, by version 2", "rejudged 2 Unsure 0.5",
        "Legal hold on the upload: case 3", "Dr. Law",
    ):  # fmt: skip
        assert part in text, part
    assert "Not found" not in text
    assert made.page.count('src="data:image/') == 2


def test_a_page_needs_nothing_else(made: Signed) -> None:
    addresses = re.findall(r"""(?:\bsrc=|\bhref=|\burl\()["']?(.{5})""", made.page)
    assert set(addresses) == {"data:"}
    assert "default-src 'none'; style-src 'sha256-" in made.page


def test_the_same_moments_are_told_in_order(made: Signed) -> None:
    table = text_of(made.page).partition("Timeline (UTC)")[2].partition("Object")[0]
    moments = re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", table)
    assert len(moments) >= 10
    assert moments == sorted(moments)


def test_another_task_s_model_brings_its_own_papers(tmp_path: Path, store: Storage) -> None:
    """No option names the task: the record does."""
    case = build(tmp_path, store)
    model = case.settings.model_name
    latest = max(find(store, case.settings.results_bucket, case.identity), key=lambda record: record.times.done)
    named = latest.model.model_copy(update={"version": f"{model}.2"})
    times = latest.times.model_copy(update={"done": latest.times.done + timedelta(seconds=1)})
    other = latest.model_copy(update={"id": f"{case.identity}-{model}.2", "model": named, "times": times})
    store.put(case.settings.results_bucket, other.key, other.model_dump_json().encode())
    settings = case.settings.model_copy(update={"model_name": "without-a-history"})
    sources = Sources(settings, store, runs=lambda _: RUN)
    document = make_dossier(case.identity, sources, by="ada").document
    sheets = {sheet["name"]: sheet for sheet in document["models"]}
    assert sheets.keys() == {model, "without-a-history"}
    assert sheets[model]["card"]["version"] == "2"
    assert sheets[model]["in_force"]["version"] == "2"
    assert sheets[model]["run"]["id"] == RUN.id
    assert sheets["without-a-history"]["in_force"] is None
    assert document["history"]["entries"] == 4
    with running_site(settings, store) as site, site.client() as admin:
        page = admin.get(f"/models/{model}.2/change")
        assert (page.status_code, admin.get("/models/2/change").status_code) == (200, 404)
    assert f"promotion 4 of {model}" in page.text


def test_what_cannot_be_reached_is_said(case: Case, store: Storage) -> None:
    def broken(*_: Any) -> list[EventSeen]:
        raise KafkaUnavailable("No broker answers.")

    page = make_dossier(case.identity, case.sources(events=broken, runs=lambda _: None), by="ada").page
    text = text_of(page)
    assert "Not found: events in Kafka (No broker answers)." in text
    assert f"Not found: training run {'r' * 32} (MLflow has no run with this id)." in text
    assert "Not found: worklist (it cannot be read from here" in text


def test_events_that_kafka_forgot_are_named_by_records(case: Case, made: Signed) -> None:
    """A laptop's broker forgets an upload's event once it was delivered."""
    places = [(event["offset"], event["remark"][:24]) for event in made.document["events"]]
    assert places == [(40, "as the record names it; "), (41, "")]
    document = make_dossier(case.identity, case.sources(), by="ada").document
    assert [event["offset"] for event in document["events"]] == [40, 41]


def test_a_lost_object_is_said(tmp_path: Path, store: Storage) -> None:
    case = build(tmp_path, store)
    store.put(case.settings.uploads_bucket, case.key, b"another film")
    document = make_dossier(case.identity, case.sources(), by="ada").document
    assert document["object"]["as_judged"] is False
    missing = {each["part"]: each["reason"] for each in document["missing"]}
    assert missing["pictures"] == "the object was overwritten since it was judged"
    store.delete(case.settings.uploads_bucket, case.key)
    document = make_dossier(case.identity, case.sources(), by="ada").document
    assert document["object"] is None
    assert "uploaded object" in [each["part"] for each in document["missing"]]


def test_nothing_names_the_patient_where_none_shall(case: Case) -> None:
    made = make_dossier(case.identity, case.sources(), by="ada", patient=False)
    everything = made.page + json.dumps(made.document)
    for secret in (NAME, "Doe, Jane", case.key, "DOE_JANE", COMMENT, "Jane", "P-17", "A-9"):
        assert secret not in everything, secret
    assert "data:image/jpeg" not in made.page, "names may be burned into an X-ray"
    assert "Left out: patient (it may name the patient)." in text_of(made.page)


def test_a_process_without_keys_makes_unsigned_pages(case: Case, tmp_path: Path) -> None:
    """As the worklist's pod of a cluster."""
    keyless = case.settings.model_copy(update={"home": tmp_path, "deployment": "cluster"})
    made = make_dossier(case.identity, Sources(keyless, case.storage), by="ada")
    assert (made.document["key"], made.document["signature"]) == ("", "")
    text = text_of(made.page)
    assert "its signatures were not checked: the site's public key is not here" in text
    assert "This page is not signed" in made.page
    with pytest.raises(LunglineError, match="has no signature at its end"):
        verify(made.page.encode(), trusted_keys(case.settings))


def test_hostile_text_stays_text(tmp_path: Path, store: Storage) -> None:
    hostile = "</script><script>window.hacked=1</script>\"'><img src=x onerror=window.hacked=1>"
    case = build(tmp_path, store, comment=hostile, key=f"{hostile}.jpeg")
    made = make_dossier(case.identity, case.sources(), by=hostile)
    assert "<script>window" not in made.page
    assert "<img src=x" not in made.page
    assert hostile in text_of(made.page)
    assert verify(made.page.encode(), trusted_keys(case.settings)).content == made.document


def test_an_upload_that_nobody_knows_is_refused(case: Case) -> None:
    put(["1" * 32], case.storage, case.settings)
    with pytest.raises(LunglineError, match="was erased; the worklist's audit log"):
        make_dossier("1" * 32, case.sources(), by="ada")
    with pytest.raises(LunglineError, match=f"There is no result, event or worklist entry of upload {'0' * 32}"):
        make_dossier("0" * 32, case.sources(), by="ada")


def test_identity_key_and_accession_name_an_upload(case: Case) -> None:
    settings, storage = case.settings, case.storage
    etag = storage.put(settings.uploads_bucket, "ward/other.jpeg", b"film")
    other = Upload(settings.uploads_bucket, "ward/other.jpeg", None, etag).identity
    assert identity_of(case.identity, settings, storage) == case.identity
    assert identity_of("ward/other.jpeg", settings, storage) == other
    assert identity_of("A-9", settings, storage, lambda _: [case.identity]) == case.identity
    with pytest.raises(LunglineError, match="give the identity of one: a, b"):
        identity_of("A-9", settings, storage, lambda _: ["b", "a"])
    with pytest.raises(LunglineError, match="No upload has this") as refused:
        identity_of("Doe^Jane", settings, storage, lambda _: [])
    assert "Doe" not in str(refused.value)


def test_page_and_document_are_signed(made: Signed, case: Case) -> None:
    keys = trusted_keys(case.settings)
    for data in (made.page, written(made.document), json.dumps(made.document)):
        signed = verify(data.encode(), keys)
        assert signed.sentence.startswith(f"The dossier {case.identity} is as it was signed")


def test_a_changed_byte_of_a_page_is_noticed(made: Signed, case: Case) -> None:
    keys, page = trusted_keys(case.settings), made.page.encode()
    ends = range(len(page) - 400, len(page))
    for at in (*range(0, len(page), len(page) // 200), *ends):
        changed = page[:at] + bytes([page[at] ^ 1]) + page[at + 1 :]
        with pytest.raises(LunglineError):
            verify(changed, keys)
    for changed in (page + b" ", page[:-1], b" " + page, page + page):
        with pytest.raises(LunglineError):
            verify(changed, keys)


def test_a_changed_value_of_a_document_is_noticed(made: Signed, case: Case) -> None:
    keys, text = trusted_keys(case.settings), written(made.document)
    for old, new in (('"by": "ada"', '"by": "eve"'), ("0.91", "0.19"), ('"offset": 41', '"offset": 42')):
        assert old in text
        with pytest.raises(LunglineError, match="was changed after it was signed"):
            verify(text.replace(old, new, 1).encode(), keys)
    twice = text.replace('"by": "ada"', '"by": "eve", "by": "ada"')
    with pytest.raises(LunglineError, match="cannot be read"):
        verify(twice.encode(), keys)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"hello", "is no page of a dossier"),
        (b"", "is no page of a dossier"),
        (b"{}", "is not signed"),
        (b"[1]", "is no page of a dossier"),
        (b"{", "cannot be read"),
        (b"\xff\xfe\x00", "is no page of a dossier"),
    ],
)
def test_what_is_no_dossier_is_refused(data: bytes, sentence: str) -> None:
    with pytest.raises(LunglineError, match=sentence):
        verify(data, ())


def test_a_stranger_s_signature_is_refused(made: Signed, case: Case) -> None:
    stranger, keys = generate_key(), trusted_keys(case.settings)
    content = {name: value for name, value in made.document.items() if name not in {"key", "signature"}}
    for data in (
        written(sign_document(content, stranger)),
        sign_page(made.page[: made.page.rindex("<!-- key")], stranger),
    ):
        with pytest.raises(LunglineError, match="which this site does not trust"):
            verify(data.encode(), keys)
    with pytest.raises(LunglineError, match="is not signed"):
        verify(written(sign_document(content, None)).encode(), keys)
