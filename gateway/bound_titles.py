"""AE titles that are bound to client certificates: a title is a name that anybody can say, a certificate is a proof.

Which certificates there are is for the authority to say; this says which of them may call itself what.
"""

import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from pynetdicom.acse import ACSE

from gateway import metrics
from lungline.errors import SettingsError
from lungline.settings_blocks import GatewaySettings

if TYPE_CHECKING:
    from pynetdicom.association import Association

EVERY = "*"
# PS3.8 table 9-21: permanent, by the service user, the calling AE title is not recognised.
_NOT_RECOGNISED = (1, 1, 3)

log = logging.getLogger("lungline.gateway")


@dataclass(frozen=True, slots=True)
class BoundTitles:
    """The names of certificates that each title needs; any other title needs its own name, or nothing."""

    names: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    is_every: bool = False

    @classmethod
    def of(cls, settings: GatewaySettings) -> "BoundTitles":
        """As the settings say. Raises SettingsError for a text that is none, or when nobody asks for certificates."""
        listed = [text.strip() for text in settings.sender_certificates.split(",") if text.strip()]
        if listed and not settings.tls_ca:
            raise SettingsError("gateway.sender_certificates needs gateway.tls_ca: without it no sender shows one.")
        names: dict[str, frozenset[str]] = {}
        for text in (text for text in listed if text != EVERY):
            title, _, name = (part.strip() for part in text.partition("="))
            if not 1 <= len(title) <= 16 or not name:
                raise SettingsError(f"gateway.sender_certificates: expected AE title=name or *, not {text!r}.")
            names[title] = names.get(title, frozenset()) | {name}
        return cls(names, EVERY in listed)

    def admits(self, title: str, certificate: frozenset[str]) -> bool:
        """Whether a sender may call itself by a title, whose certificate has these names."""
        needed = self.names.get(title, frozenset((title,)) if self.is_every else None)
        return needed is None or bool(needed & certificate)


class BoundAcse(ACSE):
    """Negotiates associations; rejects titles that are bound to another certificate than that of their connection."""

    def __init__(self, association: "Association", titles: BoundTitles) -> None:
        super().__init__(association)
        self._titles = titles

    def _negotiate_as_acceptor(self) -> None:
        title = str(cast("Any", self.requestor.primitive).calling_ae_title).strip()
        connection = cast("Any", self.assoc.dul.socket).socket
        if self._titles.admits(title, _names(connection)):
            super()._negotiate_as_acceptor()
            return
        self.requestor.ae_title = title
        self.send_reject(*_NOT_RECOGNISED)
        metrics.count_association("unproved")
        # Neither title is written down: a sender may call itself like a patient.
        log.warning("An association was rejected: its AE title is bound to another certificate than its own.")
        self.assoc.kill()


def _names(connection: Any) -> frozenset[str]:
    """The common name and the other host names of the certificate that a sender has shown; none without one."""
    shown: dict[str, Any] = (connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None) or {}
    subject = [value for part in shown.get("subject", ()) for key, value in part if key == "commonName"]
    others = [value for kind, value in shown.get("subjectAltName", ()) if kind == "DNS"]
    return frozenset((*subject, *others))
