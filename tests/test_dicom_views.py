# Elements of any type are given by keyword.
# pyright: reportArgumentType=false
from typing import Any

import pytest
from pydicom.dataset import Dataset

from lungline.imaging import dicom_geometry, dicom_view
from lungline.imaging.decoding import decode
from tests.support.dicom_files import BIG, EXPLICIT, IMPLICIT, film, write

CHESTS = [
    *("CHEST", "CHEST PA", "PORT CHEST", "CHEST_ABDOMEN", "CHESTABDOMEN", "CHESTABDPELVIS", "NECKCHEST", "XR CHEST 2V"),
    *("THORAX", "THORAX AP", "TORAX", "TORACE", "THORACIC", "LUNG", "LUNGS", "PULMONES", "RIBS", "HEART", "TORSO"),
    *(
        "POITRINE",
        "BRUSTKORB",
        "BRUST",
        "BORSTKAS",
        "PECHO",
        "PECTORAL",
        "KLATKA PIERS",
        "CXR",
        "MEDIASTINUM",
        "WHOLEBODY",
    ),
]
OTHERS = [
    *("HAND", "SKULL", "PELVIS", "KNEE", "FOOT", "ABDOMEN", "TSPINE", "LSPINE", "CSPINE", "SHOULDER", "HIP", "HEAD"),
    *(
        "ANKLE",
        "BREAST",
        "CLAVICLE",
        "EXTREMITY",
        "THORACIC SPINE",
        "T SPINE",
        "PHANTOM",
        "FEMUR",
        "NECK",
        "JAW",
        "ARM",
    ),
    *(
        "SCHAEDEL",
        "BECKEN",
        "KNIE",
        "GENOU",
        "MAIN",
        "BASSIN",
        "RODILLA",
        "MANO",
        "GINOCCHIO",
        "BACINO",
        "JOELHO",
        "BWS",
    ),
]
CHEST_CODES = [("51185008", "SCT"), ("816094009", "SCT"), ("T-D3000", "SRT"), ("T-28000", "SNM3"), ("416550000", "SCT")]


def reason(**elements: Any) -> str | None:
    image = decode(write(film(), **elements))
    assert not any("DICOM header" in warning for warning in image.warnings)
    return image.not_frontal


def code(value: str, scheme: str = "SCT", meaning: str = "") -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return [item]


@pytest.mark.parametrize("part", CHESTS)
def test_the_names_of_the_chest_cause_no_remark(part: str) -> None:
    assert reason(BodyPartExamined=part[:16]) is None
    assert reason(StudyDescription=part, SeriesDescription=part, ProtocolName=part) is None


@pytest.mark.parametrize("part", OTHERS)
def test_another_body_part_is_a_reason(part: str) -> None:
    assert reason(BodyPartExamined=part) == dicom_view.OTHER_PART


@pytest.mark.parametrize(
    "element", ["StudyDescription", "SeriesDescription", "ProtocolName", "RequestedProcedureDescription"]
)
@pytest.mark.parametrize("text", ["XR HAND 2 VIEWS LT", "Knie links ap", "Schädel", "Bassin de face", "Lumbar spine"])
def test_descriptions_name_another_body_part(element: str, text: str) -> None:
    assert reason(SpecificCharacterSet="ISO_IR 100", **{element: text}) == dicom_view.OTHER_PART


@pytest.mark.parametrize(
    "elements",
    [
        {"BodyPartExamined": ""},
        {"BodyPartExamined": "UNKNOWN"},
        {"BodyPartExamined": "OTHER"},
        {"StudyDescription": "CHEST PA AND LATERAL"},
        {"StudyDescription": "Thorax in 2 Ebenen, Hand"},
        {"StudyDescription": "Acute abdomen series", "BodyPartExamined": "CHEST"},
        {"SeriesDescription": "Thorax p.a. und seitlich"},
        {"SeriesDescription": "R/O PE", "StudyDescription": "Main room"},
        {"SeriesDescription": "AP, arms down, head up", "BodyPartExamined": "CHEST"},
        {"ViewPosition": "PA"},
        {"ViewPosition": "AP"},
        {"ViewPosition": ""},
        {"PatientPosition": "HFS"},
        {"PatientSpeciesDescription": "Homo sapiens"},
        {"PatientOrientation": ["L", "F"]},
        {"QualityControlImage": "NO"},
    ],
)
def test_what_rules_out_nothing(elements: dict[str, Any]) -> None:
    assert reason(**elements) is None


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        *(({"ViewPosition": view}, dicom_view.LATERAL) for view in ("LL", "RL", "LAT", "LATERAL", "L LAT")),
        *(({"ViewPosition": view}, dicom_view.OBLIQUE) for view in ("LLO", "RAO", "LAO", "RPO", "LPO", "OBLIQUE")),
        *(({"ViewPosition": view}, dicom_view.DECUBITUS) for view in ("LLD", "RLD", "DECUBITUS")),
        ({"ViewPosition": "LORDOTIC"}, dicom_view.OTHER_VIEW),
        ({"SeriesDescription": "Chest lateral"}, dicom_view.LATERAL),
        ({"SeriesDescription": "THORAX SEITLICH"}, dicom_view.LATERAL),
        ({"SeriesDescription": "Thorax de profil"}, dicom_view.LATERAL),
        ({"ProtocolName": "CHEST LAT"}, dicom_view.LATERAL),
        ({"ProtocolName": "W Chest Decub."}, dicom_view.DECUBITUS),
        ({"PatientPosition": "HFDR"}, dicom_view.DECUBITUS),
        ({"PatientSpeciesDescription": "Canine"}, dicom_view.ANIMAL),
        ({"QualityControlImage": "YES"}, dicom_view.QUALITY_CONTROL),
        *(({"PatientOrientation": [row, "F"]}, dicom_geometry.LATERAL) for row in ("A", "P", "AL")),
        ({"PatientOrientation": ["L", "P"]}, dicom_geometry.AXIAL),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, dicom_geometry.LATERAL),
    ],
)
def test_another_view_is_a_reason(elements: dict[str, Any], expected: str) -> None:
    assert reason(**elements) == expected


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
@pytest.mark.parametrize(
    ("value", "scheme", "meaning", "expected"),
    [
        *((value, scheme, "", None) for value, scheme in CHEST_CODES),
        ("85562004", "SCT", "Hand", dicom_view.OTHER_PART),
        ("T-D8700", "SRT", "", dicom_view.OTHER_PART),
        ("89546000", "SCT", "", dicom_view.OTHER_PART),
        ("1", "99LOCAL", "Pelvis", dicom_view.OTHER_PART),
        ("1", "99LOCAL", "Thorax", None),
        ("1", "99LOCAL", "", None),
    ],
)
def test_codes_of_anatomic_regions(syntax: str, value: str, scheme: str, meaning: str, expected: str | None) -> None:
    data = write(film(), syntax, AnatomicRegionSequence=code(value, scheme, meaning))
    assert decode(data).not_frontal == expected


@pytest.mark.parametrize(
    ("value", "scheme", "meaning", "expected"),
    [
        ("399348003", "SCT", "antero-posterior", None),
        ("R-10206", "SRT", "antero-posterior", None),
        ("272479007", "SCT", "postero-anterior", None),
        ("399173006", "SCT", "left lateral", dicom_view.LATERAL),
        ("R-10236", "SRT", "", dicom_view.OTHER_VIEW),
        ("399135007", "SCT", "left anterior oblique", dicom_view.OBLIQUE),
        ("1", "99LOCAL", "lateral", dicom_view.LATERAL),
        ("1", "99LOCAL", "PA", None),
    ],
)
def test_codes_of_views(value: str, scheme: str, meaning: str, expected: str | None) -> None:
    assert reason(ViewCodeSequence=code(value, scheme, meaning)) == expected


@pytest.mark.parametrize(
    ("charset", "codec", "text", "expected"),
    [
        ("ISO_IR 192", "utf-8", "胸部 側面", dicom_view.LATERAL),
        ("\\ISO 2022 IR 87", "iso2022_jp", "胸部正面", None),
        ("\\ISO 2022 IR 87", "iso2022_jp", "手", dicom_view.OTHER_PART),
        ("ISO_IR 144", "iso8859-5", "Кисть", dicom_view.OTHER_PART),
        ("ISO_IR 144", "iso8859-5", "Грудная клетка", None),
        ("GB18030", "gb18030", "骨盆", dicom_view.OTHER_PART),
        ("ISO_IR 100", "latin-1", "Épaule", dicom_view.OTHER_PART),
        ("", "utf-8", "Épaule", dicom_view.OTHER_PART),
    ],
)
def test_descriptions_in_other_scripts(charset: str, codec: str, text: str, expected: str | None) -> None:
    encoded = text.encode(codec)
    encoded += b" " * (len(encoded) % 2)
    placeholder = "X" * len(encoded)
    data = write(film(), SpecificCharacterSet=charset.split("\\"), SeriesDescription=placeholder)
    assert decode(data.replace(placeholder.encode(), encoded)).not_frontal == expected


def test_a_request_names_another_body_part() -> None:
    request = Dataset()
    request.ScheduledProcedureStepDescription = "XR Knee"
    assert reason(RequestAttributesSequence=[request]) == dicom_view.OTHER_PART
    assert reason(RequestAttributesSequence=[request], BodyPartExamined="CHEST") is None


def test_a_word_that_is_not_known_is_a_warning() -> None:
    image = decode(write(film(), BodyPartExamined="QWERTY"))
    assert (image.not_frontal, image.warnings) == (None, (dicom_view.UNKNOWN_PART,))


def test_nothing_of_the_header_is_quoted() -> None:
    image = decode(write(film(), BodyPartExamined="HAND", StudyDescription="HAND DOE JOHN"))
    assert "DOE" not in f"{image.not_frontal}{image.warnings}{image.notes}"
