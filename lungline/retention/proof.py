"""The proof of an erasure: what there was, what is left, who wanted it and why; it names no patient and no key.

Uploads and patient stand in it as keyed hashes: whoever has the secret of the research bucket can tell whether an
upload was erased, and nobody can tell which from the proof alone. It is signed as the promotion history is.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from lungline.deidentification.pseudonyms import Pseudonyms
from lungline.errors import LunglineError
from lungline.retention import tombstones
from lungline.retention.plan import Plan
from lungline.retention.rules import Kind
from lungline.settings import Settings
from lungline.site_key import PublicKey, site_key

PREFIX = "erasures/"
"""In the results bucket."""


class Remainder(BaseModel):
    """What an erasure does not reach, and when it goes; `until` is None where no date can be given."""

    model_config = ConfigDict(frozen=True)

    where: str
    until: AwareDatetime | None = None
    why: str


class Proof(BaseModel):
    """The proof; `before` and `after` are how much there was, and is, of what."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1] = 1
    id: str
    began: AwareDatetime
    ended: AwareDatetime
    by: str
    reason: str
    buckets: tuple[Kind, ...]
    uploads: tuple[str, ...]
    patient: str | None = None
    before: dict[str, int]
    after: dict[str, int]
    remains: tuple[Remainder, ...] = ()
    key: str = ""
    signature: str = ""

    @property
    def place(self) -> str:
        """Where it lies in the results bucket."""
        return f"{PREFIX}{self.id}.json"

    def text(self) -> str:
        """As it is stored."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def make_proof(plan: Plan, after: dict[str, int], remains: Sequence[Remainder], settings: Settings) -> Proof:
    """The signed proof of an erasure. Raises RegistryError where there is no key to sign with."""
    key = site_key(settings)
    patient = plan.patient_id
    proof = Proof(
        id=plan.id,
        began=plan.at,
        ended=datetime.now(UTC),
        by=plan.by,
        reason=plan.reason,
        buckets=plan.kinds,
        uploads=tuple(sorted(tombstones.digest(each.identity, settings) for each in plan.subjects)),
        patient=patient and Pseudonyms.from_settings(settings).of("erased patient", patient),
        before=plan.before,
        after=after,
        remains=tuple(remains),
        key=key.public.id,
    )
    return proof.model_copy(update={"signature": key.sign(_signed(proof.model_dump(mode="json")))})


def verify(path: Path, keys: Sequence[PublicKey]) -> Proof:
    """The proof in a file, once one of these keys is proven to have signed it. Raises LunglineError."""
    try:
        document = json.loads(path.read_bytes())
        proof = Proof.model_validate(document)
    except OSError as exc:
        raise LunglineError(f"The proof {path} cannot be read: {exc.strerror}.") from exc
    except (ValueError, ValidationError, RecursionError):
        raise LunglineError(f"The file {path} is no proof of an erasure.") from None
    key = next((each for each in keys if each.id == proof.key), None)
    if key is None:
        raise LunglineError(f"The proof is signed with key {proof.key[:12] or '(none)'}, which is not trusted here.")
    if not key.verifies(_signed(document), proof.signature):
        raise LunglineError("The proof was changed after it was signed.")
    return proof


def _signed(document: dict[str, Any]) -> bytes:
    content = {name: value for name, value in document.items() if name != "signature"}
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
