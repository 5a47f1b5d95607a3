"""Log lines as JSON objects, one a line, that hold no object keys.

Exceptions are written as their type and place, without their message: it may quote what was sent.
"""

import json
import logging
import os
import sys
import traceback
from datetime import UTC, datetime

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, level, logger, message, and whatever was passed as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = described(record.exc_info[1])
        return json.dumps(line, default=str)


def described(exc: BaseException) -> str:
    """Type and place of an exception and of its causes: enough to find the line, nothing that was sent."""
    chain: list[str] = []
    current: BaseException | None = exc
    while current is not None:
        frames = traceback.extract_tb(current.__traceback__)
        place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        chain.append(type(current).__name__ + place)
        current = current.__cause__
    return " from ".join(chain)


def configure(level: int = logging.INFO) -> None:
    """Send all log lines to stderr.

    To a copy of its descriptor: the libraries in C++ that are silenced while a model loads would silence us too.
    """
    stream = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logging.root.handlers = [handler]
    logging.root.setLevel(level)
    # KServe configures its own loggers when they have no handler; a NullHandler leaves the lines to the root.
    kserve = logging.getLogger("kserve")
    kserve.addHandler(logging.NullHandler())
    kserve.setLevel(logging.WARNING)
    for chatty in ("httpx", "uvicorn.access", "botocore", "boto3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
