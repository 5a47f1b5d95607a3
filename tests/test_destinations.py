"""Files of destinations: what cannot work is refused with its line and the nearest right word, without secrets."""

import re
from pathlib import Path

import pytest

from lungline.errors import SettingsError
from worklist.destinations import (
    DicomDestination,
    FhirDestination,
    Hl7Destination,
    Secret,
    StowDestination,
    load_destinations,
)

HEAD = '[[destination]]\nname = "a"\n'
PACS = HEAD + 'kind = "c-store"\nhost = "pacs"\ncalled_title = "PACS"\n'
WEB = HEAD + 'kind = "stow"\n'
URL = 'url = "https://pacs.example.org/dicom-web/studies"\n'
REFUSED = {
    "": (1, "the file holds no destination, so nothing would be delivered"),
    "[destination]\n": (1, "write [[destination]], with two brackets"),
    '[[destinations]]\nname = "a"\n': (1, "did you mean [[destination]]?"),
    HEAD: (1, "has no kind: expected c-store, stow, fhir, hl7"),
    HEAD + 'kind = "cstore"\n': (3, 'did you mean "c-store"?'),
    HEAD + 'kind = "c-store"\nhost = "pacs"\n': (1, "the destination has no called_title"),
    HEAD + 'kind = "c-store"\naet = "PACS"\n': (4, 'did you mean "called_title"?'),
    HEAD + 'kind = "c-store"\nhost = "dicom://pacs"\ncalled_title = "PACS"\n': (4, "without a scheme"),
    HEAD + 'kind = "c-store"\nhost = "pacs"\ncalled_title = "SEVENTEENLETTERSS"\n': (5, "up to 16 letters"),
    PACS + "port = 0\n": (6, "port"),
    PACS + 'send = ["sr"]\n': (6, '"report" and "capture"'),
    PACS + 'after = "confirmed"\n': (6, 'did you mean "confirmation"?'),
    PACS + 'label = ["Refused"]\n': (6, "no result that could be delivered"),
    PACS + 'label = ["pneumonia"]\n': (6, 'did you mean "Pneumonia"?'),
    PACS + "threshold = 0.5\n": (6, 'did you mean "risk"?'),
    PACS + 'tls = {certificate = "ours.pem"}\n': (6, "certificate and key belong together"),
    PACS + PACS: (7, "another destination has the name 'a' already"),
    WEB: (1, "the destination has no url"),
    WEB + 'url = "https://user:hunter2@pacs/studies"\n': (4, "see user, password and token"),
    WEB + 'url = "https://pacs/studies?token=hunter2"\n': (4, "see user, password and token"),
    WEB + 'url = "pacs/studies"\n': (4, "expected an address such as https://"),
    WEB + URL + 'password = "hunter2"\n': (5, "password"),
    WEB + URL + 'token = {env = "A", file = "/b"}\n': (5, "expected {env"),
    WEB + URL + 'user = "us"\n': (5, "user and password belong together"),
    WEB + 'url = "http://pacs/studies"\ntoken = {env = "TOKEN"}\n': (4, "use https"),
}


def written(folder: Path, text: str) -> Path:
    path = folder / "destinations.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", REFUSED)
def test_wrong_destination_is_refused_with_line_and_hint(tmp_path: Path, text: str) -> None:
    line, hint = REFUSED[text]
    with pytest.raises(SettingsError) as caught:
        load_destinations(written(tmp_path, text))
    assert f"wrong in line {line}:" in str(caught.value)
    assert hint in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_all_kinds_of_a_right_file_are_read(tmp_path: Path) -> None:
    text = """
        [[destination]]
        name = "pacs"
        kind = "c-store"
        host = "pacs.example.org"
        port = 2762
        called_title = "PACS"
        calling_title = "LUNGLINE2"
        send = ["report"]
        tls = {ca = "/etc/lungline/ca.pem", certificate = "/etc/lungline/c.pem", key = "/etc/lungline/k.pem"}
        label = ["Pneumonia", "Unsure"]
        risk = 0.5
        prefix = "emergency/"
        after = "confirmation"

        [[destination]]
        name = "archive"
        kind = "stow"
        url = "https://pacs.example.org/dicom-web/studies/"
        user = "lungline"
        password = {file = "/run/secrets/archive"}

        [[destination]]
        name = "records"
        kind = "fhir"
        url = "https://fhir.example.org/r4"
        token = {env = "FHIR_TOKEN"}
        patient_system = "urn:oid:1.2.3"

        [[destination]]
        name = "engine"
        kind = "hl7"
        host = "10.0.0.7"
    """
    pacs, archive, records, engine = load_destinations(written(tmp_path, text))
    assert isinstance(pacs, DicomDestination)
    assert (pacs.port, pacs.send, pacs.after, pacs.label) == (
        2762,
        ("report",),
        "confirmation",
        ("Pneumonia", "Unsure"),
    )
    assert isinstance(archive, StowDestination)
    assert (archive.url, archive.send) == ("https://pacs.example.org/dicom-web/studies", ("report", "capture"))
    assert isinstance(records, FhirDestination)
    assert isinstance(engine, Hl7Destination)
    assert (engine.port, engine.after) == (2575, "result")
    assert load_destinations(None) == ()


def test_example_of_the_document_is_right(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs/dicom.md").read_text()
    (example,) = [block for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if "[[destination]]" in block]
    kinds = [type(each) for each in load_destinations(written(tmp_path, example))]
    assert kinds == [DicomDestination, StowDestination, FhirDestination, Hl7Destination]


def test_secret_is_read_when_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file or from the environment; a missing one names its place."""
    (tmp_path / "token").write_text("hunter2\n")
    assert Secret(file=tmp_path / "token").read() == "hunter2"
    monkeypatch.setenv("ARCHIVE_TOKEN", "hunter3")
    assert Secret(env="ARCHIVE_TOKEN").read() == "hunter3"
    monkeypatch.delenv("ARCHIVE_TOKEN")
    with pytest.raises(SettingsError, match="variable ARCHIVE_TOKEN of a destination holds no secret"):
        Secret(env="ARCHIVE_TOKEN").read()
    with pytest.raises(SettingsError, match="none cannot be read"):
        Secret(file=tmp_path / "none").read()
