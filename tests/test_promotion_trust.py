"""What a promotion believes: a history that verifies, a package of this site, a version that passed the gate."""

import json
from pathlib import Path

import pytest

from lungline.errors import PackageError, PromotionRefused, RegistryError
from lungline.package.signature import SIGNATURE, is_signed
from lungline.promotion.anchored_history import accept, examined
from lungline.promotion.promotion import promote, rollback
from lungline.registry import mlflow_client, registration, tracking
from lungline.registry.history import PromotionEntry
from lungline.registry.versions import ANCHOR, Registry
from lungline.settings import Settings
from lungline.site_key import PRIVATE, PUBLIC
from tests.test_registry import Place, promoted, register, settings

__all__ = ["settings"]
PERSON = {"by": "Ada", "reason": "better"}


def two_versions(settings: Settings, packages: tuple[Path, Path], tmp_path: Path) -> tuple[Registry, Place, list[str]]:
    """A registry in which two versions were promoted, one after the other."""
    place = Place()
    numbers = [register(settings, package, tmp_path) for package in packages]
    for number in numbers:
        promoted(settings, place, number)
    return Registry(settings), place, numbers


def rewrite(registry: Registry, number: int, **changes: object) -> None:
    """Change an entry in the bucket, as somebody may who can write there."""
    key = f"{registry.name}/history/{number:08d}.json"
    document = json.loads(registry.storage.get(registry.bucket, key).data) | changes
    registry.storage.put(registry.bucket, key, json.dumps(document).encode())


def test_a_change_verifies_the_history_and_never_anchors_a_forgery(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path
) -> None:
    """Neither promote nor rollback, also not promote of the champion, which moves anchors."""
    registry, place, (first, second) = two_versions(settings, packages, tmp_path)
    anchors = place.remembers, registry._anchor()  # noqa: SLF001 - what MLflow remembers
    rewrite(registry, 1, by="Eve")
    for version in (first, second):
        with pytest.raises(RegistryError, match="entry 1 was changed after it was written"):
            promoted(settings, place, version)
    with pytest.raises(RegistryError, match="entry 1 was changed"):
        rollback(**PERSON, settings=settings, deployment=place)
    with pytest.raises(RegistryError, match="entry 1 was changed"):
        accept(**PERSON, settings=settings, deployment=place)
    assert (place.remembers, registry._anchor()) == anchors  # noqa: SLF001
    assert place.version == second
    assert len(registry.history.entries()) == 4


def test_a_lost_anchor_needs_a_word_that_stands_in_the_history(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path
) -> None:
    registry, place, (first, _) = two_versions(settings, packages, tmp_path)
    with pytest.raises(PromotionRefused, match="there is nothing to accept"):
        accept(**PERSON, settings=settings, deployment=place)
    place.remembers = None
    mlflow_client.connect(settings).delete_registered_model_tag(settings.model_name, ANCHOR)
    for change in (lambda **given: promote(first, **given), rollback):
        with pytest.raises(PromotionRefused, match=r"in MLflow is lost.*where the champion serves is lost.*--accept"):
            change(**PERSON, settings=settings, deployment=place)
    accept(by="Grace", reason="MLflow was restored", settings=settings, deployment=place)
    last = registry.history.entries()[-1]
    assert (last.act, last.by, last.reason, last.champion) == (
        "accepted",
        "Grace",
        "MLflow was restored",
        place.version,
    )
    assert promoted(settings, place, first).changed
    assert examined(settings, place).lost == ()


def test_a_new_home_must_accept_the_keys_of_the_old_one(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path
) -> None:
    _, place, (first, _) = two_versions(settings, packages, tmp_path)
    for name in (PRIVATE, PUBLIC):
        (settings.home / name).unlink()
    with pytest.raises(PromotionRefused, match="which this site does not trust"):
        promoted(settings, place, first)
    accept(**PERSON, settings=settings, deployment=place)
    assert promoted(settings, place, first).changed


def test_a_version_that_went_round_the_gate_needs_a_word(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path
) -> None:
    registry, place = Registry(settings), Place()
    version = register(settings, packages[0], tmp_path, gate=False)
    with pytest.raises(
        PromotionRefused, match=f"Version {version} has no verdict of the gate. `--without-gate REASON`"
    ):
        promoted(settings, place)
    assert registry.history.entries() == []
    promote(version, **PERSON, settings=settings, deployment=place, without_gate="the old one is down")
    assert registry.history.entries()[-1].facts.without_gate == "the old one is down"


def test_lowered_limits_of_the_gate_stand_in_the_history(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path
) -> None:
    from lungline.evaluation.gate import lowered_limits
    from lungline.settings import GateSettings
    from tests.test_registry import settled_run

    lowered = lowered_limits(GateSettings(auc=0, ece=0.5, accuracy=0.99))
    assert lowered == ["auc 0 instead of 0.95", "ece 0.5 instead of 0.08"]
    registry, run = Registry(settings), settled_run(settings, tmp_path / "record")
    tracking.note(settings, run, tags={tracking.LOWERED: "; ".join(lowered)})
    registration.register(registry, packages[0], run_id=run, pipeline_run="pipe/7", metrics={})
    promoted(settings, Place())
    gate = registry.history.entries()[-1].facts.gate
    assert gate
    assert gate.lowered == tuple(lowered)


def test_a_package_whose_signature_was_taken_away_is_not_promoted(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path
) -> None:
    registry, place = Registry(settings), Place()
    version = register(settings, packages[0], tmp_path)
    assert is_signed(registry.fetch(version, tmp_path / "fetched").folder)
    registry.storage.delete(registry.bucket, f"{registry.name}/{version}/{SIGNATURE}")
    with pytest.raises(PackageError, match="was signed, and its signature is gone"):
        promoted(settings, place)
    assert place.deployed == []


def test_a_champion_of_an_earlier_release_is_signed_when_promoted_again(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path
) -> None:
    """Its entries and its package have no signature, and its home no anchor; it may be rolled back to as well."""
    registry = Registry(settings)
    version = register(settings, packages[0], tmp_path)
    registry.storage.delete(registry.bucket, f"{registry.name}/{version}/{SIGNATURE}")
    mlflow_client.connect(settings).delete_model_version_tag(settings.model_name, version, "signed_by")
    facts = {"package": registry.noted(version)["package_sha256"]}
    values = {"kind": "promotion", "version": version, "champion": version, "facts": facts, **PERSON}
    old: PromotionEntry = registry.history.append(None, act="promoted", **values)
    registry.follow(old)
    place = Place(version=version)
    assert "The promotion history is not signed yet" in examined(settings, place).notices[0]
    done = promoted(settings, place, version)
    assert not done.changed
    assert "its package is signed now" in done.sentence
    assert is_signed(registry.fetch(version, tmp_path / "fetched").folder)
    assert registry.history.entries()[-1].facts.signed_by
    assert place.release
    assert place.release.signed


def test_promote_and_rollback_mend_a_damaged_package(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path
) -> None:
    """Also of the only version, which there is no other to go back from."""
    place = Place()
    version = register(settings, packages[0], tmp_path)
    promoted(settings, place)
    place.deployed.clear()
    place.damaged = True
    assert "was damaged and replaced" in rollback(**PERSON, settings=settings, deployment=place).sentence
    promoted(settings, place, version)
    assert place.deployed == [version, version]
    place.damaged = False
    with pytest.raises(PromotionRefused, match="no earlier champion"):
        rollback(**PERSON, settings=settings, deployment=place)
