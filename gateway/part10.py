"""DICOM files (PS3.10): the header that goes before a data set as it was received, and the identity of an instance."""

import hashlib
import io
import uuid
from dataclasses import dataclass, field
from typing import Any, cast

from lungline.imaging import dicom_origin
from lungline.imaging.dicom_header import MEDIA_CLASS, SYNTAX, DicomFile, read_file

IMPLEMENTATION_UID = f"2.25.{uuid.uuid5(uuid.NAMESPACE_DNS, 'lungline').int}"
IMPLEMENTATION_NAME = "LUNGLINE"
FOLDER = "dicom/"

_PREFIX = b"\0" * 128 + b"DICM"
_GROUP_LENGTH = b"\x02\0\0\0UL\x04\0"
_CLASS, _INSTANCE, _STUDY, _SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
_NEEDED = dicom_origin.NEEDED | {_CLASS, _INSTANCE, _STUDY, _SERIES}


@dataclass(frozen=True, slots=True)
class Instance:
    """What a DICOM object says of itself; the UIDs are empty where it does not say."""

    sop_class: str
    sop_instance: str = field(repr=False)
    study: str = field(repr=False)
    series: str = field(repr=False)
    digest: str
    is_own: bool
    has_pixels: bool

    @property
    def key(self) -> str:
        """The object's key: digests of the UIDs, so that no name holds a patient's data, and of the content.

        The same instance has the same key, whoever sends it and however often; another content under the same UID has
        another, so that neither replaces the other.
        """
        study, series, instance = (_short(uid) for uid in (self.study, self.series, self.sop_instance))
        return f"{FOLDER}{study}/{series}/{instance}-{self.digest[:16]}.dcm"


def read_instance(data: bytes) -> Instance:
    """Read what a DICOM file says of itself. Raises ImageRefused when it cannot be read."""
    file = read_file(data, _NEEDED)
    return Instance(
        sop_class=file.text(_CLASS) or file.text(MEDIA_CLASS),
        sop_instance=file.text(_INSTANCE),
        study=file.text(_STUDY),
        series=file.text(_SERIES),
        digest=_digest(file, data),
        is_own=dicom_origin.is_own(file),
        has_pixels=file.pixels is not None,
    )


def with_header(data_set: bytes, sop_class: str, sop_instance: str, syntax: str) -> bytes:
    """A DICOM file of a data set as it was received; the same data set always gives the same file."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.filewriter import write_file_meta_info
    from pydicom.uid import UID

    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\x01"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), UID(sop_instance)
    meta.TransferSyntaxUID = UID(syntax)
    meta.ImplementationClassUID, meta.ImplementationVersionName = UID(IMPLEMENTATION_UID), IMPLEMENTATION_NAME
    out = io.BytesIO(_PREFIX)
    out.seek(len(_PREFIX))
    write_file_meta_info(cast("Any", out), meta)
    return out.getvalue() + data_set


def data_set_start(data: bytes) -> int:
    """Where the data set begins in a file; 0 for a data set without a header."""
    start = len(_PREFIX) if data[128:132] == b"DICM" else 0
    if data[start : start + 8] != _GROUP_LENGTH:
        return start
    return start + 12 + int.from_bytes(data[start + 8 : start + 12], "little")


def _digest(file: DicomFile, data: bytes) -> str:
    """Of data set and transfer syntax: the header of a file depends on who wrote it."""
    digest = hashlib.sha256(file.values.get(SYNTAX, file.syntax.encode()).strip(b" \0"))
    digest.update(memoryview(data)[data_set_start(data) :])
    return digest.hexdigest()


def _short(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:24]
