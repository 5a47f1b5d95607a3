"""`python -m gateway`: listen for DICOM until SIGTERM."""

import argparse
import gc
import logging
import os
import sys
import threading

from gateway import metrics, web
from gateway.commitment import Commitment
from gateway.commitment_reports import Reports
from gateway.intake import Intake
from gateway.ledger import Ledger
from gateway.spool import Spool
from gateway.storage_scp import StorageScp
from gateway.stow import Stow
from gateway.tls import TlsFiles
from lungline import program
from lungline.errors import SettingsError
from lungline.home import Home
from lungline.memory import budget_of_process
from lungline.service_state import HEARTBEAT_SECONDS, write_state
from lungline.settings import Settings
from lungline.storage.s3 import Storage

log = logging.getLogger("lungline.gateway")


def main(settings: Settings) -> None:
    """Run the gateway. Raises SettingsError, and StackError when a port is taken."""
    parser = argparse.ArgumentParser(prog="python -m gateway", description="Receives X-rays over DICOM.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--dicom_port", type=int, required=True, help="port for DICOM associations")
    parser.add_argument("--web_port", type=int, help="port for STOW-RS; none by default")
    parser.add_argument("--metrics_port", type=int, help="port for Prometheus; none by default")
    arguments = parser.parse_args()
    home = Home.make(settings.home)
    folder = home.file("gateway")
    spool = Spool(folder / "spool", settings.gateway.spool_bytes)
    ledger = Ledger(folder / "ledger.db")
    intake = Intake(Storage.from_settings(settings), settings, ledger, budget_of_process(0.5))
    tls = TlsFiles(settings.gateway)
    reports = Reports(settings.gateway, tls)
    scp = StorageScp(settings.gateway, intake, spool, tls, Commitment(ledger, reports))
    stopping = threading.Event()
    program.stop_on_sigterm(stopping.set)
    scp.start(arguments.host, arguments.dicom_port)
    if arguments.web_port:
        if not settings.gateway.token:
            raise SettingsError("STOW-RS needs a bearer token: set LUNGLINE_GATEWAY__TOKEN.")
        stow = Stow(intake, spool, settings.gateway.token.get_secret_value())
        web.serve(stow, arguments.host, arguments.web_port, tls, 2 * settings.gateway.associations)
    if arguments.metrics_port:
        metrics.expose(arguments.host, arguments.metrics_port)
    # pynetdicom collects garbage twice a minute; what was imported is none, and to look at it takes 0.1 s.
    gc.freeze()
    log.info("Listening as %s.", settings.gateway.ae_title)
    _report(home, scp, stopping)
    scp.stop()
    reports.stop()
    ledger.close()
    logging.shutdown()
    sys.stderr.flush()
    os._exit(0)  # a thread of a connection that does not end would hold the process


def _report(home: Home, scp: StorageScp, stopping: threading.Event) -> None:
    """Write the state while connections are accepted; one that ages shows that they are not."""
    while True:
        if scp.accepts:
            write_state(home, "gateway", "ready")
        if stopping.wait(HEARTBEAT_SECONDS):
            return


if __name__ == "__main__":
    program.run("gateway", main)
