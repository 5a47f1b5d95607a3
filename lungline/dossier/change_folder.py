"""Writes a page for each promotion into a folder, and an index of them."""

from pathlib import Path

from pydantic import Field

from lungline.dossier.change_control import Promotions
from lungline.dossier.change_page import change_page, title_of
from lungline.dossier.making import Signed, content_of, key_at_hand
from lungline.dossier.page import Markup, cell, paragraph, section, standalone, table
from lungline.dossier.parts import Part
from lungline.dossier.signing import sign_document, sign_page
from lungline.home import write_private
from lungline.registry.history import PromotionEntry
from lungline.settings import Settings
from lungline.wording import count

INDEX = "index.html"


class Index(Part):
    """The promotions that a folder has pages of."""

    kind: str = "change control"
    subject: str
    entries: tuple[PromotionEntry, ...] = Field(description="The whole history, with attempts that failed.")


def write_changes(folder: Path, promotions: Promotions, settings: Settings) -> list[Path]:
    """Write the pages, and the index, which is the last; returns their paths. OSError where the folder refuses."""
    paths: list[Path] = []
    for entry in promotions.promoted:
        paths.append(folder / page_name(entry))
        write_private(paths[-1], change_of(entry, promotions, settings).page)
    paths.append(folder / INDEX)
    write_private(paths[-1], _index(promotions, settings))
    return paths


def change_of(entry: PromotionEntry, promotions: Promotions, settings: Settings) -> Signed:
    """The signed write-up of a promotion."""
    key, change = key_at_hand(settings), promotions.change(entry)
    document = sign_document(content_of(change), key)
    return Signed(document, sign_page(change_page(change, document), key))


def page_name(entry: PromotionEntry) -> str:
    """The file of a promotion's page."""
    return f"promotion-{entry.number:04}.html"


def _index(promotions: Promotions, settings: Settings) -> str:
    key, model = key_at_hand(settings), settings.model_name
    index = Index(subject=f"all promotions of {model}", entries=tuple(promotions.entries))
    document = sign_document(content_of(index), key)
    rows = [
        (entry.number, entry.at, _link(entry, model), entry.by, entry.reason, entry.outcome or Markup(""))
        for entry in promotions.entries
        if entry.act != "began"
    ]
    titles = ("Entry", "When (UTC)", "What", "By", "Reason", "Outcome")
    number = count(len(promotions.promoted), "promotion")
    blocks = [section(f"{number}", table(titles, rows)), section("Record", paragraph(promotions.verdict))]
    return sign_page(standalone(f"Promotions of {model}", "Change control", blocks, document), key)


def _link(entry: PromotionEntry, model: str) -> Markup:
    words = (
        title_of(entry, model) if entry.act == "promoted" else f"{entry.kind} of version {entry.version} {entry.act}"
    )
    text = cell(words)
    return Markup(f'<a href="{page_name(entry)}">{text}</a>') if entry.act == "promoted" else text
