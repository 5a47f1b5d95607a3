"""Rules on DICOM headers decide which uploads are judged; the others are kept, with the reason in their record."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lungline.diagnosis.diagnoser import Diagnoser
from lungline.diagnosis.image_rules import load_image_rules, reason_not_meant
from lungline.diagnosis.upload import diagnose_upload
from lungline.errors import SettingsError
from lungline.events.uploads import Upload
from lungline.imaging import dicom_facts
from lungline.imaging.dicom_header import read_file
from lungline.package.package import Package
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support import dicom_files
from tests.support.object_store import running_store
from tests.support.tiny_package import write_tiny_package

SETTINGS = Settings()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """A store with the buckets of the settings."""
    buckets = (SETTINGS.uploads_bucket, SETTINGS.results_bucket, SETTINGS.research_bucket, SETTINGS.patients_bucket)
    with running_store(tmp_path_factory.mktemp("store"), *buckets) as storage:
        yield storage


@pytest.fixture(scope="module")
def diagnoser(tmp_path_factory: pytest.TempPathFactory) -> Diagnoser:
    """A tiny model."""
    folder = tmp_path_factory.mktemp("package") / "1"
    write_tiny_package(folder)
    return Diagnoser(Package.load(folder))


def write(**elements: Any) -> bytes:
    """A radiograph with these elements."""
    return dicom_files.write(dicom_files.film(96), **elements)


def diagnosed(store: Storage, diagnoser: Diagnoser, data: bytes, rules: Path | None = None) -> ResultRecord:
    """The record of a file that is uploaded straight to the bucket."""
    key = f"direct/{hash(data)}.dcm"
    etag = store.put(SETTINGS.uploads_bucket, key, data)
    settings = SETTINGS.model_copy(update={"image_rules": rules})
    record = diagnose_upload(Upload(SETTINGS.uploads_bucket, key, None, etag), diagnoser, store, settings)
    assert store.exists(SETTINGS.uploads_bucket, key)
    return record


@pytest.mark.parametrize(
    ("elements", "words"),
    [({"ViewPosition": "LL"}, "lateral view"), ({"BodyPartExamined": "KNEE"}, "another body part")],
)
def test_other_views_and_parts_are_kept_and_not_judged(
    store: Storage, diagnoser: Diagnoser, elements: dict[str, Any], words: str
) -> None:
    record = diagnosed(store, diagnoser, write(**elements))
    assert (record.outcome, record.label, record.reason) == ("refused", "Refused", "not-meant")
    assert record.probability is None
    assert record.message is not None
    assert "not meant for this model" in record.message
    assert words in record.message


@pytest.mark.parametrize("elements", [{}, {"ViewPosition": "PA", "BodyPartExamined": "CHEST"}, {"ViewPosition": "AP"}])
def test_frontal_chest_is_judged(store: Storage, diagnoser: Diagnoser, elements: dict[str, Any]) -> None:
    assert diagnosed(store, diagnoser, write(**elements)).outcome == "judged"


def test_own_results_are_not_judged(store: Storage, diagnoser: Diagnoser) -> None:
    """Also when somebody puts them into the bucket without the gateway."""
    data = write(storage=dicom_files.CAPTURE, Modality="OT", Manufacturer="Lungline", ManufacturerModelName="Lungline")
    record = diagnosed(store, diagnoser, data)
    assert (record.outcome, record.reason) == ("refused", "own-result")


RULES = """
[[rule]]
name = "teaching files"
modality = ["ot"]
judge = false

[[rule]]
name = "a lateral that is none"
manufacturer = ["Acme  Medical"]
view = ["LL"]
judge = true

[[rule]]
name = "no view"
view = [""]
sop_class = ["1.2.840.10008.5.1.4.1.1.1.1"]
judge = false

[[rule]]
name = "other"
frontal = false
judge = false
"""


@pytest.mark.parametrize(
    ("elements", "judged"),
    [
        ({"Modality": "OT", "ViewPosition": "PA"}, False),
        ({"Manufacturer": "ACME Medical", "ViewPosition": "LL"}, True),
        ({"Manufacturer": "Other", "ViewPosition": "LL"}, False),
        ({}, False),
        ({"storage": dicom_files.CR}, True),
        ({"ViewPosition": "PA"}, True),
    ],
)
def test_first_rule_that_fits_decides(
    store: Storage, diagnoser: Diagnoser, tmp_path: Path, elements: dict[str, Any], judged: bool
) -> None:
    path = tmp_path / "images.toml"
    path.write_text(RULES)
    assert (diagnosed(store, diagnoser, write(**elements), path).outcome == "judged") == judged


def test_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "images.toml"
    facts = dicom_facts.facts_of(read_file(write(ViewPosition="PA"), dicom_facts.NEEDED))
    assert facts is not None
    path.write_text('[[rule]]\nname = "all"\nfrontal = true\njudge = false\n')
    reason = reason_not_meant(facts, load_image_rules(path))
    assert reason is not None
    assert "the rule 'all'" in reason
    path.write_text("")
    assert reason_not_meant(facts, load_image_rules(path)) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[rule]]\nname = "x"\njudge = false\n', "no condition"),
        ('[[rule]]\nname = "x"\njudge = false\nmodalty = ["CR"]\n', "did you mean modality"),
        ('[[rule]]\nname = "x"\njudge = false\nmodality = "CR"\n', "expected a list"),
        ('[[rule]]\nname = "x"\nmodality = ["CR"]\n', "judge"),
        ("[rule]\n", "more than"),
        ("[[rule", "not valid TOML"),
    ],
)
def test_wrong_rules_are_refused_in_words(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "images.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=words):
        load_image_rules(path)
