"""`python -m gateway`: listen for DICOM until SIGTERM."""

import argparse
import logging
import os
import sys
import threading

from gateway import metrics
from gateway.intake import Intake
from gateway.ledger import Ledger
from gateway.spool import Spool
from gateway.storage_scp import StorageScp
from gateway.tls import TlsFiles
from lungline import program
from lungline.errors import StackError
from lungline.home import Home
from lungline.memory import budget_of_process
from lungline.settings import Settings
from lungline.storage.s3 import Storage

log = logging.getLogger("lungline.gateway")


def main(settings: Settings) -> None:
    """Run the gateway. Raises SettingsError, and StackError when a port is taken."""
    parser = argparse.ArgumentParser(prog="python -m gateway", description="Receives X-rays over DICOM.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--dicom_port", type=int, required=True, help="port for DICOM associations")
    parser.add_argument("--metrics_port", type=int, help="port for Prometheus; none by default")
    arguments = parser.parse_args()
    folder = Home.make(settings.home).file("gateway")
    spool = Spool(folder / "spool", settings.gateway.spool_bytes)
    ledger = Ledger(folder / "ledger.db")
    intake = Intake(Storage.from_settings(settings), settings, ledger, budget_of_process(0.5))
    scp = StorageScp(settings.gateway, intake, spool, TlsFiles(settings.gateway))
    stopping = threading.Event()
    program.stop_on_sigterm(stopping.set)
    try:
        scp.start(arguments.host, arguments.dicom_port)
        if arguments.metrics_port:  # last: who probes it learns that everything else is ready
            metrics.expose(arguments.host, arguments.metrics_port)
    except OSError as exc:
        raise StackError(f"The gateway cannot listen: {exc.strerror}.") from exc
    log.info("Listening as %s.", settings.gateway.ae_title)
    stopping.wait()
    scp.stop()
    ledger.close()
    logging.shutdown()
    sys.stderr.flush()
    os._exit(0)  # a thread of a connection that does not end would hold the process


if __name__ == "__main__":
    program.run("gateway", main)
