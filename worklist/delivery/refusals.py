"""Why a destination did not take a result: for now, or for good.

No message quotes an answer: answers quote what they were sent, which names the patient.
"""

from lungline.errors import LunglineError, Unavailable

# DICOM PS3.4, table B.2-1, and PS3.7, annex C.
_STORED = frozenset((0x0000, 0x0111, 0xB000, 0xB006, 0xB007))
_FOR_NOW = frozenset((0x0110, 0x0124))


class NotTaken(Unavailable):
    """The destination is away, busy or not set up yet; the same delivery may succeed later."""


class Rejected(LunglineError):
    """The destination will never take this delivery."""


def require_stored(status: int, what: str) -> None:
    """Raise unless a status of DICOM storage says that the instance is stored, now or before."""
    if status in _STORED:
        return
    message = f"The destination did not store the {what} (status {status:#06x})."
    if status in _FOR_NOW or status & 0xFF00 == 0xA700:
        raise NotTaken(message)
    raise Rejected(message)
