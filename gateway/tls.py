"""TLS of the gateway, from files that may be renewed while it runs."""

import logging
import ssl
import threading
from pathlib import Path

from lungline.errors import SettingsError
from lungline.settings_blocks import GatewaySettings

log = logging.getLogger("lungline.gateway")


class TlsFiles:
    """Certificate, key and authority as the settings name them; threads may share it."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._seen = self._state()
        self._context = server_context(settings)

    def context(self) -> ssl.SSLContext | None:
        """The context of the next connection: that of the files, or the former one while they cannot be used."""
        with self._lock:
            state = self._state()
            if state != self._seen:
                self._seen = state
                self._renew()
            return self._context

    def client_context(self) -> ssl.SSLContext | None:
        """For associations that the gateway asks for: with the same certificate and authority, if it listens with TLS.

        Raises SettingsError.
        """
        return client_context(self._settings) if self.context() else None

    def _renew(self) -> None:
        try:
            self._context = server_context(self._settings)
            log.info("The TLS files have changed and are used from now on.")
        except SettingsError as exc:
            log.warning("%s The former ones are used.", exc)

    def _state(self) -> list[tuple[int, int] | None]:
        ours = self._settings
        return [_stamp(path) for path in (ours.tls_certificate, ours.tls_key, ours.tls_ca) if path]


def server_context(settings: GatewaySettings) -> ssl.SSLContext | None:
    """TLS as the settings say: with a CA, clients must have a certificate too. Raises SettingsError."""
    if not settings.tls_certificate or not settings.tls_key:
        if settings.tls_certificate or settings.tls_key or settings.tls_ca:
            raise SettingsError("TLS of the gateway needs both gateway.tls_certificate and gateway.tls_key.")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
        if settings.tls_ca:
            context.load_verify_locations(settings.tls_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as exc:
        raise SettingsError(
            f"The TLS files of the gateway cannot be used: {exc.strerror or type(exc).__name__}."
        ) from exc
    return context


def client_context(settings: GatewaySettings) -> ssl.SSLContext:
    """TLS to a sender: its certificate must be of the authority, or else of any that this machine trusts.

    Names are not compared: the authority signs none but senders, and their certificates carry AE titles, not hosts.
    Raises SettingsError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = settings.tls_ca is None
    try:
        if settings.tls_certificate:
            context.load_cert_chain(settings.tls_certificate, settings.tls_key)
        if settings.tls_ca:
            context.load_verify_locations(settings.tls_ca)
        else:
            context.load_default_certs()
    except (OSError, ssl.SSLError) as exc:
        raise SettingsError(f"The TLS files of the gateway cannot be used ({type(exc).__name__}).") from exc
    return context


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes with a file; a mounted secret is a link whose target is exchanged."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
