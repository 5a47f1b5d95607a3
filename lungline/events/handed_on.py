"""The event that hands uploads on to the predictor of another task: a cluster's broker delivers it by its task.

Its type is another than that of the events of stores, so that it does not come back to the predictor that sends it.
"""

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from lungline import tracing
from lungline.events.cloudevents import OutgoingEvent
from lungline.events.uploads import Upload, minio_record

HANDED_ON_TYPE = "org.lungline.upload.v1"
SOURCE = "/lungline/predictor"


def handed_on(uploads: Sequence[Upload], task: str, trace: str | None = None) -> OutgoingEvent:
    """The event of uploads that are of a task; the predictor of that task takes it like one of a store."""
    identities = [upload.identity for upload in uploads]
    attributes = {
        "specversion": "1.0",
        # The same uploads handed on again are the same event.
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, " ".join([task, *identities]))),
        "type": HANDED_ON_TYPE,
        "source": SOURCE,
        "subject": identities[0],
        "time": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "task": task,
        tracing.HEADER: trace or tracing.of_upload(identities[0]),
    }
    records = [record for upload in uploads for record in minio_record(upload)["Records"]]
    return OutgoingEvent(attributes, json.dumps({"Records": records}))
