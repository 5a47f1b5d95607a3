"""Makes the signed dossier of an upload: the JSON document, and the page that shows it."""

import json
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from lungline.dossier.collecting import collect
from lungline.dossier.dossier_page import dossier_page
from lungline.dossier.signing import sign_document, sign_page
from lungline.dossier.sources import Sources
from lungline.errors import RegistryError
from lungline.settings import Settings
from lungline.site_key import SiteKey, site_key


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed document and its page."""

    document: dict[str, Any] = field(repr=False)
    page: str = field(repr=False)


def make_dossier(identity: str, sources: Sources, *, by: str, patient: bool = True) -> Signed:
    """The dossier of an upload; raises what `collect` does."""
    dossier, pictures = collect(identity, sources, by=by, patient=patient)
    key = key_at_hand(sources.settings)
    document = sign_document(content_of(dossier), key)
    return Signed(document, sign_page(dossier_page(dossier, pictures, document), key))


def content_of(value: BaseModel) -> dict[str, Any]:
    """The JSON value of a model; numbers that JSON lacks are null."""
    return json.loads(value.model_dump_json())


def key_at_hand(settings: Settings) -> SiteKey | None:
    """The site's private key; None where this process has none, as in the pod of a worklist."""
    try:
        return site_key(settings)
    except RegistryError:
        return None
