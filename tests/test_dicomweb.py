"""Viewers: QIDO-RS and WADO-RS over what was uploaded and judged, as PS3.18 has them, by a token and nothing else."""

import io
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import generate_uid
from sqlalchemy import select

from gateway.multipart import Parts
from lungline.errors import SettingsError
from lungline.results.records import ResultRecord
from lungline.storage.s3 import Storage
from tests.support.dicom_files import DEFLATED, EXPLICIT, JPEG_LS, deflated_bomb, film, write
from tests.support.dicom_results import OURS, PATIENT, judged, store_of_results
from tests.support.orthanc import running_orthanc
from tests.support.worklist_site import Site, home, running_site
from worklist.database.models import Audit
from worklist.exports import secondary_capture, structured_report
from worklist.web.viewer_origins import origins

TOKEN = "viewer-token-of-tests"
BEARER = {"authorization": f"Bearer {TOKEN}"}
STUDY, SERIES, INSTANCE, CLASS = "0020000D", "0020000E", "00080018", "00080016"
UIDS: dict[str, Any] = {
    "StudyInstanceUID": "1.2.3.1",
    "SeriesInstanceUID": "1.2.3.1.1",
    "SOPInstanceUID": "1.2.3.1.1.1",
}
REPORT, CAPTURE = structured_report.SOP_CLASS, secondary_capture.SOP_CLASS


@dataclass(frozen=True)
class Archive:
    """A worklist for viewers with one known X-ray, and others of other patients."""

    site: Site
    store: Storage
    data: bytes
    result: ResultRecord

    def get(self, path: str, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.get(f"{self.site.url}/dicom-web{path}", headers=BEARER | named, timeout=30)

    def search(self, path: str) -> list[dict[str, Any]]:
        answer = self.get(path, accept="application/dicom+json")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/dicom+json"
        return answer.json()

    def audited(self) -> list[tuple[str, str, str | None, str]]:
        with self.site.database.reading() as session:
            rows = session.scalars(select(Audit).order_by(Audit.number))
            return [(each.who, each.act, each.identity, each.detail) for each in rows]


def value(item: dict[str, Any], tag: str) -> Any:
    """The first value of an attribute."""
    return item[tag].get("Value", [None])[0]


def parts(answer: httpx.Response) -> list[bytes]:
    """The parts of a multipart answer."""
    assert answer.status_code == 200, answer.text
    message = Message()
    message["content-type"] = answer.headers["content-type"]
    assert message.get_content_type() == "multipart/related"
    reader, made = Parts(str(message.get_param("boundary"))), list[bytes]()
    for kind, piece in reader.feed(answer.content):
        if kind == "begin":
            made.append(b"")
        elif isinstance(piece, bytes):
            made[-1] += piece
    assert reader.is_complete
    return made


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("dicomweb")
    data = write(film(64, seed=1), **PATIENT, **UIDS)
    with (
        store_of_results(folder) as store,
        running_site(home(folder / "home", viewer_token=TOKEN), store) as site,
    ):
        for number in range(2, 6):
            whose: dict[str, Any] = {
                "PatientName": f"Sommer^Ida{number}",
                "PatientID": f"S_{number}",
                "StudyDate": f"2025070{number}",
            }
            site.send(judged(store, number, data=write(film(64, seed=number), **whose)))
        result = judged(store, 1, data=data)
        assert site.send(result).status_code == 204
        yield Archive(site, store, data, result)


def test_study_has_its_patient_and_what_it_holds(archive: Archive) -> None:
    (study,) = archive.search("/studies?StudyInstanceUID=1.2.3.1")
    assert value(study, "00100010") == {"Alphabetic": PATIENT["PatientName"]}
    assert (value(study, "00100020"), value(study, "00080050")) == (PATIENT["PatientID"], PATIENT["AccessionNumber"])
    assert (value(study, "00080020"), value(study, "00201206"), value(study, "00201208")) == ("20260301", 3, 3)
    assert study["00080061"]["Value"] == ["DX", "OT", "SR"]
    assert value(study, "00081190") == f"{archive.site.url}/dicom-web/studies/1.2.3.1"
    series = archive.search("/studies/1.2.3.1/series")
    assert {value(each, "00080060") for each in series} == {"DX", "OT", "SR"}
    instances = archive.search("/studies/1.2.3.1/instances")
    assert {value(each, CLASS) for each in instances} >= {REPORT, CAPTURE}
    (image,) = archive.search(f"/studies/1.2.3.1/series/{UIDS['SeriesInstanceUID']}/instances")
    assert value(image, INSTANCE) == UIDS["SOPInstanceUID"]


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("", 5),
        ("PatientID=P-4711", 1),
        ("PatientID=p-4711", 0),
        ("00100020=P-*", 1),
        ("PatientID=S_*", 4),
        ("PatientID=S%25*", 0),
        ("PatientID=S?2", 1),
        ("PatientName=quellenhofer^wendelin", 1),
        ("PatientName=Quell*", 1),
        ("PatientName=*^Ida*", 4),
        ("PatientName=Ida", 0),
        ("AccessionNumber=ACC99012", 1),
        ("StudyDate=20260301", 1),
        ("StudyDate=20250701-20250703", 2),
        ("StudyDate=-20250703", 2),
        ("StudyDate=20250704-", 3),
        ("StudyInstanceUID=1.2.3.1,1.9", 1),
        ("SOPInstanceUID=1.2.3.1.1.1", 1),
        ("ModalitiesInStudy=CR", 0),
        ("ModalitiesInStudy=SR", 5),
        ("Modality=DX&PatientID=P-4711", 1),
        ("PatientID=&PatientName=*", 5),
    ],
)
def test_studies_match(archive: Archive, query: str, number: int) -> None:
    assert len(archive.search(f"/studies?{query}")) == number


def test_pages_say_what_remains(archive: Archive) -> None:
    everything = [value(each, STUDY) for each in archive.search("/studies")]
    paged = [value(each, STUDY) for at in range(0, 6, 2) for each in archive.search(f"/studies?limit=2&offset={at}")]
    assert paged == everything
    assert "There are 3 additional results" in archive.get("/studies?limit=2").headers["warning"]
    assert "warning" not in archive.get("/studies?limit=99999").headers
    assert len(archive.search("/instances?limit=7")) == 7
    assert archive.search("/series?offset=500") == []


def test_what_is_not_supported_is_in_a_warning(archive: Archive) -> None:
    query = "includefield=00081030&includefield=all&fuzzymatching=true&StudyDescription=chest&00081110.00081155=1"
    answer = archive.get(f"/studies?{query}")
    assert len(answer.json()) == 5
    warning = answer.headers["warning"]
    assert all(word in warning for word in ("includefield", "fuzzymatching", "StudyDescription", "ReferencedStudy"))


def test_results_are_instances_of_the_study(archive: Archive) -> None:
    """Also by their own UIDs, and they are what they were listed as."""
    files = [pydicom.dcmread(io.BytesIO(data)) for data in parts(archive.get("/studies/1.2.3.1"))]
    listed = archive.search("/studies/1.2.3.1/instances")
    keys = [(value(each, SERIES), value(each, INSTANCE), value(each, CLASS)) for each in listed]
    assert sorted(keys) == sorted((each.SeriesInstanceUID, each.SOPInstanceUID, each.SOPClassUID) for each in files)
    series, uid = structured_report.uids(archive.result)
    (report,) = parts(archive.get(f"/studies/1.2.3.1/series/{series}/instances/{uid}"))
    assert pydicom.dcmread(io.BytesIO(report)).SOPInstanceUID == uid
    assert archive.get(f"/studies/1.2.3.1/series/{series}/instances/{uid}/rendered").status_code == 406
    assert len(archive.search(f"/studies/1.2.3.1/instances?SOPInstanceUID={uid}")) == 1


def path(instance: str = "") -> str:
    return f"/studies/1.2.3.1/series/1.2.3.1.1/instances/1.2.3.1.1.1{instance}"


def test_instance_is_the_upload_byte_for_byte(archive: Archive) -> None:
    assert parts(archive.get(path())) == [archive.data]
    alone = archive.get(path(), accept="application/dicom")
    assert alone.content == archive.data
    assert alone.headers["content-type"] == f"application/dicom; transfer-syntax={EXPLICIT}"
    assert parts(archive.get("/studies/1.2.3.1/series/1.2.3.1.1")) == [archive.data]


def test_metadata_is_the_header_without_pixels(archive: Archive) -> None:
    (header,) = archive.search(path("/metadata"))
    read = pydicom.Dataset.from_json(header)
    assert (read.PatientName, read.Rows) == (PATIENT["PatientName"], 48)
    assert "PixelData" not in read
    assert len(archive.search("/studies/1.2.3.1/metadata")) == 3


def test_frame_has_the_stored_pixels(archive: Archive) -> None:
    accept = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
    answer = archive.get(path("/frames/1"), accept=accept)
    assert np.array_equal(np.frombuffer(parts(answer)[0], "<u2").reshape(48, 64), film(64, seed=1))
    assert f"transfer-syntax={EXPLICIT}".encode() in answer.content
    assert archive.get(path("/frames/2"), accept=accept).status_code == 404
    assert archive.get(path("/frames/1"), accept="image/jpeg").status_code == 406


def test_compressed_frame_goes_out_as_it_is(archive: Archive) -> None:
    ours: dict[str, Any] = {"StudyInstanceUID": "1.2.9", "SeriesInstanceUID": "1.2.9.1", "SOPInstanceUID": "1.2.9.1.1"}
    archive.site.send(judged(archive.store, 9, data=write(film(64), JPEG_LS, PatientID="C", **ours)))
    place = "/studies/1.2.9/series/1.2.9.1/instances/1.2.9.1.1"
    (pixels,) = parts(archive.get(f"{place}/frames/1"))
    assert pixels[:2] == b"\xff\xd8"
    wrong = f'multipart/related; type="application/dicom"; transfer-syntax={EXPLICIT}'
    assert archive.get(place, accept=wrong).status_code == 404
    assert archive.get(place, accept=wrong.replace(EXPLICIT, JPEG_LS)).status_code == 200


def test_rendered_is_a_picture_of_the_wanted_size(archive: Archive) -> None:
    answer = archive.get(path("/rendered?viewport=32,32&quality=80"))
    assert Image.open(io.BytesIO(answer.content)).size == (32, 24)
    assert answer.headers["content-type"] == "image/jpeg"
    assert archive.get(path("/rendered"), accept="image/png").content.startswith(b"\x89PNG")
    assert Image.open(io.BytesIO(archive.get(path("/thumbnail")).content)).size == (64, 48)


def test_the_newest_of_two_uploads_of_an_instance_counts(archive: Archive) -> None:
    ours: dict[str, Any] = {"StudyInstanceUID": "1.2.7", "SeriesInstanceUID": "1.2.7.1", "SOPInstanceUID": "1.2.7.1.1"}
    files = [write(film(64, seed=seed), PatientID=f"N{seed}", **ours) for seed in (1, 2)]
    for data in files:
        archive.site.send(judged(archive.store, 7, data=data))
    assert parts(archive.get("/studies/1.2.7/series/1.2.7.1")) == [files[1]]
    (study,) = archive.search("/studies?StudyInstanceUID=1.2.7")
    assert (value(study, "00100020"), value(study, "00201208")) == ("N2", 5)
    assert len(archive.search("/studies/1.2.7/instances")) == 5


def test_overwritten_upload_is_not_sent(archive: Archive) -> None:
    ours: dict[str, Any] = {"StudyInstanceUID": "1.2.6", "SeriesInstanceUID": "1.2.6.1", "SOPInstanceUID": "1.2.6.1.1"}
    result = judged(archive.store, 6, data=write(film(64), PatientID="O", **ours))
    archive.site.send(result)
    archive.store.put(OURS.uploads_bucket, result.upload.key, write(film(64, seed=3), PatientID="OTHER", **ours))
    for kind in ("", "/metadata", "/rendered", "/frames/1"):
        assert archive.get(f"/studies/1.2.6/series/1.2.6.1/instances/1.2.6.1.1{kind}").status_code == 404, kind


def test_each_look_is_in_the_audit_log_without_its_patient(archive: Archive) -> None:
    archive.search("/studies?PatientID=P-4711&PatientName=Quellenhofer*")
    archive.get(path())
    archive.get(path("/rendered"))
    log = archive.audited()
    identity = archive.result.upload.identity
    acts = [(act, detail) for who, act, whom, detail in log if who == "DICOM viewer" and whom == identity]
    assert {"saw patient", "retrieved", "saw the X-ray"} <= {act for act, _ in acts}
    assert any("by PatientID PatientName, search sha256:" in detail for _, act, _, detail in log if act == "searched")
    assert not any(word in str(log) for word in ("4711", "Quellenhofer", "1.2.3.1"))


# -------------------------------------------------------------------------------------------------------------- hostile


@pytest.mark.attack
@pytest.mark.parametrize("kind", ["/studies", "/studies/1.2.3.1", "/instances", path(), path("/rendered")])
def test_only_the_token_opens_it(archive: Archive, kind: str) -> None:
    """Neither nothing, nor another token, nor the cookie of a reader who may see patients."""
    address = f"{archive.site.url}/dicom-web{kind}"
    before = len(archive.audited())
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
        answer = httpx.get(address, headers=headers, timeout=20)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    with archive.site.client("admin", patients=True) as person:
        signed_in = len(archive.audited())
        assert person.get(f"/dicom-web{kind}").status_code == 401
    assert len(archive.audited()) - signed_in == signed_in - before - 1 == 0


@pytest.mark.attack
@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("PatientId=P-4711", 400),
        ("PatientID=a&PatientID=b", 400),
        ("limit=-1", 400),
        ("limit=1e9", 400),
        ("offset=99999999999", 400),
        ("StudyDate=2026-03-01", 400),
        ("StudyDate=20260231", 400),
        ("StudyDate=-", 400),
        ("PatientName=%00", 400),
        ("PatientName=" + "%2a" * 9000, 400),
        ("StudyInstanceUID=" + ",".join(["1.2"] * 201), 400),
        ("PatientName=%27%20OR%201=1--", 200),
        ("PatientName=%ff%fe", 200),
        ("PatientName=" + "%2aa" * 2000, 200),
        ("ffffffff=1", 400),
    ],
)
def test_hostile_queries_find_nothing(archive: Archive, query: str, status: int) -> None:
    for kind in ("studies", "series", "instances"):
        answer = archive.get(f"/{kind}?{query}")
        assert answer.status_code == status, answer.text
        assert status != 200 or answer.json() == []


@pytest.mark.attack
@pytest.mark.parametrize(
    "place",
    ["/studies/..%2f..%2fetc", "/studies/1.2.3.1'", "/studies/*", f"/studies/{'1.' * 40}/series", "/studies/9.9"],
)
def test_addresses_of_nothing_give_nothing(archive: Archive, place: str) -> None:
    answer = archive.get(place)
    assert answer.status_code in {400, 404} or answer.json() == []


@pytest.mark.attack
def test_deflated_bomb_is_not_inflated(archive: Archive) -> None:
    """A document of 400 MB of nothing before the pixels is 400 KB here."""
    ours: dict[str, Any] = {name: uid.replace("1.2.3", "1.2.5") for name, uid in UIDS.items()}
    data = write(film(64), DEFLATED, PatientID="BOMB", **ours)
    honest = judged(archive.store, 10, data=data)
    etag = archive.store.put(OURS.uploads_bucket, honest.upload.key, deflated_bomb(data, 400))
    assert honest.read
    read = honest.read.model_copy(update={"etag": etag})
    sent = archive.site.send(honest.model_copy(update={"read": read}))
    assert sent.status_code == 204, sent.text
    place = "/studies/1.2.5.1/series/1.2.5.1.1/instances/1.2.5.1.1.1"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind in ("/metadata", "/frames/1"):
        answer = archive.get(place + kind)
        assert answer.status_code in {404, 422}, kind
        assert "no such" not in answer.text
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_names_are_decoded_with_their_character_set(archive: Archive) -> None:
    ours: dict[str, Any] = {name: uid.replace("1.2.3", "1.2.4") for name, uid in UIDS.items()}
    data = write(film(64), SpecificCharacterSet="ISO_IR 100", PatientName="Müßig^Zoë", PatientID="L1", **ours)
    archive.site.send(judged(archive.store, 11, data=data))
    (study,) = archive.search("/studies?PatientName=m%C3%BC*&PatientID=L1")
    (header, *_) = archive.search("/studies/1.2.4.1/series/1.2.4.1.1/metadata")
    for answer in (study, header):
        assert value(answer, "00100010") == {"Alphabetic": "Müßig^Zoë"}
        assert value(answer, "00080005") == "ISO_IR 192"


def test_other_media_types_are_406(archive: Archive) -> None:
    assert archive.get("/studies", accept='multipart/related; type="application/dicom+xml"').status_code == 406
    assert archive.get(path(), accept='multipart/related; type="image/jpeg"').status_code == 406


def test_without_a_token_in_the_settings_nothing_is_served(tmp_path: Path) -> None:
    with running_site(home(tmp_path)) as site:
        answer = httpx.get(f"{site.url}/dicom-web/studies", headers=BEARER, timeout=20)
    assert answer.status_code == 404


# -------------------------------------------------------------------------------------------------------------- viewers


def test_orthanc_searches_and_retrieves_by_its_plugin(archive: Archive, tmp_path: Path) -> None:
    server = {"Url": f"{archive.site.url}/dicom-web/", "HttpHeaders": BEARER}
    options = {"DicomWeb": {"Enable": True, "Root": "/dicom-web/", "Servers": {"lungline": server}}}
    own: dict[str, Any] = {name: generate_uid() for name in UIDS}
    data = write(film(64, seed=8), PatientID="ORT", **own)
    archive.site.send(judged(archive.store, 8, data=data))
    with running_orthanc(tmp_path / "orthanc", options=options) as orthanc, orthanc.http as http:
        query = {"Uri": "/studies", "Arguments": {"PatientID": "ORT"}}
        answers = http.post("/dicom-web/servers/lungline/qido", json=query).json()
        assert [each[STUDY]["Value"] for each in answers] == [own["StudyInstanceUID"]]
        got = http.post("/dicom-web/servers/lungline/get", json={"Uri": f"/studies/{own['StudyInstanceUID']}/metadata"})
        assert len(got.json()) == 3
        wanted = {"Resources": [{"Study": own["StudyInstanceUID"]}], "Synchronous": True}
        done = http.post("/dicom-web/servers/lungline/retrieve", json=wanted, timeout=60)
        assert done.status_code == 200, done.text
        kept = {each["SOPInstanceUID"]: each["ID"] for each in orthanc.instances()}
        assert len(kept) == 3
        assert pydicom.dcmread(io.BytesIO(orthanc.file(kept[own["SOPInstanceUID"]]))).PatientID == "ORT"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A worklist whose viewer is served elsewhere."""
    folder = tmp_path_factory.mktemp("shared")
    with running_site(home(folder, viewer_token=TOKEN, viewer_origins="https://viewer.example.org")) as site:
        yield site


@pytest.mark.parametrize(
    ("origin", "path", "is_shared"),
    [
        ("https://viewer.example.org", "/dicom-web/studies", True),
        ("https://viewer.example.org.evil.example", "/dicom-web/studies", False),
        ("null", "/dicom-web/studies", False),
        ("https://viewer.example.org", "/", False),
        ("https://viewer.example.org", "/live", False),
    ],
)
def test_pages_of_named_origins_may_read_dicomweb_alone(shared: Site, origin: str, path: str, is_shared: bool) -> None:
    preflight = {"access-control-request-method": "GET", "access-control-request-headers": "authorization"}
    before = httpx.options(shared.url + path, headers={"origin": origin} | preflight)
    answer = httpx.get(shared.url + path, headers=BEARER | {"origin": origin})
    for each in (before, answer):
        assert each.headers.get("access-control-allow-origin") == (origin if is_shared else None)
        assert "access-control-allow-credentials" not in each.headers
    assert (before.status_code == 200) is is_shared


def test_no_other_page_may_read_dicomweb_by_default(archive: Archive) -> None:
    answer = archive.get("/studies", origin="https://viewer.example.org")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "text", ["*", "viewer.example.org", "https://viewer.example.org/ohif", "https://*.example.org"]
)
def test_origin_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="viewer_origins"):
        origins(text)
