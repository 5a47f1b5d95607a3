import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lungline.datasets.medmnist import MedMNIST
from lungline.datasets.opening import open_dataset
from lungline.errors import DataError
from lungline.settings import Settings
from tests.support.object_store import free_ports
from tests.support.small_datasets import arrays, folder_of, npz, opened, small_set


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees what was downloaded or set before, or leaves something for others."""
    for name in [name for name in os.environ if name.startswith("LUNGLINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lungline"


@pytest.fixture
def zenodo(tmp_path: Path) -> Iterator[MedMNIST]:
    """A small file in the form of the public record, served by HTTP on this machine."""
    folder = tmp_path / "zenodo"
    folder.mkdir()
    file = npz(folder / "pneumoniamnist_64.npz", arrays(20, 64))
    digest = hashlib.md5(file.read_bytes()).hexdigest()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield MedMNIST(f"http://127.0.0.1:{server.server_port}/{{file}}?download=1", {64: (file.name, digest)})
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def record_file(zenodo: MedMNIST, tmp_path: Path) -> Path:
    """The file that the record serves."""
    return tmp_path / "zenodo" / zenodo.files[64][0]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by the base class
        pass


@pytest.fixture
def no_internet() -> MedMNIST:
    return MedMNIST(f"http://127.0.0.1:{free_ports(1)[0]}/{{file}}")


class TestDownload:
    def test_it_happens_once(self, zenodo: MedMNIST, record_file: Path, own_cache: Path) -> None:
        first = open_dataset("medmnist:64", settings=Settings(), medmnist=zenodo)
        assert len(first.examples) == 120
        assert (own_cache / record_file.name).exists()
        record_file.unlink()
        assert open_dataset("medmnist:64", settings=Settings(), medmnist=zenodo).digest == first.digest
        assert first.name == "medmnist:64"

    def test_a_file_with_another_digest_is_refused(self, zenodo: MedMNIST, record_file: Path) -> None:
        record_file.write_bytes(b"changed on the way")
        with pytest.raises(DataError, match=r"could not be downloaded from zenodo.org"):
            open_dataset("medmnist:64", settings=Settings(), medmnist=zenodo)

    def test_a_damaged_file_in_the_cache_is_downloaded_again(
        self, zenodo: MedMNIST, record_file: Path, own_cache: Path
    ) -> None:
        own_cache.mkdir(parents=True)
        (own_cache / record_file.name).write_bytes(b"half a file")
        assert len(open_dataset("medmnist:64", settings=Settings(), medmnist=zenodo).examples) == 120

    def test_without_internet_the_message_says_what_to_do(self, no_internet: MedMNIST) -> None:
        with pytest.raises(DataError, match="give a folder or zip of X-rays instead, or use phantom"):
            open_dataset("medmnist:64", settings=Settings(), medmnist=no_internet)

    @pytest.mark.parametrize("size", ["", "32", "x"])
    def test_another_size_is_refused(self, size: str) -> None:
        with pytest.raises(DataError, match=r"one of 28, 64, 128, 224; found"):
            opened(f"medmnist:{size}")


class TestAuto:
    def test_the_setting_comes_first(self, tmp_path: Path) -> None:
        folder = folder_of(tmp_path / "mine", small_set())
        assert open_dataset(settings=Settings(data=str(folder))).name == "mine"

    def test_a_download_comes_second(self, zenodo: MedMNIST) -> None:
        dataset = open_dataset(settings=Settings(), medmnist=zenodo)
        assert (dataset.name, dataset.synthetic) == ("medmnist:64", False)

    def test_a_cached_download_needs_no_network(self, zenodo: MedMNIST, record_file: Path, own_cache: Path) -> None:
        own_cache.mkdir(parents=True)
        shutil.copy(record_file, own_cache)
        assert open_dataset(settings=Settings(offline=True), medmnist=zenodo).name == "medmnist:64"

    def test_phantoms_come_last_and_say_why(self, no_internet: MedMNIST) -> None:
        dataset = open_dataset(settings=Settings(), medmnist=no_internet)
        assert dataset.synthetic
        assert dataset.notice is not None
        assert "LUNGLINE_DATA is not set and PneumoniaMNIST could not be downloaded" in dataset.notice

    def test_offline_downloads_nothing(self) -> None:
        class Downloaded(MedMNIST):
            def download(self, size: int) -> Path:
                pytest.fail(f"it downloaded images of {size} pixels")

        dataset = open_dataset(settings=Settings(offline=True), medmnist=Downloaded())
        assert "downloads are off" in str(dataset.notice)
