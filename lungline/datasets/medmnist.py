"""The two-dimensional sets of MedMNIST: small public images, downloaded once into the user's cache folder."""

# pooch ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lungline.errors import DataError

SIZES = (28, 64, 128, 224)
# MD5 in the Zenodo record of each set's file, by the side of the images in pixels as in SIZES.
_DIGESTS = {
    "bloodmnist": """
        7053d0359d879ad8a5505303e11de1dc 2b94928a2ae4916078ca51e05b6b800b
        adace1e0ed228fccda1f39692059dd4c b718ff6835fcbdb22ba9eacccd7b2601""",
    "breastmnist": """
        750601b1f35ba3300ea97c75c52ff8f6 742edef2a1fd1524b2efff4bd7ba9364
        363e4b3f8d712e9b5de15470a2aaadf1 b56378a6eefa9fed602bb16d192d4c8b""",
    "chestmnist": """
        02c8a6516a18b556561a56cbdd36c4a8 9de6cd0b934ebb5b7426cfba5efbae16
        db107e5590b27930b62dbaf558aebee3 45bd33e6f06c3e8cdb481c74a89152aa""",
    "dermamnist": """
        0744692d530f8e62ec473284d019b0c7 b70a2f5635c6199aeaa28c31d7202e1f
        2defd784463fa5243564e855ed717de1 8974907d8e169bef5f5b96bc506ae45d""",
    "octmnist": """
        c68d92d5b585d8d81f7112f81e2d0842 e229e9440236b774d9f0dfef9d07bdaf
        0a97e76651ace45c5d943ee3f65b63ae abc493b6d529d5de7569faaef2773ba3""",
    "organamnist": """
        68e3f8846a6bd62f0c9bf841c0d9eacc 2dcccc29b88e6da5a01161ef20cda288
        eeae80d0a227a8d099027e1b3cfd3b60 50747347e05c87dd3aaf92c49f9f3170""",
    "organcmnist": """
        b9ceb9546e10131b32923c5bbeaea2b1 3ce34a8724ea6f548e6db4744d03b6a9
        773c1f009daa3fe5d9a2a201b2a7ed94 050f5e875dc056f6768abf94ec9995d1""",
    "organsmnist": """
        9ab87b696fb54e2a387ebe992d6ed5f1 53a6d115339d874c25e309a994ff46d3
        ded0c5fa01a95dc4978b956f613e9b8e b354719e553fbbb2513d5533f52a4cb1""",
    "pathmnist": """
        a8b06965200029087d5bd730944a56c1 55aa9c1e0525abe5a6b9d8343a507616
        ac42d08fb904d92c244187169d1fd1d9 2c51a510bcdc9cf8ddb2af93af1eadec""",
    "pneumoniamnist": """
        28209eda62fecd6e6a2d98b1501bb15f 8f4eceb4ccffa70c672198ea285246c6
        05b46931834c231683c68f40c47b2971 d6a3c71de1b945ea11211b03746c1fe1""",
    "retinamnist": """
        bd4c0672f1bba3e3a89f0e4e876791e4 afda852cc34dcda56f86ad2b2457dbcc
        e48e916a24454daf90583d4e6efb1a18 eae7e3b6f3fcbda4ae613ebdcbe35348""",
    "tissuemnist": """
        ebe78ee8b05294063de985d821c1c34b 123ece2eba09d0aa5d698fda57103344
        61b955355d7425a89687b06cca3ce0c2 b077128c4a949f0a4eb01517f9037b9c""",
}
NAMES = tuple(_DIGESTS)
DEFAULT = "pneumoniamnist"


def _files(name: str) -> dict[int, tuple[str, str]]:
    """File and MD5 by the side of the images in pixels; that of the smallest images has no number in its name."""
    digests = dict(zip(SIZES, _DIGESTS[name].split(), strict=True))
    return {size: (f"{name}{'' if size == SIZES[0] else f'_{size}'}.npz", md5) for size, md5 in digests.items()}


# Connecting fails early, so that a machine without internet goes on at once; a slow download may pause for longer.
_CONNECT_SECONDS, _READ_SECONDS = 5, 60


@dataclass(frozen=True)
class MedMNIST:
    """One set of the record that publishes MedMNIST.

    `url` has a place for the file's name. `files` has name and MD5 (hex) by the side of the images in pixels.
    """

    url: str = "https://zenodo.org/records/10519652/files/{file}?download=1"
    files: Mapping[int, tuple[str, str]] = field(default_factory=lambda: _files(DEFAULT))

    @classmethod
    def named(cls, name: str) -> "MedMNIST":
        """A set by its name, such as `chestmnist`. Raises DataError for another one."""
        if name not in NAMES:
            raise DataError(f"Expected medmnist:NAME:SIZE with NAME one of {', '.join(NAMES)}; found {name or 'none'}.")
        return cls(files=_files(name))

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


MEDMNIST = MedMNIST()
