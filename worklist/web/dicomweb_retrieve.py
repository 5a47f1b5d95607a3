"""DICOMweb for viewers: instances, their headers, frames and pictures (WADO-RS, PS3.18 10.4).

Files go out in pieces, as the object store gives them and the viewer takes them. What is read whole, a header, a frame
or a picture, takes its memory from the budget of all images.
"""

import json
import logging
import re
import secrets
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import chain

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from lungline.errors import DataError, ImageRefused, ObjectGone
from worklist.exports import dicom_json
from worklist.exports.dicom_files import DicomFiles, DicomPieces, frame
from worklist.exports.dicom_studies import Instance, Sought, find_instances, find_upload
from worklist.web.accepted import Accepted, NotAcceptable, accepted
from worklist.web.context import Context, NotFound, Worklist
from worklist.web.dicomweb import JSON, Place, Viewer, router

DICOM, OCTETS, JPEG, PNG = "application/dicom", "application/octet-stream", "image/jpeg", "image/png"
LARGEST = 8192
QUALITY = 90
_MISSING = (ObjectGone, DataError, ImageRefused)
_STUDY, _SERIES = "/studies/{study}", "/studies/{study}/series/{series}"
_INSTANCE = _SERIES + "/instances/{instance}"

_log = logging.getLogger(__name__)


@router.get(_STUDY)
@router.get(_SERIES)
def retrieve(request: Request, place: Place, context: Context, viewer: Viewer) -> Response:
    """All instances of a study or a series."""
    wanted = accepted(request, DICOM, multipart=True)
    instances = _instances(context, place)
    context.looks.record_all(viewer, "retrieved", _identities(instances), "dicomweb")
    return _multipart(_files(context), instances, wanted)


@router.get(_INSTANCE)
def retrieve_instance(request: Request, place: Place, context: Context, viewer: Viewer) -> Response:
    """One instance, as a part or alone."""
    try:
        wanted, alone = accepted(request, DICOM, multipart=True), False
    except NotAcceptable:
        wanted, alone = accepted(request, DICOM), True
    instances = _instances(context, place)
    context.looks.record_all(viewer, "retrieved", _identities(instances), "dicomweb")
    if not alone:
        return _multipart(_files(context), instances, wanted)
    with _translated():
        opened = _files(context).open(instances[0])
    _require_syntax(wanted, opened)
    return StreamingResponse(opened.pieces, media_type=f"{DICOM}; transfer-syntax={opened.syntax}")


@router.get(f"{_STUDY}/metadata")
@router.get(f"{_SERIES}/metadata")
@router.get(f"{_INSTANCE}/metadata")
def metadata(request: Request, place: Place, context: Context, viewer: Viewer) -> Response:
    """The headers of instances."""
    accepted(request, JSON, "application/json")
    instances = _instances(context, place)
    context.looks.record_all(viewer, "retrieved", _identities(instances), "dicomweb metadata")
    headers = _headers(_files(context), instances)
    first = next(headers, None)
    if first is None:
        raise NotFound("The instances are not in the store any more, or their headers cannot be read.")
    pieces = chain(("[", first), (f",{each}" for each in headers), ("]",))
    return StreamingResponse(pieces, media_type=JSON)


@router.get(f"{_INSTANCE}/frames/{{number}}")
def retrieve_frame(request: Request, number: int, place: Place, context: Context, viewer: Viewer) -> Response:
    """A frame's pixels as they are stored."""
    wanted = accepted(request, OCTETS, multipart=True)
    instance = _instances(context, place)[0]
    context.looks.record(viewer, "retrieved", identity=instance.patient.identity, detail="dicomweb frame")
    with _translated(), _files(context).reading(instance, copies=4) as data:
        syntax, pixels = frame(data, number)
    _require_syntax(wanted, DicomPieces(syntax, iter(())))
    boundary = secrets.token_hex(16)
    body = _part(boundary, OCTETS, syntax) + pixels + _end(boundary)
    return Response(body, media_type=_multipart_type(OCTETS, boundary))


@router.get(f"{_INSTANCE}/rendered")
def render(request: Request, place: Place, context: Context, viewer: Viewer) -> Response:
    """The X-ray as a picture; `viewport` and `quality` are heeded."""
    wanted = accepted(request, JPEG, PNG)
    instance = _xray(_instances(context, place)[0])
    context.looks.record(viewer, "saw the X-ray", identity=instance.patient.identity, detail="dicomweb")
    with _translated():
        if wanted.media_type == PNG:
            image = context.images.xray(instance.record)
        else:
            image = context.images.rendered(instance.record, _longest(request), _quality(request))
    return Response(image.data, media_type=image.media_type)


@router.get(f"{_INSTANCE}/thumbnail")
def thumbnail(request: Request, place: Place, context: Context, viewer: Viewer) -> Response:
    """The X-ray as a small JPEG."""
    accepted(request, JPEG)
    instance = _xray(_instances(context, place)[0])
    context.looks.record(viewer, "saw the thumbnail", identity=instance.patient.identity, detail="dicomweb")
    with _translated():
        image = context.images.thumb(instance.record)
    return Response(image.data, media_type=image.media_type)


def _instances(context: Worklist, place: dict[str, str]) -> list[Instance]:
    """The instances of an address, at least one. Raises NotFound and SearchTooWide."""
    sought = Sought.at(place)
    with context.database.reading() as session:
        upload = find_upload(session, **place) if "instance" in place else None
        instances = [upload] if upload else find_instances(session, sought)
    if not instances:
        raise NotFound("There is no such study, series or instance.")
    return instances


def _identities(instances: list[Instance]) -> list[str]:
    return list(dict.fromkeys(each.patient.identity for each in instances))


def _files(context: Worklist) -> DicomFiles:
    return DicomFiles(context.images)


@contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except (ObjectGone, DataError) as exc:
        raise NotFound(str(exc)) from exc


def _multipart(files: DicomFiles, instances: list[Instance], wanted: Accepted) -> Response:
    """The instances that can be sent, as parts; what is lost meanwhile is left out. Raises NotFound when all are."""
    boundary = secrets.token_hex(16)
    parts = _parts(files, instances, wanted, boundary)
    first = next(parts, None)
    if first is None:
        raise NotFound("The instances are not in the store any more, or not in an accepted transfer syntax.")
    pieces = chain((first,), parts, (_end(boundary),))
    return StreamingResponse(pieces, media_type=_multipart_type(DICOM, boundary))


def _parts(files: DicomFiles, instances: list[Instance], wanted: Accepted, boundary: str) -> Iterator[bytes]:
    for each in instances:
        try:
            opened = files.open(each)
        except _MISSING as exc:
            _log.warning("Upload %s: its %s is not sent: %s", each.patient.identity, each.form, exc)
            continue
        if wanted.takes(opened.syntax):
            yield _part(boundary, DICOM, opened.syntax)
            yield from opened.pieces


def _headers(files: DicomFiles, instances: list[Instance]) -> Iterator[str]:
    for each in instances:
        try:
            with files.reading(each, copies=2) as data:
                header = dicom_json.metadata(data)
        except _MISSING as exc:
            _log.warning("Upload %s: the header of its %s is not sent: %s", each.patient.identity, each.form, exc)
            continue
        yield json.dumps(header, allow_nan=False)


def _part(boundary: str, media_type: str, syntax: str) -> bytes:
    return f"\r\n--{boundary}\r\nContent-Type: {media_type}; transfer-syntax={syntax}\r\n\r\n".encode()


def _end(boundary: str) -> bytes:
    return f"\r\n--{boundary}--\r\n".encode()


def _multipart_type(media_type: str, boundary: str) -> str:
    return f'multipart/related; type="{media_type}"; boundary={boundary}'


def _require_syntax(wanted: Accepted, opened: DicomPieces) -> None:
    if not wanted.takes(opened.syntax):
        raise NotAcceptable(f"The instance is in transfer syntax {opened.syntax}, and is not converted.")


def _xray(instance: Instance) -> Instance:
    if instance.form != "upload":
        raise NotAcceptable("Only X-rays are rendered; retrieve the instance.")
    return instance


def _longest(request: Request) -> int:
    sides = re.match(r"([0-9]{1,5}),([0-9]{1,5})", request.query_params.get("viewport", ""))
    return min(LARGEST, max(1, int(sides[1]), int(sides[2]))) if sides else LARGEST


def _quality(request: Request) -> int:
    given = request.query_params.get("quality", "")
    return min(100, max(1, int(given))) if re.fullmatch(r"[0-9]{1,3}", given) else QUALITY
