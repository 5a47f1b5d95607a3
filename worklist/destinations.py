"""Destinations: the systems that results are delivered to, and which results each of them gets.

    [[destination]]
    name = "pacs"
    kind = "c-store"                  # DICOM C-STORE; or stow (DICOMweb), fhir, hl7
    host = "pacs.example.org"
    port = 104
    called_title = "PACS"             # its AE title; ours is calling_title, by default LUNGLINE
    send = ["report", "capture"]      # Structured Report and Secondary Capture; by default both
    tls = {ca = "/etc/lungline/pacs-ca.pem", certificate = "...", key = "..."}
    task = ["pneumonia"]              # any of these; empty: all
    label = ["Pneumonia", "Unsure"]   # any of these; empty: all
    urgency = ["urgent"]              # of a finding that is there: urgent, soon or routine; empty: any
    risk = 0.5                        # at least
    prefix = "emergency/"             # of the object's key
    after = "reading"                 # result: at once, the default; reading: when a reader has given a verdict;
                                      # confirmation: when a reader has confirmed the model's label
    updates = true                    # fhir, hl7: each later verdict follows, as a final or corrected report
    priority = true                   # fhir, hl7: say how soon the X-ray should be read; by default false

    [[destination]]
    name = "archive"
    kind = "stow"
    url = "https://pacs.example.org/dicom-web/studies"
    token = {file = "/run/secrets/archive"}      # or {env = "ARCHIVE_TOKEN"}; or user and password

Where X-rays go is decided in this file alone, which only its owner writes: nothing that arrives can name an address.
Passwords and tokens are named by reference and read when they are used.
"""

import os
import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from lungline.errors import SettingsError
from lungline.network import is_local
from lungline.rule_file import RuleFile, suggestion
from lungline.task.terms import TaskTerms
from worklist.rules import ResultRule

After = Literal["result", "reading", "confirmation"]
Instance = Literal["report", "capture"]
_INSTANCES: tuple[Instance, ...] = ("report", "capture")
_TITLE = re.compile(r"[\x21-\x5b\x5d-\x7e](?:[\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.:-]{0,252}[A-Za-z0-9])?")


def _title(value: object) -> object:
    if not isinstance(value, str) or not _TITLE.fullmatch(value):
        raise ValueError("expected an AE title: up to 16 letters, digits and signs, without a backslash")
    return value


def _host(value: object) -> object:
    if not isinstance(value, str) or not _HOST.fullmatch(value):
        raise ValueError("expected the name or the address of a host, without a scheme and a port")
    return value


Title = Annotated[str, BeforeValidator(_title)]
Host = Annotated[str, BeforeValidator(_host)]
Port = Annotated[int, Field(ge=1, le=65535)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Secret(_Table):
    """Where a password or a token is: in a variable of the environment, or in a file."""

    env: str | None = None
    file: Path | None = None

    @model_validator(mode="after")
    def _check_whole(self) -> "Secret":
        if (self.env is None) == (self.file is None):
            raise ValueError('expected {env = "NAME"} or {file = "/path"}')
        return self

    def read(self) -> str:
        """The secret. Raises SettingsError, which names the place."""
        if self.env is not None:
            value = os.environ.get(self.env, "")
            place = f"variable {self.env}"
        else:
            try:
                value = (self.file or Path()).read_text().strip()
            except (OSError, UnicodeDecodeError) as exc:
                raise SettingsError(f"The secret in {self.file} cannot be read ({type(exc).__name__}).") from None
            place = f"file {self.file}"
        if not value or not value.isprintable():
            raise SettingsError(f"The {place} of a destination holds no secret.")
        return value


class Tls(_Table):
    """TLS: the authority that signs the destination, and our own certificate where it wants to see one."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: Host | None = None
    """The name in its certificate, where that is not its host."""

    @model_validator(mode="after")
    def _check_whole(self) -> "Tls":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together")
        return self

    def context(self) -> ssl.SSLContext:
        """A client's context that verifies the server. Raises SettingsError."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as exc:
            raise SettingsError(f"A certificate of a destination cannot be used ({type(exc).__name__}).") from None
        return context


class Destination(ResultRule):
    """What all destinations have."""

    after: After = "result"
    tls: Tls | None = None

    @property
    def follows_readings(self) -> bool:
        """Whether it gets each later verdict of a reader about a result that it has had."""
        return False

    @field_validator("after", mode="before")
    @classmethod
    def _check_after(cls, value: object) -> object:
        if value not in ("result", "reading", "confirmation"):
            raise ValueError(suggestion(value, ("result", "reading", "confirmation")))
        return value

    @field_validator("label", mode="after")
    @classmethod
    def _check_deliverable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "Refused" in value:
            raise ValueError("a refused image has no result that could be delivered")
        return value


class _Instances(BaseModel):
    send: tuple[Instance, ...] = _INSTANCES

    @field_validator("send", mode="before")
    @classmethod
    def _check_send(cls, value: object) -> object:
        if not isinstance(value, list) or not value or not set(value) <= set(_INSTANCES):
            raise ValueError('expected a list of "report" and "capture"')
        return tuple(dict.fromkeys(value))


class DicomDestination(Destination, _Instances):
    """A PACS that takes instances by C-STORE."""

    kind: Literal["c-store"] = "c-store"
    host: Host
    port: Port = 104
    called_title: Title
    calling_title: Title = "LUNGLINE"


class _Web(Destination):
    url: str = Field(repr=False)
    user: str | None = Field(default=None, repr=False)
    password: Secret | None = None
    token: Secret | None = None

    @field_validator("url", mode="after")
    @classmethod
    def _check_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected an address such as https://pacs.example.org/dicom-web/studies")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("an address holds neither user, password nor query; see user, password and token")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _check_whole(self) -> "_Web":
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password belong together")
        if self.user is not None and self.token is not None:
            raise ValueError("token and user exclude each other")
        if (self.user or self.token) and urlsplit(self.url).scheme == "http" and not is_local(self.url):
            raise ValueError("url is not encrypted, so a password or a token would be readable; use https")
        return self


class StowDestination(_Web, _Instances):
    """An archive that takes instances by STOW-RS; `url` is that of its studies."""

    kind: Literal["stow"] = "stow"


class _Findings(Destination):
    """What says of a result what its reader says."""

    updates: bool = True
    """Whether a later verdict is sent too."""
    priority: bool = False
    """Whether a result that nobody has read states how soon it should be."""

    @property
    def follows_readings(self) -> bool:
        return self.updates


class FhirDestination(_Web, _Findings):
    """A FHIR R4 server; `url` is its base. `patient_system` is the namespace of the patient IDs."""

    kind: Literal["fhir"] = "fhir"
    patient_system: str | None = None


class Hl7Destination(_Findings):
    """An interface engine that takes HL7 v2 messages over MLLP."""

    kind: Literal["hl7"] = "hl7"
    host: Host
    port: Port = 2575
    application: str = Field(default="", max_length=60)
    facility: str = Field(default="", max_length=60)


AnyDestination = DicomDestination | StowDestination | FhirDestination | Hl7Destination
KINDS: dict[str, type[AnyDestination]] = {
    "c-store": DicomDestination, "stow": StowDestination, "fhir": FhirDestination, "hl7": Hl7Destination,
}  # fmt: skip
# What people write instead, where the letters give no hint.
_SYNONYMS = {
    **dict.fromkeys(("threshold", "probability", "score"), "risk"),
    **dict.fromkeys(("aet", "ae_title", "called_aet"), "called_title"),
    **dict.fromkeys(("uri", "address", "endpoint"), "url"),
    **dict.fromkeys(("folder", "key"), "prefix"),
    **dict.fromkeys(("when", "reading"), "after"),
}


def load_destinations(path: Path | None, own: TaskTerms | None = None) -> tuple[AnyDestination, ...]:
    """The destinations of a file; none without one. `own` is the worklist's own task, whose labels they may name.

    Raises SettingsError with a line, but never a value.
    """
    if path is None:
        return ()
    file = RuleFile.read(path, "destinations", "destination")
    fields = {field for kind in KINDS.values() for field in kind.model_fields}
    tables = file.tables(sorted(fields), "so nothing would be delivered")
    destinations = tuple(_destination(file, number, table, own) for number, table in enumerate(tables))
    file.require_names([destination.name for destination in destinations])
    return destinations


def _destination(file: RuleFile, number: int, table: dict[str, Any], own: TaskTerms | None) -> AnyDestination:
    kind = KINDS.get(str(table.get("kind")))
    if kind is None:
        names: Sequence[str] = tuple(KINDS)
        if "kind" not in table:
            raise file.refusal(file.line(number), f"the destination has no kind: expected {', '.join(names)}")
        raise file.refusal(file.line(number, "kind"), f"kind: {suggestion(table['kind'], names)}")
    return file.model(kind, number, table, _SYNONYMS, whole="name", context=own)
