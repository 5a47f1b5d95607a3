"""Write-ups of promotions: what changed, how it was verified, what it may affect."""

import re
from pathlib import Path

import pytest

from lungline.dossier.change_control import Promotions
from lungline.dossier.change_folder import change_of, write_changes
from lungline.dossier.differences import differences
from lungline.dossier.making import Signed
from lungline.dossier.signing import verify
from lungline.package.card import CARD
from lungline.site_key import trusted_keys
from lungline.storage.s3 import Storage
from tests.support.dossier_case import RUN, Case, build, card_of, text_of


@pytest.fixture(scope="module")
def case(store: Storage, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return build(tmp_path_factory.mktemp("home"), store)


def write_up(case: Case, at: int) -> Signed:
    promotions = Promotions(case.sources(runs=lambda _: RUN), by="ada")
    return change_of(promotions.promoted[at], promotions, case.settings)


def test_a_page_has_the_three_parts_of_a_plan(case: Case) -> None:
    text = text_of(write_up(case, 1).page)
    one, two, three = (text.index(part) for part in ("1 · Desc", "2 · Modification protocol", "3 · Impact assessment"))
    assert one < two < three
    modifications, protocol, impact = text[one:two], text[two:three], text[three:]
    assert re.search(r"thresholds\.high 0\.68 0\.66", modifications)
    assert "data.digest " + "1" * 64 + " " + "2" * 64 in modifications
    assert "data.name" not in modifications, "what is the same in both is no modification"
    assert "passed: All 11 rules passed." in protocol
    assert "auc 0.9700 at least 0.9 (lowered) yes" in protocol
    assert "shadow 1 100.0% 0.4100 -0.4100 Pneumonia → Unsure 1" in protocol
    assert "finished, from 2026-03-01 08:00:00 UTC" in protocol
    assert "sensitivity 0.9200 0.9400 +0.0200" in impact
    assert "Findings missed 16 12 -4" in impact
    assert "Version 1 1 Pneumonia 100% (of 1) none was read yet" in impact
    assert "Version 2 1 Pneumonia 100% (of 1) 100% of 1 read" in impact
    assert "the package of version 1 is stored as it was promoted" in impact


def test_the_first_promotion_lists_everything_as_new(case: Case) -> None:
    text = text_of(write_up(case, 0).page)
    assert "It was the first version in service" in text
    assert "nothing: it was the first in service" in text
    assert "Way back none: there was no version before" in text


def test_what_is_not_recorded_is_said(tmp_path: Path, store: Storage) -> None:
    case = build(tmp_path, store)
    for version in "12":
        store.delete(case.settings.models_bucket, f"{case.settings.model_name}/{version}/{CARD}")
    promotions = Promotions(case.sources(), by="ada")
    made = change_of(promotions.promoted[-1], promotions, case.settings)
    text = text_of(made.page)
    assert "Not found: card of version 2 (the models bucket has no such package)." in text
    assert "what changed cannot be listed" in text
    assert "Stored package not recorded" in text
    assert "the package of the version before is not stored any longer" in text


def test_a_changed_package_is_noticed(tmp_path: Path, store: Storage) -> None:
    case = build(tmp_path, store)
    key = f"{case.settings.model_name}/2/{CARD}"
    store.put(case.settings.models_bucket, key, card_of("2", seed=5).model_dump_json().encode())
    assert "its card is another than the promoted one" in text_of(write_up(case, -1).page)


def test_the_cards_are_compared_value_by_value() -> None:
    rows = {row.name: (row.before, row.after) for row in differences(card_of("1"), card_of("1", seed=5))}
    assert rows == {"seed": (None, "5")}


def test_every_promotion_has_a_signed_page(case: Case, tmp_path: Path) -> None:
    promotions = Promotions(case.sources(), by="ada")
    *pages, index = write_changes(tmp_path / "pages", promotions, case.settings)
    assert len(pages) == len(promotions.promoted) >= 2
    for path in (*pages, index):
        assert path.stat().st_mode & 0o077 == 0
        assert verify(path.read_bytes(), trusted_keys(case.settings)).content["kind"] == "change control"
        assert path is index or f'href="{path.name}"' in index.read_text()
