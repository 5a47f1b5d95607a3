"""Log lines of the predictor: ours, and KServe's in the same form."""

import logging

from lungline import logs
from lungline.settings import Settings


def configure(settings: Settings) -> None:
    """Send all log lines to stderr, as the settings want them."""
    logs.configure(settings.log_format)
    # KServe configures its own loggers when they have no handler; a NullHandler leaves the lines to the root.
    kserve = logging.getLogger("kserve")
    kserve.addHandler(logging.NullHandler())
    kserve.setLevel(logging.WARNING)
