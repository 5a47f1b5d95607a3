"""Senders of DICOM for tests: DCMTK's programs, pynetdicom, and bytes that no honest sender sends."""

import io
import shutil
import socket
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import UID
from pynetdicom import AE

HOST = "127.0.0.1"


def dcmtk(program: str, *arguments: str, seconds: float = 60) -> "subprocess.CompletedProcess[str]":
    """Run a program of DCMTK; skips the test where it is not installed."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed (apt-get install dcmtk)")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=seconds, check=False)


def storescu(port: int, *paths: Path, title: str = "LUNGLINE", options: Sequence[str] = ()) -> str:
    """Send files with DCMTK's storescu in the transfer syntax that they have; returns what it says, "" for success.

    It says nothing of an object that is answered with a failure, so its exit code is a part of what it says.
    """
    done = dcmtk("storescu", *options, "-aec", title, HOST, str(port), *map(str, paths))
    return "" if done.returncode == 0 else f"exit code {done.returncode}: {done.stderr}{done.stdout}"


def echo(port: int, called: str = "LUNGLINE") -> int:
    """The status of a C-ECHO. Fails when the association is refused."""
    entity = AE(ae_title="PYNETDICOM")
    entity.add_requested_context("1.2.840.10008.1.1")
    association = entity.associate(HOST, port, ae_title=called)
    assert association.is_established
    try:
        return int(association.send_c_echo().Status)
    finally:
        association.release()


def send(port: int, *files: bytes, called: str = "LUNGLINE", calling: str = "PYNETDICOM") -> list[int]:
    """Send DICOM files over one association; returns the status of each. Fails when the association is refused."""
    entity = AE(ae_title=calling)
    data_sets = [pydicom.dcmread(io.BytesIO(data)) for data in files]
    for sop_class, syntax in {(each.SOPClassUID, each.file_meta.TransferSyntaxUID) for each in data_sets}:
        entity.add_requested_context(sop_class, syntax)
    association = entity.associate(HOST, port, ae_title=called)
    assert association.is_established
    try:
        return [int(association.send_c_store(each).Status) for each in data_sets]
    finally:
        association.release()


class RawAssociation:
    """An association whose every byte the test chooses; it has one presentation context, 1."""

    def __init__(self, port: int, sop_class: str, syntax: str = "1.2.840.10008.1.2") -> None:
        self.socket = socket.create_connection((HOST, port), 20)
        self._sop_class = sop_class
        self.socket.sendall(_associate(sop_class, syntax))
        assert self.read_pdu()[:1] == b"\x02"

    def read_pdu(self) -> bytes:
        """The next PDU; empty when the connection ends."""
        head = self._read(6)
        return head + self._read(struct.unpack(">L", head[2:])[0]) if len(head) == 6 else b""

    def store_command(self, instance: str = "1.2.3.4") -> None:
        """Announce an object by C-STORE."""
        command = b""
        elements: list[tuple[int, bytes]] = [
            (0x0002, UID(self._sop_class).encode() + b"\0" * (len(self._sop_class) % 2)),
            (0x0100, struct.pack("<H", 1)),
            (0x0110, struct.pack("<H", 7)),
            (0x0700, struct.pack("<H", 0)),
            (0x0800, struct.pack("<H", 0)),
            (0x1000, instance.encode() + b"\0" * (len(instance) % 2)),
        ]
        for element, value in elements:
            command += struct.pack("<HHL", 0, element, len(value)) + value
        command = struct.pack("<HHLL", 0, 0, 4, len(command)) + command
        self.fragment(3, command)

    def fragment(self, control: int, data: bytes) -> None:
        """Send a fragment: control 3 ends a command, 0 is a part of a data set, 2 its end."""
        value = struct.pack(">LBB", len(data) + 2, 1, control) + data
        self.socket.sendall(struct.pack(">BBL", 4, 0, len(value)) + value)

    def status(self) -> int | None:
        """The status of the next response; None when the association ends instead."""
        pdu = self.read_pdu()
        if pdu[:1] != b"\x04":
            return None
        at = pdu.index(struct.pack("<HHL", 0, 0x0900, 2))
        return int(struct.unpack_from("<H", pdu, at + 8)[0])

    def close(self) -> None:
        """Go away without a word."""
        self.socket.close()

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part = self.socket.recv(size - len(data))
            except ConnectionError:
                return data
            if not part:
                return data
            data += part
        return data


def _associate(sop_class: str, syntax: str, calling: str = "RAW", called: str = "LUNGLINE") -> bytes:
    def item(kind: int, value: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(value)) + value

    context = struct.pack(">BBBB", 1, 0, 0, 0) + item(0x30, sop_class.encode()) + item(0x40, syntax.encode())
    user = item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3") + item(0x55, b"RAW")
    variable = item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, context) + item(0x50, user)
    fixed = struct.pack(">HH", 1, 0) + called.ljust(16).encode() + calling.ljust(16).encode() + b"\0" * 32
    return struct.pack(">BBL", 1, 0, len(fixed + variable)) + fixed + variable
