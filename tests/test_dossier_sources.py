"""The pod that reads Kafka and MLflow for the worklist's dossiers, and the key that signs them on a cluster."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from cli.dossiers import dossier
from lungline.datasets.phantom import jpeg
from lungline.dossier.lender import Lender
from lungline.errors import LunglineError
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.site_key import generate_key
from lungline.storage.s3 import Storage
from tests.support.dossier_case import text_of
from tests.support.dossier_lending import serving
from tests.support.object_store import free_ports
from tests.support.waiting import eventually
from tests.support.worklist_site import home, record, running_site

IDENTITY = "cafe" * 8


def kept(store: Storage) -> ResultRecord:
    """A result in the store, with its object."""
    etag = store.put("xray-uploads", "ward/lent.jpeg", jpeg(5, opacities=True))
    result = record(1, key="ward/lent.jpeg", etag=etag)
    store.put("lungline-results", result.key, result.model_dump_json().encode())
    return result


def test_a_pod_starts_answers_and_ends(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "eventing.dossier_sources", f"--port={port}"]
    environment = os.environ | {"LUNGLINE_HOME": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: answers(f"http://127.0.0.1:{port}/healthz"))
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


def answers(address: str) -> bool:
    try:
        return httpx.get(address).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("path", ["/", "/events/", "/events/ward/Doe.jpeg", "/runs/../events", "/objects/1"])
def test_nothing_but_events_and_runs_is_lent(tmp_path: Path, path: str) -> None:
    with serving(Settings(home=tmp_path)) as address:
        assert httpx.get(address + path).status_code == 404


def test_a_lender_that_fails_says_why(tmp_path: Path) -> None:
    with serving(Settings(home=tmp_path)) as address:
        lender = Lender(address)
        with pytest.raises(LunglineError, match=r"^No Kafka broker is set"):
            lender.events(IDENTITY, None)
        with pytest.raises(LunglineError, match=r"^No MLflow server is set"):
            lender.run("a" * 32)
    with pytest.raises(LunglineError, match="does not answer"):
        lender.run("a" * 32)


def test_the_page_is_signed_with_a_key_of_its_own(
    store: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a cluster: it signs no models, and what it signs is checked with its public half."""
    result, own, site_s = kept(store), generate_key(), generate_key()
    (tmp_path / "dossier.pub").write_text(own.public.pem)
    with serving(Settings(home=tmp_path)) as address:
        settings = home(tmp_path, dossier_sources=address).model_copy(
            update={"deployment": "cluster", "site_key": SecretStr(own.pem), "site_public_key": site_s.public.pem}
        )
        with running_site(settings, store) as site, site.client() as client:
            site.send(result)
            page = client.get(f"/x/{result.upload.identity}/dossier")
    assert "Not found: events in Kafka (No Kafka broker is set" in text_of(page.text)
    (tmp_path / "page.html").write_bytes(page.content)
    dossier(verify=tmp_path / "page.html", public_key=tmp_path / "dossier.pub", home=tmp_path)
    assert f"with the key {own.public.id[:12]}" in capsys.readouterr().out
    with pytest.raises(LunglineError, match="does not trust"):
        dossier(verify=tmp_path / "page.html", home=tmp_path)
