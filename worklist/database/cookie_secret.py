"""The secret that signs cookies and links; kept in the home folder, where the settings name none.

It imports nothing heavy: it is looked at before each start of a laptop's stack.
"""

import secrets
from pathlib import Path

from lungline.home import write_private

LENGTH = 32
"""Characters that it has at least: with an empty one anybody could forge links and sessions."""


def kept_secret(home: Path) -> str | None:
    """The secret of a home; None where none is kept, or a damaged one."""
    try:
        kept = _path(home).read_text(errors="replace").strip("\0\n ")
    except OSError:
        return None
    return kept if len(kept) >= LENGTH else None


def claim_secret(home: Path) -> str:
    """The secret of a home, generated at its first use and where it is damaged."""
    if kept := kept_secret(home):
        return kept
    write_private(_path(home), secrets.token_urlsafe(48), durable=True)
    return _path(home).read_text()


def _path(home: Path) -> Path:
    return home / "worklist" / "secret"
