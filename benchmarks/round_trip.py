"""From a modality's C-STORE to the report in its PACS, through the whole stack: `python -m benchmarks.round_trip`.

It starts a stack in a temporary home and an Orthanc as the PACS. X-rays are sent over one association at a fixed rate,
whether earlier ones have results or not. A report counts as arrived when Orthanc lists it among its changes, which are
read every 20 ms; the time runs from the gateway's answer.
"""

import argparse
import io
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComprehensiveSRStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from benchmarks import networks
from benchmarks.peers.orthanc import Orthanc, running_orthanc
from benchmarks.uploads import running
from laptop.home.ports import load_ports
from lungline.datasets import phantom
from lungline.home import Home
from lungline.settings import Settings

WARM = 3
POLL_SECONDS = 0.02
# Late reports are not lost: it waits while more arrive.
SILENT_SECONDS = 30.0
TITLE = "ORTHANC"


def measure(package: Path, *, rate: float, seconds: float, side: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Milliseconds from the gateway's answer to the report in the PACS, and what did not arrive."""
    with tempfile.TemporaryDirectory() as folder, running_orthanc(Path(folder) / "pacs", title=TITLE) as pacs:
        destinations = Path(folder) / "destinations.toml"
        destinations.write_text(
            '[[destination]]\nname = "pacs"\nkind = "c-store"\nhost = "127.0.0.1"\n'
            f'port = {pacs.dicom_port}\ncalled_title = "{TITLE}"\n'
        )
        with running(package, {"worklist.destinations": destinations}) as settings:
            say("stack and PACS run")
            _burst(settings, pacs, rate=1, count=WARM, side=side)
            return _burst(settings, pacs, rate=rate, count=round(rate * seconds), side=side)


def _burst(settings: Settings, pacs: Orthanc, *, rate: float, count: int, side: int) -> dict[str, Any]:
    arrivals = _Arrivals(pacs)
    with arrivals:
        answers, took = _send(settings, rate=rate, count=count, side=side)
        arrivals.wait(2 * count)  # a report and a capture each
    reported = arrivals.reports()
    late = [(reported[uid] - moment) * 1000 for uid, moment in answers.items() if uid in reported]
    sending = max(answers.values()) - min(answers.values()) + 1 / rate
    return {
        "instances": count,
        "asked_per_second": rate,
        "sent_per_second": round(count / sending, 2),
        "c_store_p50_ms": round(statistics.median(took) * 1000, 1),
        "reports": len(reported),
        "instances_in_pacs": len(arrivals.seen),
        "lost": count - len(late),
        **{f"p{share}_ms": round(float(np.percentile(late, share)), 1) if late else None for share in (50, 99)},
    }


def _send(settings: Settings, *, rate: float, count: int, side: int) -> tuple[dict[str, float], list[float]]:
    """When each instance was answered, by its UID, and the seconds that each took."""
    from pynetdicom import AE

    ports = load_ports(Home(settings.home))
    if ports is None:
        raise RuntimeError("The stack has no ports.")
    entity = AE(ae_title="MODALITY")
    entity.add_requested_context(DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", ports.gateway, ae_title=settings.gateway.ae_title)
    if not association.is_established:
        raise RuntimeError("The gateway takes no association.")
    answers: dict[str, float] = {}
    took: list[float] = []
    begun = time.monotonic()
    try:
        for number in range(count):
            instance = xray(number, side)
            time.sleep(max(0.0, begun + number / rate - time.monotonic()))
            before = time.monotonic()
            status = association.send_c_store(instance)
            if status.get("Status") != 0:
                raise RuntimeError(f"The gateway answered {status}.")
            answers[instance.SOPInstanceUID] = time.monotonic()
            took.append(time.monotonic() - before)
    finally:
        association.release()
    return answers, took


def xray(number: int, side: int) -> Dataset:
    """A phantom as a modality sends it: 12 bits in 16, uncompressed, of a patient of its own."""
    grey = phantom.draw(np.random.default_rng(number % 16), opacities=bool(number % 2), size=256).astype(np.uint16)
    pixels = np.kron(grey, np.ones((side // 256,) * 2, np.uint16)) * 16 + number % 16
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = DigitalXRayImageStorageForPresentation, generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID, made.Modality = generate_uid(), generate_uid(), "DX"
    made.PatientName, made.PatientID, made.AccessionNumber = "Bench^Mark", f"B-{number}", f"A-{number}"
    made.StudyDate, made.BodyPartExamined, made.ViewPosition = "20260301", "CHEST", "AP"
    made.Rows, made.Columns, made.SamplesPerPixel, made.PhotometricInterpretation = *pixels.shape, 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.PixelData = pixels.astype("<u2").tobytes()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


class _Arrivals:
    """When Orthanc first lists each new instance, by its own ID; a thread looks."""

    def __init__(self, pacs: Orthanc) -> None:
        self._pacs = pacs
        self.seen: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        with pacs.http as http:
            self._since = int(http.get("/changes?last").json()["Last"])

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(10)

    def _look(self) -> None:
        with self._pacs.http as http:
            while not self._ended.is_set():
                page = http.get("/changes", params={"since": self._since, "limit": 500}).json()
                self._since = int(page["Last"])
                new = [each["ID"] for each in page["Changes"] if each["ChangeType"] == "NewInstance"]
                self.seen |= dict.fromkeys(new, time.monotonic())
                self._ended.wait(POLL_SECONDS)

    def wait(self, count: int) -> None:
        """Wait for so many instances, or until none has come for long."""
        grown, size = time.monotonic(), 0
        while len(self.seen) < count and time.monotonic() - grown < SILENT_SECONDS:
            if len(self.seen) > size:
                grown, size = time.monotonic(), len(self.seen)
            time.sleep(0.1)

    def reports(self) -> dict[str, float]:
        """When the report of each X-ray came, by the UID of the X-ray."""
        from pydicom import dcmread

        times: dict[str, float] = {}
        for identifier, moment in self.seen.items():
            made = dcmread(io.BytesIO(self._pacs.file(identifier)))
            if made.SOPClassUID == ComprehensiveSRStorage:
                series = made.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
                times[series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID] = moment
        return times


def main() -> None:
    """Measure, and print one JSON value; progress goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=5)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--side", type=int, default=1024, help="of the X-rays, in pixels: a multiple of 256")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        package = networks.make(Path(folder))
        metrics = measure(
            package,
            rate=arguments.rate,
            seconds=arguments.seconds,
            side=arguments.side,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
