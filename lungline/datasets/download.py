"""PneumoniaMNIST from Zenodo: downloaded once, checked by digest, kept in the user's cache folder.

Source and licence stand in data/README.md.
"""

# pooch ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from pathlib import Path
from typing import Any

from lungline.errors import DataError

ZENODO = "https://zenodo.org/records/10519652/files/{file}?download=1"
# Side of the images in pixels, file, and the MD5 that the Zenodo record states.
FILES = {
    28: ("pneumoniamnist.npz", "28209eda62fecd6e6a2d98b1501bb15f"),
    64: ("pneumoniamnist_64.npz", "8f4eceb4ccffa70c672198ea285246c6"),
    128: ("pneumoniamnist_128.npz", "05b46931834c231683c68f40c47b2971"),
    224: ("pneumoniamnist_224.npz", "d6a3c71de1b945ea11211b03746c1fe1"),
}
# Short, so that a machine without internet falls back at once; then patience between two parts of a slow download.
_CONNECT_SECONDS, _READ_SECONDS = 5, 60


def cached(size: int) -> Path | None:
    """The file of images of that side, when it was downloaded before and is whole."""
    import pooch

    name, md5 = FILES[size]
    file = Path(pooch.os_cache("lungline")) / name
    return file if file.exists() and pooch.file_hash(str(file), alg="md5") == md5 else None


def download(size: int) -> Path:
    """The file of images of that side, downloaded unless it is cached, with a progress bar on standard error.

    Raises DataError, which says what to do instead, when it cannot be had.
    """
    import pooch
    import requests

    if file := cached(size):
        return file
    name, md5 = FILES[size]
    timeout = (_CONNECT_SECONDS, _READ_SECONDS)
    # pooch announces each download in its log as well; the progress bar says enough.
    pooch.get_logger().setLevel("WARNING")
    fetch: Any = pooch.HTTPDownloader(progressbar=True, timeout=timeout)
    url = ZENODO.format(file=name)
    try:
        path = pooch.retrieve(url, f"md5:{md5}", fname=name, path=pooch.os_cache("lungline"), downloader=fetch)
    except (requests.RequestException, OSError, ValueError) as exc:
        raise DataError(
            f"{name} could not be downloaded from zenodo.org ({type(exc).__name__}); "
            "give a folder or zip of X-rays instead, or use phantom."
        ) from exc
    return Path(path)
