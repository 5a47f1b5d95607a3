"""Log lines that hold no object keys: as text for a person, or as JSON objects for a machine, one a line.

Each line about an upload carries its `identity`, from the bridge to the notice. Exceptions are written as their type
and place, without their message: it may quote what was sent.
"""

import json
import logging
import os
import sys
import traceback
from datetime import UTC, datetime
from typing import Literal

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
        return json.dumps(line | _extras(record), default=str)


class TextFormatter(logging.Formatter):
    """Time, level and message, then whatever was passed as `extra`, as NAME=VALUE."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        moment = datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        extras = "".join(f" {name}={value}" for name, value in _extras(record).items())
        return f"{moment},{record.msecs:03.0f} {record.levelname} {record.getMessage()}{extras}"


def _extras(record: logging.LogRecord) -> dict[str, object]:
    extra: dict[str, object] = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    if record.exc_info and record.exc_info[1] is not None:
        extra["exception"] = described(record.exc_info[1])
    return extra


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


def configure(form: Literal["text", "json"], level: int = logging.INFO) -> None:
    """Send all log lines to stderr.

    To a copy of its descriptor: the libraries in C++ that are silenced while a model loads would silence us too.
    """
    stream = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.root.handlers = [handler]
    logging.root.setLevel(level)
    for chatty in ("httpx", "uvicorn.access", "botocore", "boto3", "alembic", "opentelemetry"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # It warns of malformed answers with the address that was asked, which holds an object's key.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
