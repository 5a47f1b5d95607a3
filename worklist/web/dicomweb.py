"""DICOMweb for viewers: who may use it, and searches (QIDO-RS, PS3.18 10.6).

A viewer shows a bearer token, which has the right to see patients; a reader's cookie opens nothing here, so that no
page of another site can use it. Each look is in the audit log before anything is answered.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from lungline.errors import LunglineError
from worklist.database.access import Person
from worklist.exports import dicom_json
from worklist.exports.dicom_studies import Instance, find_instances, find_studies
from worklist.web.accepted import accepted
from worklist.web.context import Context, NotFound, Worklist
from worklist.web.dicomweb_query import UID, Query, QueryRefused, read_query
from worklist.web.security import DICOMWEB

JSON = "application/dicom+json"
VIEWER = Person("DICOM viewer", "reader", csrf="", digest="viewer", sees_patients=True)
MOST_WARNINGS = 10

router = APIRouter(prefix=DICOMWEB)


class TokenNeeded(LunglineError):
    """The request has no token of a viewer."""


def _viewer(request: Request, context: Context) -> Person:
    token = context.settings.worklist.viewer_token
    if token is None:
        raise NotFound("DICOMweb is not served here: LUNGLINE_WORKLIST__VIEWER_TOKEN is empty.")
    word, _, given = request.headers.get("authorization", "").partition(" ")
    expected = token.get_secret_value().encode()
    if word.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("utf-8", "replace"), expected):
        raise TokenNeeded("A bearer token of a viewer is needed.")
    return VIEWER


def _place(request: Request) -> dict[str, str]:
    """The UIDs of the address by the names of its parts: study, series, instance."""
    place = {name: value for name, value in request.path_params.items() if name in {"study", "series", "instance"}}
    if not all(re.fullmatch(UID, uid) for uid in place.values()):
        raise QueryRefused("The address has a UID that is none.")
    return place


Viewer = Annotated[Person, Depends(_viewer)]
Place = Annotated[dict[str, str], Depends(_place)]


@router.get("/studies")
def search_studies(request: Request, context: Context, viewer: Viewer) -> Response:
    """Search for studies."""
    accepted(request, JSON, "application/json")
    query = read_query(request.query_params.multi_items(), {})
    with context.database.reading() as session:
        studies, total = find_studies(session, query.sought, query.limit, query.offset)
    _note(context, viewer, "studies", query, [each.patient.identity for each in studies])
    address = address_of(request, context)
    return _answer(request, query, [dicom_json.study(each, address) for each in studies], total)


@router.get("/series")
@router.get("/studies/{study}/series")
def search_series(request: Request, place: Place, context: Context, viewer: Viewer) -> Response:
    """Search for series, of all studies or one."""
    query, instances = _search(request, place, context)
    by_series: dict[tuple[str, str], list[Instance]] = {}
    for each in instances:
        by_series.setdefault((each.study_uid, each.series_uid), []).append(each)
    page = list(by_series.values())[query.offset : query.offset + query.limit]
    _note(context, viewer, "series", query, [each.patient.identity for held in page for each in held])
    address = address_of(request, context)
    return _answer(request, query, [dicom_json.series(held, address) for held in page], len(by_series))


@router.get("/instances")
@router.get("/studies/{study}/instances")
@router.get("/studies/{study}/series/{series}/instances")
def search_instances(request: Request, place: Place, context: Context, viewer: Viewer) -> Response:
    """Search for instances, of all studies, a study or a series."""
    query, instances = _search(request, place, context)
    page = instances[query.offset : query.offset + query.limit]
    _note(context, viewer, "instances", query, [each.patient.identity for each in page])
    address = address_of(request, context)
    return _answer(request, query, [dicom_json.instance(each, address) for each in page], len(instances))


def _search(request: Request, place: dict[str, str], context: Worklist) -> tuple[Query, list[Instance]]:
    accepted(request, JSON, "application/json")
    query = read_query(request.query_params.multi_items(), place)
    with context.database.reading() as session:
        return query, find_instances(session, query.sought)


def _note(context: Worklist, viewer: Person, what: str, query: Query, identities: Sequence[str]) -> None:
    """Note the attributes that were searched for, with a digest of their values, and whom the answer shows."""
    detail = f"dicomweb {what}"
    if query.names:
        digest = hashlib.sha256(repr(query.sought).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        detail += f", by {' '.join(sorted(set(query.names)))}, search sha256:{digest}"
    context.looks.record(viewer, "searched", detail=detail)
    context.looks.record_patients(viewer, list(dict.fromkeys(identities)))


def _answer(request: Request, query: Query, page: list[dict[str, Any]], total: int) -> Response:
    remaining = total - query.offset - len(page)
    warnings = query.warnings[:MOST_WARNINGS]
    if remaining > 0:
        warnings.append(f"There are {remaining} additional results that can be requested")
    response = JSONResponse(page, media_type=JSON)
    for sentence in warnings:
        response.headers.append("warning", f'299 {request.url.netloc} "{sentence}"')
    return response


def address_of(request: Request, context: Worklist) -> str:
    """The address of all studies, as the viewer reaches it; behind a proxy the scheme is that of the public address."""
    public = urlsplit(context.settings.worklist.uri or "")
    host = request.url.netloc
    scheme = public.scheme if public.netloc == host else request.url.scheme
    return f"{scheme}://{host}{DICOMWEB}/studies"
