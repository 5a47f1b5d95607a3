"""PneumoniaMNIST: public chest X-rays, downloaded once into the user's cache folder."""

# pooch ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lungline.errors import DataError

# Side of the images in pixels, file, and the MD5 in the Zenodo record.
_FILES = {
    28: ("pneumoniamnist.npz", "28209eda62fecd6e6a2d98b1501bb15f"),
    64: ("pneumoniamnist_64.npz", "8f4eceb4ccffa70c672198ea285246c6"),
    128: ("pneumoniamnist_128.npz", "05b46931834c231683c68f40c47b2971"),
    224: ("pneumoniamnist_224.npz", "d6a3c71de1b945ea11211b03746c1fe1"),
}
# Connecting fails early, so that a machine without internet goes on at once; a slow download may pause for longer.
_CONNECT_SECONDS, _READ_SECONDS = 5, 60


@dataclass(frozen=True)
class MedMNIST:
    """The record that publishes PneumoniaMNIST.

    `url` has a place for the file's name. `files` has name and MD5 (hex) by the side of the images in pixels.
    """

    url: str = "https://zenodo.org/records/10519652/files/{file}?download=1"
    files: Mapping[int, tuple[str, str]] = field(default_factory=lambda: _FILES)

    def cached(self, size: int) -> Path | None:
        """The file of images of that side in pixels, if it was downloaded before and is not damaged."""
        import pooch

        name, md5 = self.files[size]
        file = Path(pooch.os_cache("lungline")) / name
        return file if file.exists() and pooch.file_hash(str(file), alg="md5") == md5 else None

    def download(self, size: int) -> Path:
        """The file of images of that side in pixels, downloaded unless it is cached; progress on standard error.

        Raises DataError, which says what to do instead, when the download fails.
        """
        import pooch
        import requests

        if file := self.cached(size):
            return file
        name, md5 = self.files[size]
        # pooch also logs each download; the progress bar is enough.
        pooch.get_logger().setLevel("WARNING")
        fetch: Any = pooch.HTTPDownloader(progressbar=True, timeout=(_CONNECT_SECONDS, _READ_SECONDS))
        url = self.url.format(file=name)
        try:
            path = pooch.retrieve(url, f"md5:{md5}", fname=name, path=pooch.os_cache("lungline"), downloader=fetch)
        except (requests.RequestException, OSError, ValueError) as exc:
            raise DataError(
                f"{name} could not be downloaded from zenodo.org ({type(exc).__name__}); "
                "give a folder or zip of X-rays instead, or use phantom."
            ) from exc
        return Path(path)


PNEUMONIA_MNIST = MedMNIST()
