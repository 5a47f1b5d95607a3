"""Where the facts of a dossier come from: the core reads the store, others lend what only they can reach."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lungline.dossier.parts import EventSeen, WorklistPart
from lungline.imaging.image import Limits
from lungline.registry.runs import RunFacts
from lungline.settings import Settings
from lungline.storage.s3 import Storage

Events = Callable[[str, str | None], Sequence[EventSeen]]
"""The events about an upload, given by its identity, and by the state of its object where a record has it."""
Runs = Callable[[str], RunFacts | None]
"""The training run with an id."""
Worklists = Callable[[str], WorklistPart]
"""What a worklist holds of the upload with an identity."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What a dossier is made from; a source that is None cannot be reached from here.

    Each may raise LunglineError: the dossier then says why the part is missing.
    """

    settings: Settings
    storage: Storage
    events: Events | None = None
    runs: Runs | None = None
    worklist: Worklists | None = None
    limits: Limits = field(default_factory=Limits)
