"""Delivery by DICOMweb STOW-RS (DICOM PS3.18, section 10.5)."""

import json
from typing import Any

from worklist.delivery import http
from worklist.delivery.parcel import Instances
from worklist.delivery.refusals import NotTaken, require_stored
from worklist.destinations import StowDestination

_BOUNDARY = "lungline-5d1f0c4a9be24b7f8a4f3f6c"
_FAILED, _REASON = "00081198", "00081197"
_WITH_INSTANCES = frozenset((200, 202, 409))


def send(destination: StowDestination, instances: Instances) -> None:
    """Store a result's instances in one request. Raises NotTaken, Rejected, SettingsError."""
    body = b"".join(_part(data) for _, data in instances) + f"--{_BOUNDARY}--\r\n".encode()
    headers = {
        "content-type": f'multipart/related; type="application/dicom"; boundary={_BOUNDARY}',
        "accept": "application/dicom+json",
    }
    answer = http.post(destination, body, headers)
    if answer.status not in _WITH_INSTANCES:
        http.require_taken(answer)
        return
    failures = _failures(answer.body)
    for reason in failures:
        require_stored(reason, "instances")
    if answer.status == 409 and not failures:
        raise NotTaken("The destination answered with status 409.")


def _part(data: bytes) -> bytes:
    return f"--{_BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + data + b"\r\n"


def _failures(body: bytes) -> list[int]:
    """The reasons of instances that were not stored."""
    try:
        document: Any = json.loads(body or b"{}")
        items = document.get(_FAILED, {}).get("Value", [])
        return [int(item.get(_REASON, {}).get("Value", [0x0110])[0]) for item in items]
    except (ValueError, TypeError, AttributeError, IndexError):
        raise NotTaken("The destination's answer is not DICOM's JSON.") from None
