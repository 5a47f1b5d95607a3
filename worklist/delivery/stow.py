"""Delivery by DICOMweb STOW-RS (DICOM PS3.18, section 10.5)."""

import json
from typing import TYPE_CHECKING, Any

from worklist.delivery.http import Answer, HttpChannel, require_taken
from worklist.delivery.parcel import Instances
from worklist.delivery.refusals import NotTaken, require_stored
from worklist.destinations import StowDestination

if TYPE_CHECKING:
    import httpx2

_BOUNDARY = "lungline-5d1f0c4a9be24b7f8a4f3f6c"
_HEADERS = {
    "content-type": f'multipart/related; type="application/dicom"; boundary={_BOUNDARY}',
    "accept": "application/dicom+json",
}
_FAILED, _REASON = "00081198", "00081197"
_WITH_INSTANCES = frozenset((200, 202, 409))


class StowChannel(HttpChannel[Instances, StowDestination]):
    """Stores the instances of each result in one request."""

    def _exchange(self, connection: "httpx2.Client", content: Instances) -> None:
        body = b"".join(_part(data) for _, data in content) + f"--{_BOUNDARY}--\r\n".encode()
        _require_stored(self._post(connection, body, _HEADERS))


def _require_stored(answer: Answer) -> None:
    if answer.status not in _WITH_INSTANCES:
        require_taken(answer)
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
