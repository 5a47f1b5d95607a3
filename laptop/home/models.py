"""What a home keeps of models: which one serves, what it must be, and what it remembers of the promotion history."""

import logging
from collections.abc import Iterator
from pathlib import Path

from laptop.home.documents import anchors, expectation, fault_of
from lungline.home import Home, ModelFolder
from lungline.service_state import number_of, read_state

_log = logging.getLogger(__name__)

_AGAIN = "`lungline models` lists them, and `lungline promote VERSION --by NAME --reason TEXT` serves one again"


def check_models(home: Home) -> None:
    """Say what is lost, and what to do; uploads wait for a model, so that the stack starts all the same."""
    _check_champion(home)
    _check_anchors(home)
    for folder in home.further_models():
        if not folder.champion.is_symlink():  # a file in its place
            folder.champion.unlink()
            _log.warning("%s was damaged: %s, with LUNGLINE_TASK as that task.", folder.champion, _AGAIN)
        elif not folder.champion.exists() and not _is_expected(folder, folder.champion.resolve().name):
            _log.warning("%s leads to no package: %s, with LUNGLINE_TASK as that task.", folder.champion, _AGAIN)
    for path in sorted(_expectations(home)):
        if reason := fault_of(path, expectation):
            _log.warning(
                "%s is damaged (%s): version %s serves again after `lungline promote %s --by NAME --reason TEXT`.",
                *(path, reason, path.stem, path.stem),
            )


def champion_fault(home: Home) -> str | None:
    """Why the champion will not serve, whatever one waits for; None when nothing is known against it."""
    expected = home.file("predictor", "expected", f"{home.champion.resolve().name}.json")
    return fault_of(expected, expectation) if expected.exists() else None


def _check_champion(home: Home) -> None:
    link = home.champion
    if link.is_symlink():
        if link.exists() or _is_expected(
            home.first_model, link.readlink().name
        ):  # a package that is gone is fetched again
            return
        _log.warning("%s leads to no package: %s.", link, _AGAIN)
        return
    if link.exists():  # a file in its place
        link.unlink()
        _log.warning("%s was damaged: %s.", link, _AGAIN)
    elif any(_expectations(home)) or number_of(read_state(home, "bridge"), "delivered"):
        _log.warning("%s is missing, and no model serves: %s.", link, _AGAIN)


def _is_expected(folder: ModelFolder, version: str) -> bool:
    return (folder.path / "expected" / f"{version}.json").exists()


def _expectations(home: Home) -> Iterator[Path]:
    for folder in (home.first_model, *home.further_models()):
        yield from (folder.path / "expected").glob("*.json")


def _check_anchors(home: Home) -> None:
    """The home's memory of the history; homes of 0.1 have none, nor expectations."""
    path = home.file("predictor", "history.json")
    fault = fault_of(path, anchors) if path.exists() else None
    if fault or (not path.exists() and any(_expectations(home))):
        state = f"is damaged ({fault})" if fault else "is gone"
        _log.warning(
            "%s %s: look at `lungline history`, then `lungline history --accept` writes it again.", path, state
        )
