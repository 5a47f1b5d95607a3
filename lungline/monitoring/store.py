"""Where findings lie: in the results bucket, for the next look, for Prometheus, and for whoever tells people.

    monitoring/latest.json            the last findings
    monitoring/report.html            the same as a page
    monitoring/events/NAME.json       a CloudEvent for each time that a version's field began to differ

The store decides between two monitors that look at the same time: an event is written where there is none.
"""

import json
from datetime import datetime

from pydantic import ValidationError

from lungline.errors import ObjectGone
from lungline.monitoring.findings import Monitored, Watched
from lungline.storage import Storage

LATEST, REPORT, EVENTS = "monitoring/latest.json", "monitoring/report.html", "monitoring/events/"
DRIFT_TYPE, SOURCE = "org.lungline.drift.v1", "/lungline/monitor"


def latest(storage: Storage, bucket: str) -> Monitored | None:
    """The last findings; None when there are none, or none that this version understands."""
    try:
        return Monitored.model_validate_json(storage.get(bucket, LATEST).data)
    except (ObjectGone, ValidationError):
        return None


def save(storage: Storage, bucket: str, found: Monitored, page: str) -> list[str]:
    """Store findings and their page; returns the versions whose field has begun to differ since the last look."""
    before = latest(storage, bucket)
    known = set(before.drifted) if before else set[str]()
    begun = [model for model in found.in_service if model.drifted and model.version not in known]
    told = [model.version for model in begun if _tell(storage, bucket, model, found.at)]
    storage.put(bucket, REPORT, page.encode(), "text/html; charset=utf-8")
    storage.put(bucket, LATEST, found.model_dump_json().encode(), "application/json")
    return told


def _tell(storage: Storage, bucket: str, model: Watched, at: datetime) -> bool:
    window = model.windows[-1]
    # Named by what was seen, not by who saw it: two monitors give the same event.
    name = f"{model.version}-{window.end:%Y%m%dT%H%M%S}"
    event = {
        "specversion": "1.0",
        "id": name,
        "type": DRIFT_TYPE,
        "source": SOURCE,
        "subject": model.version,
        "time": at.isoformat(),
        "datacontenttype": "application/json",
        "data": {
            "version": model.version,
            "tests": list(window.comparison.alarms),
            "start": window.start.isoformat(),
            "end": window.end.isoformat(),
            "results": window.results,
            "sentence": model.in_a_sentence(),
        },
    }
    return storage.put_if_absent(
        bucket, f"{EVENTS}{name}.json", json.dumps(event).encode(), "application/cloudevents+json"
    )
