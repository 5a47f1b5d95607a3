"""A modality that sends DICOM files to the gateway."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from gateway.part10 import read_instance
from laptop import stack
from lungline.events.uploads import Upload
from lungline.settings import Settings
from tests.support.dicom_files import film, write
from tests.support.history.operations import Journal, Outcome
from tests.support.history.traces import object_of

_BOUNDARY = "modality"
_TYPE = f'multipart/related; type="application/dicom"; boundary={_BOUNDARY}'


class Modality:
    """Stores instances over DICOMweb; like `Scanner` it knows before the answer which upload that is."""

    def __init__(self, client: httpx.Client, address: str, bucket: str, journal: Journal) -> None:
        self._client, self._address, self._bucket, self._journal = client, address, bucket, journal

    def send(self, data: bytes) -> Upload | None:
        """Send a file once; None when the answer is not a yes."""
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        upload = Upload(self._bucket, read_instance(data).key, etag=etag)
        # To the rules it is a scanner like others.
        with self._journal.attempt("scanner put", upload.identity, object=object_of(upload), way="dicom") as attempt:
            try:
                status = self._client.post(self._address, content=_body(data)).status_code
            except httpx.ConnectError:
                attempt.answer("fail")
                return None
            except httpx.TransportError:
                return None
            attempt.answer(_outcome(status))
        return upload if status == 200 else None


def _outcome(status: int) -> Outcome:
    return "ok" if status == 200 else "unknown"


def _body(data: bytes) -> bytes:
    head = f"--{_BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return head + data + f"\r\n--{_BOUNDARY}--\r\n".encode()


@contextmanager
def modality(settings: Settings, journal: Journal) -> Iterator[Modality]:
    """A modality that knows the gateway's address and token."""
    environment = stack.env(settings)
    headers = {"authorization": f"Bearer {environment['DICOMWEB_TOKEN']}", "content-type": _TYPE}
    with httpx.Client(headers=headers, timeout=20) as client:
        yield Modality(client, f"{environment['DICOMWEB_URL']}/studies", settings.uploads_bucket, journal)


def radiograph(number: int) -> bytes:
    """A DICOM file with its own UIDs."""
    return write(film(seed=number))
