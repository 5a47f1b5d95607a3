"""What is recorded of a promotion, in the three parts of a predetermined change control plan.

The FDA's guidance on such plans for devices with machine learning asks for a description of modifications, a
modification protocol and an impact assessment. A promotion is written up here after the fact, from what was recorded.
"""

from datetime import datetime
from typing import Literal

from pydantic import Field

from lungline.dossier.parts import Missing, Part
from lungline.package.card import Card
from lungline.registry.history import PromotionEntry
from lungline.registry.runs import RunFacts
from lungline.results.purposes import Purpose


class Difference(Part):
    """A value of the card that is another than in the version before; None where a card lacks it."""

    topic: str
    name: str
    before: str | None
    after: str | None


class VersionSheet(Part):
    """A version: its entry in the history, and its card as it is stored now."""

    entry: PromotionEntry
    card: Card | None
    stored_sha256: str | None = Field(description="Digest of the card in the models bucket now.")

    @property
    def is_as_promoted(self) -> bool | None:
        """Whether the stored package is the promoted one; None where there is none."""
        return None if self.stored_sha256 is None else self.stored_sha256 == self.entry.facts.package


class Limit(Part):
    """A limit of the gate with the figure that it was compared with; `most` says that it is a maximum."""

    name: str
    limit: float
    most: bool
    figure: float | None
    lowered: bool = Field(description="Whether a person had made it laxer than the task asks.")

    @property
    def holds(self) -> bool | None:
        """Whether the figure keeps the limit; None where it was not recorded."""
        if self.figure is None:
            return None
        return self.figure <= self.limit if self.most else self.figure >= self.limit


class LiveFigures(Part):
    """What a version did in service: results by label, and what readers said of them.

    Labels are those of the latest `looked_at` results; `read` are results with a reader's verdict, `agreed` those
    whose verdict is the label.
    """

    results: int
    looked_at: int
    labels: dict[str, int]
    read: int
    agreed: int


class OpinionFigures(Part):
    """How the second opinions of a version differ from the answers to the same uploads; of the latest of them."""

    purpose: Purpose
    results: int
    different: int
    labels: tuple[tuple[str, str, int], ...] = Field(description="Answer, second opinion, number of uploads.")
    shift: float | None = Field(description="Mean of the opinion's risk less the answer's.")
    distance: float | None = Field(description="Mean difference of the risks either way.")


class Change(Part):
    """One promotion or rollback, written up."""

    schema_version: Literal[1] = 1
    kind: Literal["change control"] = "change control"
    subject: str
    made: datetime
    by: str
    model: str
    after: VersionSheet
    before: VersionSheet | None = Field(description="The version that it replaced; None for the first.")
    began: PromotionEntry | None
    failed: tuple[PromotionEntry, ...] = Field(default=(), description="Attempts since the promotion before.")
    until: datetime | None = Field(description="When the next promotion ended its service; None while it serves.")
    differences: tuple[Difference, ...] = ()
    limits: tuple[Limit, ...] = ()
    run: RunFacts | None = None
    opinions: tuple[OpinionFigures, ...] = Field(default=(), description="Second opinions of the version.")
    live: LiveFigures | None = None
    live_before: LiveFigures | None = None
    history: str = Field(description="Whether chain and signatures of the history hold.")
    missing: tuple[Missing, ...] = ()
