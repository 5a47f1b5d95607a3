"""What a home keeps of models: which one serves, what it must be, and what it remembers of the promotion history."""

import logging

from laptop.home.documents import anchors, expectation, fault_of
from lungline.home import Home
from lungline.service_state import number_of, read_state

_log = logging.getLogger(__name__)

_AGAIN = "`lungline models` lists them, and `lungline promote VERSION --by NAME --reason TEXT` serves one again"


def check_models(home: Home) -> None:
    """Say what is lost, and what to do; uploads wait for a model, so that the stack starts all the same."""
    _check_champion(home)
    _check_anchors(home)
    for path in sorted(home.file("predictor", "expected").glob("*.json")):
        if reason := fault_of(path, expectation):
            _log.warning(
                "%s is damaged (%s): version %s serves again after `lungline promote %s --by NAME --reason TEXT`.",
                *(path, reason, path.stem, path.stem),
            )


def _check_champion(home: Home) -> None:
    link = home.champion
    if link.is_symlink():
        if link.exists() or _is_expected(home, link.readlink().name):  # a package that is gone is fetched again
            return
        _log.warning("%s leads to no package: %s.", link, _AGAIN)
        return
    if link.exists():  # a file in its place
        link.unlink()
        _log.warning("%s was damaged: %s.", link, _AGAIN)
    elif any(home.file("predictor", "expected").glob("*.json")) or number_of(read_state(home, "bridge"), "delivered"):
        _log.warning("%s is missing, and no model serves: %s.", link, _AGAIN)


def _is_expected(home: Home, version: str) -> bool:
    return home.file("predictor", "expected", f"{version}.json").exists()


def _check_anchors(home: Home) -> None:
    """The home's memory of the history; homes of 0.1 have none, nor expectations."""
    path = home.file("predictor", "history.json")
    fault = fault_of(path, anchors) if path.exists() else None
    if fault or (not path.exists() and any(home.file("predictor", "expected").glob("*.json"))):
        state = f"is damaged ({fault})" if fault else "is gone"
        _log.warning(
            "%s %s: look at `lungline history`, then `lungline history --accept` writes it again.", path, state
        )
