"""What the predictor demands of a package before it serves: the digest that it was told, and a signature of the site.

A laptop's package that is damaged is fetched again from the store that the registry keeps it in.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from lungline.errors import LunglineError, PackageError
from lungline.package.expectation import Expectation, read_expectation
from lungline.package.package import Package
from lungline.package.signature import is_signed, verify_package
from lungline.settings import Settings
from lungline.site_key import PublicKey, trusted_keys
from lungline.storage.objects import parse_uri
from lungline.storage.s3 import Storage

Fetch = Callable[[str, Path], None]

_log = logging.getLogger(__name__)


class PackageGuard:
    """Loads packages of a folder that pass; without keys and expectations, as in a plain folder, any whole one does."""

    def __init__(
        self,
        link: Path,
        *,
        sha256: str | None = None,
        keys: Callable[[], Sequence[PublicKey]] = tuple,
        fetch: Fetch | None = None,
    ) -> None:
        """`link` is the folder that the predictor follows; `fetch` downloads a package from its address to a folder."""
        self._link = link
        self._told = Expectation("", sha256, signed=True) if sha256 else None
        self._keys = keys
        self._fetch = fetch
        self.repaired = False
        """Whether the last package was damaged and fetched again."""

    @classmethod
    def from_settings(cls, link: Path, settings: Settings) -> "PackageGuard":
        """The guard of a predictor: keys of the settings or the home, packages from the object store."""

        def fetch(source: str, folder: Path) -> None:
            storage = Storage.from_settings(settings)
            try:
                storage.download_folder(*parse_uri(source), folder)
            finally:
                storage.close()

        return cls(link, sha256=settings.package_sha256, keys=lambda: trusted_keys(settings), fetch=fetch)

    def expects(self, folder: Path) -> bool:
        """Whether a package should be in a folder, so that its absence is damage."""
        try:
            return self._expected(folder) is not None
        except PackageError:
            return True

    def load(self, folder: Path) -> tuple[Package, str | None]:
        """The package in a folder and the key that signed it; None for one without a signature.

        Raises PackageError for a package that may not serve, and what the store raises where it is fetched again.
        """
        self.repaired = False
        expected = self._expected(folder)
        try:
            return self._checked(folder, expected)
        except (PackageError, OSError) as exc:
            damage = exc if isinstance(exc, PackageError) else PackageError(f"The package {folder.name}: {exc}.")
            if self._fetch is None or expected is None or not expected.source:
                raise damage from exc
        self._repair(folder, expected, self._fetch, damage)
        return self._checked(folder, expected)

    def _expected(self, folder: Path) -> Expectation | None:
        return self._told or read_expectation(self._link, folder.name)

    def _repair(self, folder: Path, expected: Expectation, fetch: Fetch, damage: LunglineError) -> None:
        _log.warning("the package is damaged and fetched again: %s", damage, extra={"version": folder.name})
        try:
            fetch(expected.source, folder)
        except (LunglineError, OSError) as exc:
            raise PackageError(f"{damage} It cannot be fetched again: {exc}") from exc
        self.repaired = True

    def _checked(self, folder: Path, expected: Expectation | None) -> tuple[Package, str | None]:
        package = Package.load(folder)
        if expected and package.sha256 != expected.sha256:
            raise PackageError(
                f"The package {folder.name} is not the one that was promoted: expected digest {expected.sha256[:12]}…, "
                f"found {package.sha256[:12]}…."
            )
        keys = self._keys()
        if is_signed(folder):
            # Where no key is known, as in a predictor without settings, the digest has to do.
            return package, verify_package(folder, keys).id if keys else None
        if expected and expected.signed:
            raise PackageError(f"The package {folder.name} was signed when it was promoted, and its signature is gone.")
        return package, None
