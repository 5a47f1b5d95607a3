"""The query of a QIDO-RS request (PS3.18 8.3.4) as what is sought."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date

from pydicom.datadict import keyword_for_tag, tag_for_keyword

from lungline.errors import LunglineError
from worklist.exports.dicom_studies import Sought

PAGE = 200
UID = r"[0-9.]{1,64}"
_LONGEST = 8192
_MOST_SKIPPED = 10_000_000
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_DAY = re.compile(r"\d{8}")
_LITERAL = "The fuzzymatching parameter is not supported. Only literal matching has been performed."
_FIELDS = "The includefield parameter is not supported. The usual attributes are returned."


class QueryRefused(LunglineError):
    """A query that cannot be understood."""


@dataclass(slots=True)
class Query:
    """A search: what is sought, which page of it, and what the answer must warn of."""

    sought: Sought
    limit: int = PAGE
    offset: int = 0
    names: list[str] = field(default_factory=list[str])
    """Attributes that are matched."""
    warnings: list[str] = field(default_factory=list[str])


def read_query(pairs: Iterable[tuple[str, str]], place: Mapping[str, str]) -> Query:
    """Read the pairs of a URL's query; `place` are the UIDs of its address. Raises QueryRefused.

    Attributes that are not matched are reported in a warning, as every value matches them (PS3.4 C.2.2.2.3).
    """
    query, values = Query(Sought()), dict[str, tuple[str, ...] | str]()
    for name, value in pairs:
        if len(value) > _LONGEST or _CONTROL.search(value):
            raise QueryRefused("A value of the query is too long, or has control characters.")
        if name in _PARAMETERS:
            _PARAMETERS[name](query, value)
            continue
        keyword = _keyword(name)
        if keyword not in _MATCHED:
            query.warnings.append(f"Matching by {keyword} is not supported; every value of it matches.")
        elif value not in ("", "*"):
            if keyword in query.names and keyword not in _LISTS:
                raise QueryRefused(f"The query names {keyword} twice.")
            query.names.append(keyword)
            for key, read in _MATCHED[keyword](value).items():
                before = values.get(key, ())
                values[key] = (*before, *read) if isinstance(before, tuple) and isinstance(read, tuple) else read
    for key, uids in asdict(Sought.at(place)).items():
        if uids:  # an address and a query that exclude each other match nothing
            values[key] = uids if not values.get(key) or uids[0] in values[key] else ("",)
    query.sought = Sought(**values)  # pyright: ignore[reportArgumentType] - each reader gives its fields' types
    return query


def _keyword(name: str) -> str:
    """The keyword of an attribute, which may be named by its tag; of one inside a sequence, the sequence's."""
    first = name.partition(".")[0]
    keyword = keyword_for_tag(int(first, 16)) if _TAG.fullmatch(first) else first
    if not keyword or tag_for_keyword(keyword) is None:
        raise QueryRefused("The query names something that is neither a parameter nor an attribute of DICOM.")
    return keyword


def _number(value: str, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", value):
        raise QueryRefused("limit and offset are whole numbers.")
    return min(int(value), most)


def _limit(query: Query, value: str) -> None:
    query.limit = _number(value, PAGE)


def _offset(query: Query, value: str) -> None:
    query.offset = _number(value, _MOST_SKIPPED)


def _warn(sentence: str, *, of: str = "") -> Callable[[Query, str], None]:
    def warn(query: Query, value: str) -> None:
        if (not of or value.lower() == of) and sentence not in query.warnings:
            query.warnings.append(sentence)

    return warn


_PARAMETERS: dict[str, Callable[[Query, str], None]] = {
    "limit": _limit,
    "offset": _offset,
    "fuzzymatching": _warn(_LITERAL, of="true"),
    "includefield": _warn(_FIELDS),
    "emptyvaluematching": _warn("The emptyvaluematching parameter is not supported.", of="true"),
    "multiplevaluematching": _warn("The multiplevaluematching parameter is not supported.", of="true"),
}


def _text(key: str) -> Callable[[str], dict[str, tuple[str, ...] | str]]:
    return lambda value: {key: value}


def _list(key: str) -> Callable[[str], dict[str, tuple[str, ...] | str]]:
    def read(value: str) -> dict[str, tuple[str, ...] | str]:
        listed = tuple(filter(None, (each.strip() for each in re.split(r"[,\\]", value))))
        if not 1 <= len(listed) <= PAGE:
            raise QueryRefused(f"A list in a query has 1 to {PAGE} values.")
        return {key: listed}

    return read


def _dates(value: str) -> dict[str, tuple[str, ...] | str]:
    first, dash, last = value.partition("-")
    if not dash:
        last = first
    try:
        days = [date.fromisoformat(day).isoformat() if day else "" for day in (first, last)]
    except ValueError:
        days = []
    if not any(days) or not all(_DAY.fullmatch(day) for day in (first, last) if day):
        raise QueryRefused("StudyDate is YYYYMMDD, or a range such as YYYYMMDD-YYYYMMDD.")
    return {"first_date": days[0], "last_date": days[1]}


_LISTS: dict[str, str] = {
    "StudyInstanceUID": "studies",
    "SeriesInstanceUID": "series",
    "SOPInstanceUID": "instances",
    "SOPClassUID": "classes",
    "Modality": "modalities",
    "ModalitiesInStudy": "modalities_in_study",
}
_MATCHED: dict[str, Callable[[str], dict[str, tuple[str, ...] | str]]] = {
    "PatientID": _text("patient_id"),
    "PatientName": _text("patient_name"),
    "AccessionNumber": _text("accession"),
    "StudyDate": _dates,
    **{keyword: _list(key) for keyword, key in _LISTS.items()},
}
