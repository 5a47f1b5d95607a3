"""Odd object keys on the whole stack: each upload gets a result that a person sees, or is named as left out."""

import html
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cli.stack import sign_in_link
from eventing.reconcile import resend
from laptop import stack
from lungline.datasets.phantom import jpeg
from lungline.events.uploads import readable_key
from lungline.results import record_store
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.laptop_stack import NO_MLFLOW, running_stack
from tests.support.own_host import LoopbackTransport
from tests.support.worklist_site import wait

pytestmark = pytest.mark.stack

KEYS = [
    "tab\there.jpg",
    "line\nbreak.jpg",
    "carriage\r\nreturn.jpg",
    "bell\x07 and \x1b[31mcolour.jpg",
    "control\x01\x7f\x85.jpg",
    "100%.jpg",
    "%41%0A.jpg",
    "plus+and space.jpg",
    "question?hash#.jpg",
    " spaces at the ends ",
    "override\u202egpj.exe",
    "\u200emark\u2028separator\ufeff.jpg",
    "/".join(["d" * 100] * 10) + "/" + "k" * 14,
    ".uploads/part of a name.jpg",
    "x.versions/v_1.jpg",
    "quotes'\"<b>&.jpg",
    "back\\slash.jpg",
]
# SeaweedFS keeps a few bytes in the folder itself, from where they are not read, and an image as a file inside.
FOLDERS = {"image/": jpeg(1, opacities=True), "bytes/": b"a few"}
OUTCOMES = {key.replace("\\", "/"): "judged" for key in KEYS} | {"image/image": "judged", "bytes/": "refused"}
LITTER = [".DS_Store", "ward/Thumbs.db", "ward/._tab.jpg", "ward/desktop.ini", "__MACOSX/._x", "Icon\r"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, packages: tuple[Path, Path]) -> Iterator[Settings]:
    """A stack with a champion, to whose store all keys were uploaded."""
    with running_stack(tmp_path_factory.mktemp("stack"), packages[0]) as plain:
        settings = stack.connect(plain)
        storage = Storage.from_settings(settings)
        for key in LITTER:
            storage.put(settings.uploads_bucket, key, b"Mac OS X")
        for number, key in enumerate(KEYS):
            storage.put(settings.uploads_bucket, key, jpeg(number, opacities=True))
        for key, data in FOLDERS.items():
            storage.put(settings.uploads_bucket, key, data)
        yield settings


@pytest.fixture(scope="module")
def storage(settings: Settings) -> Storage:
    return Storage.from_settings(settings)


def results(settings: Settings, storage: Storage) -> dict[str, str]:
    return {record.upload.key: record.outcome for record in record_store.every(storage, settings.results_bucket)}


def test_every_upload_gets_a_result(settings: Settings, storage: Storage) -> None:
    """Files of operating systems get none."""
    wait(lambda: len(results(settings, storage)) >= len(OUTCOMES), seconds=60)
    assert results(settings, storage) == OUTCOMES


def test_the_worklist_shows_every_key(settings: Settings, storage: Storage) -> None:
    """With its invisible characters as escapes, on the list and on the page of the X-ray."""
    wait(lambda: len(results(settings, storage)) >= len(OUTCOMES), seconds=60)
    with httpx.Client(
        transport=LoopbackTransport(), follow_redirects=True, timeout=30, headers={"accept": "text/html"}
    ) as client:
        assert client.get(sign_in_link(Settings(home=settings.home, mlflow_uri=NO_MLFLOW))).status_code == 200
        base = stack.status(settings).service("worklist").address
        wait(lambda: client.get(f"{base}/?view=all").text.count('class="xray"') >= len(OUTCOMES), seconds=30)
        page = client.get(f"{base}/?view=all").text
        for record in record_store.every(storage, settings.results_bucket):
            name = html.escape(readable_key(record.upload.key.rstrip("/").rpartition("/")[2]))
            assert name.replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page, ascii(record.upload.key)
            # The store may send an object's event once more under another key; its row comes a moment later.
            shown = f"{base}/x/{record.upload.identity}?view=all"
            wait(lambda address=shown: client.get(address).status_code == 200, seconds=30)
    assert "\u202e" not in page
    assert "\x1b" not in page


def test_no_key_is_in_a_log(settings: Settings, storage: Storage) -> None:
    wait(lambda: len(results(settings, storage)) >= len(OUTCOMES), seconds=60)
    logged = b"".join(path.read_bytes() for path in (settings.home / "logs").glob("*.log") if path.name != "store.log")
    for words in (b"here.jpg", b"break.jpg", b"colour.jpg", b"separator", b"DS_Store"):
        assert words not in logged


def test_reconcile_names_what_it_leaves_out(settings: Settings, storage: Storage) -> None:
    wait(lambda: len(results(settings, storage)) >= len(OUTCOMES), seconds=60)
    # The store does not list what lies in its own folder `.uploads`, and shows a folder's bytes as empty. It takes
    # the folder `x.versions` for versions of an object `x` and lists that one, so that its event is sent once more.
    assert resend(settings, grace_seconds=0).sent <= 1
    expected = f"Of {len(OUTCOMES) - 2} uploads none was lost; files of operating systems, left out: {len(LITTER)}."
    wait(lambda: str(resend(settings, grace_seconds=0)) == expected, seconds=30)
