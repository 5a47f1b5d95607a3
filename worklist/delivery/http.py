"""HTTP requests to destinations, bounded in time and in the size of the answer; redirects are not followed."""

import base64
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from lungline.network import proxy_for
from worklist.delivery.channel import Channel, Content, Lost
from worklist.delivery.refusals import NotTaken, Rejected
from worklist.destinations import FhirDestination, StowDestination, Tls

if TYPE_CHECKING:
    import httpx2

WebDestination = TypeVar("WebDestination", StowDestination, FhirDestination)
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
MAX_ANSWER = 2**20
# Statuses of a request that can never succeed as it is; all others may be put right at the destination.
_FOR_GOOD = frozenset((400, 405, 406, 410, 411, 412, 413, 414, 415, 422))


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of a destination."""

    status: int
    body: bytes


class HttpChannel(Channel[Content, "httpx2.Client"], Generic[Content, WebDestination]):
    """Posts results to a destination's address over one client, which keeps its connection."""

    def __init__(self, destination: WebDestination) -> None:
        super().__init__()
        self._destination = destination

    def _open(self) -> "httpx2.Client":
        import httpx2

        ours = self._destination
        timeout = httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        return httpx2.Client(verify=_context(ours.tls), timeout=timeout, trust_env=False, proxy=proxy_for(ours.url))

    def _close(self, connection: "httpx2.Client") -> None:
        connection.close()

    def _post(self, client: "httpx2.Client", body: bytes, headers: Mapping[str, str]) -> Answer:
        """Post. Raises NotTaken when nobody answers, SettingsError for the destination's secrets."""
        import httpx2

        ended = (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError)
        try:
            return _post(client, self._destination.url, body, {**headers, **_credentials(self._destination)})
        except httpx2.HTTPError as exc:
            kind = Lost if isinstance(exc, ended) else NotTaken
            raise kind(f"The destination did not answer ({type(exc).__name__}).") from None


def require_taken(answer: Answer) -> None:
    """Raise unless a status says success."""
    if 200 <= answer.status < 300:
        return
    message = f"The destination answered with status {answer.status}."
    raise Rejected(message) if answer.status in _FOR_GOOD else NotTaken(message)


def _post(client: "httpx2.Client", url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    deadline = time.monotonic() + ANSWER_SECONDS
    received = b""
    with client.stream("POST", url, content=body, headers=dict(headers)) as response:
        for chunk in response.iter_bytes():
            received += chunk
            if len(received) > MAX_ANSWER or time.monotonic() > deadline:
                raise NotTaken("The destination's answer is too long or too slow.")
        return Answer(response.status_code, received)


def _context(tls: Tls | None) -> ssl.SSLContext:
    return (tls or Tls()).context()


def _credentials(destination: StowDestination | FhirDestination) -> dict[str, str]:
    if destination.token is not None:
        return {"authorization": f"Bearer {destination.token.read()}"}
    if destination.user is not None and destination.password is not None:
        pair = f"{destination.user}:{destination.password.read()}"
        return {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}
