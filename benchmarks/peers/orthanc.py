"""A real Orthanc on 127.0.0.1, the PACS of tests and benchmarks: with its DICOMweb plugin and, if wanted, routing."""

import json
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.servers import free_ports

PROGRAM = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
_DICOMWEB = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
# Sends what arrives to a modality, except what that modality itself has sent.
_ROUTING = """
function OnStoredInstance(instance, tags, metadata, origin)
  if origin['RequestOrigin'] ~= 'Lua' and origin['RemoteAet'] ~= '{title}' then SendToModality(instance, '{name}') end
end
"""


@dataclass(frozen=True)
class Modality:
    """A system that Orthanc sends to."""

    title: str
    port: int
    host: str = "127.0.0.1"


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc."""

    title: str
    dicom_port: int
    http_port: int
    password: str = field(repr=False)
    log: Path

    @property
    def http(self) -> httpx.Client:
        """A client of its REST API."""
        return httpx.Client(base_url=f"http://127.0.0.1:{self.http_port}", auth=("tests", self.password), timeout=30)

    @property
    def dicomweb(self) -> str:
        """The address of its STOW-RS, QIDO-RS and WADO-RS services; user `tests`, with `password`."""
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    def instances(self) -> list[dict[str, Any]]:
        """The main tags of all instances, by name, with `SOPClassUID` and Orthanc's own `ID`."""
        with self.http as http:
            instances = http.get("/instances", params={"expand": "true"}).json()
            classes = {each["ID"]: http.get(f"/instances/{each['ID']}/simplified-tags").json() for each in instances}
        return [each["MainDicomTags"] | classes[each["ID"]] | {"ID": each["ID"]} for each in instances]

    def file(self, identifier: str) -> bytes:
        """An instance as a DICOM file."""
        with self.http as http:
            return http.get(f"/instances/{identifier}/file").content

    def add(self, data: bytes) -> str:
        """Store a DICOM file over REST, as a person does in its page; returns its ID."""
        with self.http as http:
            response = http.post("/instances", content=data)
        assert response.status_code == 200, response.text
        return str(response.json()["ID"])

    def send(self, identifier: str, modality: str) -> dict[str, Any]:
        """Send an instance to a modality by C-STORE; returns Orthanc's job report, with `FailedInstancesCount`."""
        with self.http as http:
            query = {"Resources": [identifier], "Synchronous": True, "StorageCommitment": False}
            response = http.post(f"/modalities/{modality}/store", json=query, timeout=60)
        return dict(response.json()) | {"HttpStatus": response.status_code}


@contextmanager
def running_orthanc(
    folder: Path,
    modalities: Mapping[str, Modality] | None = None,
    *,
    title: str = "ORTHANC",
    route_to: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Iterator[Orthanc]:
    """An Orthanc with an empty archive, until the context ends. Raises FileNotFoundError where it is not installed.

    It knows `modalities` by name, and sends them what arrives when one of them is named in `route_to`. `options` are
    more of its configuration, such as `DicomTlsEnabled`.
    """
    if PROGRAM is None:
        raise FileNotFoundError("Orthanc is not installed (apt-get install orthanc orthanc-dicomweb)")
    folder.mkdir(parents=True, exist_ok=True)
    dicom_port, http_port = free_ports(2)
    server = Orthanc(title, dicom_port, http_port, secrets.token_urlsafe(16), folder / "orthanc.log")
    (folder / "orthanc.json").write_text(
        json.dumps(_configuration(folder, server, modalities or {}, route_to) | dict(options or {}))
    )
    with server.log.open("wb") as log:
        process = subprocess.Popen([PROGRAM, str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder)
    try:
        _wait_until_ready(server, process)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _configuration(
    folder: Path, server: Orthanc, modalities: Mapping[str, Modality], route_to: str | None
) -> dict[str, Any]:
    configuration: dict[str, Any] = {
        "Name": "tests",
        "StorageDirectory": str(folder / "archive"),
        "IndexDirectory": str(folder / "archive"),
        "HttpPort": server.http_port,
        "DicomPort": server.dicom_port,
        "DicomAet": server.title,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowStore": True,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"tests": server.password},
        "DicomModalities": {name: [each.title, each.host, each.port] for name, each in modalities.items()},
        "Plugins": [_DICOMWEB] if Path(_DICOMWEB).exists() else [],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "OverwriteInstances": False,
        "StableAge": 1,
    }
    if route_to:
        script = folder / "routing.lua"
        script.write_text(_ROUTING.format(name=route_to, title=modalities[route_to].title))
        configuration["LuaScripts"] = [str(script)]
    return configuration


def _wait_until_ready(server: Orthanc, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 30
    while True:
        assert process.poll() is None, server.log.read_text(errors="replace")[-2000:]
        try:
            with server.http as http:
                if http.get("/system").status_code == 200:
                    return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, server.log.read_text(errors="replace")[-2000:]
        time.sleep(0.05)
