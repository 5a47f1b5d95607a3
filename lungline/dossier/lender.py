"""The sources that a pod for people does not reach itself: another pod reads Kafka and MLflow, and lends what it reads.

It holds the logins, so that an intruder in the worklist's pod has neither. No object key is sent or comes back.
"""

import http.client
import json
import urllib.error
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from lungline.dossier.parts import EventSeen
from lungline.errors import LunglineError
from lungline.network import open_url
from lungline.registry.runs import RunFacts

SECONDS = 90.0
"""Reading whole topics takes time, and only administrators ask for it."""
MOST_BYTES = 4 * 2**20

_EVENTS = TypeAdapter(tuple[EventSeen, ...])
_RUN = TypeAdapter(RunFacts | None)


@dataclass(frozen=True, slots=True)
class Lender:
    """Reads from the service at an address, such as `http://dossier-sources:8080`; every failure is a LunglineError."""

    address: str

    @classmethod
    def of(cls, address: str | None) -> Self | None:
        """The lender at an address; None where there is none."""
        return cls(address.rstrip("/")) if address else None

    def events(self, identity: str, state: str | None) -> Sequence[EventSeen]:
        """The events about an upload."""
        return self._read(f"/events/{quote(identity, safe='')}?state={quote(state or '', safe='')}", _EVENTS)

    def run(self, run_id: str) -> RunFacts | None:
        """The training run with an id; None where MLflow has none."""
        return self._read(f"/runs/{quote(run_id, safe='')}", _RUN)

    def _read(self, path: str, kind: TypeAdapter[Any]) -> Any:
        try:
            with open_url(self.address + path, SECONDS) as response:
                return kind.validate_json(response.read(MOST_BYTES))
        except urllib.error.HTTPError as exc:
            raise LunglineError(_sentence(exc)) from exc
        except (OSError, http.client.HTTPException, ValidationError) as exc:
            raise LunglineError("the service that reads Kafka and MLflow for dossiers does not answer") from exc


def _sentence(error: urllib.error.HTTPError) -> str:
    try:
        with error:
            return str(json.loads(error.read(MOST_BYTES))["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"the service that reads Kafka and MLflow for dossiers answered with status {error.code}"
