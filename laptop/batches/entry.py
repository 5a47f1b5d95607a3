"""One file of a batch, and how its content is read within bounds."""

from collections.abc import Callable
from dataclasses import dataclass, field

from lungline.errors import ImageRefused
from lungline.imaging.decoding import is_image, unsupported_format

# Every format that is read shows itself in fewer bytes.
_HEAD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a batch. Its name may hold a patient's: it is for the person who gave the batch."""

    name: str = field(repr=False)
    mark: str = field(default="", repr=False)
    """Another text when the content is another."""
    read: Callable[[], bytes] | None = None
    """Raises ImageRefused for what is no image, and LunglineError for what cannot be read."""
    fault: str = ""
    """Why it cannot be read, as one sentence, where that is clear without trying."""


def read_image(read: Callable[[int], bytes], max_bytes: int) -> bytes:
    """What `read` gives, called with a number of bytes; no more than its beginning where that is of no image.

    Raises ImageRefused (empty, unsupported-format, not-an-image, too-large).
    """
    head = read(_HEAD_BYTES)
    if not head:
        raise ImageRefused("empty", "The file is empty.")
    if not is_image(head):
        name = unsupported_format(head)
        raise ImageRefused("not-an-image", f"The file is {name}." if name else "The file's content is not an image.")
    parts = [head]
    left = max_bytes + 1 - len(head)
    while left > 0 and (part := read(min(left, 2**20))):
        parts.append(part)
        left -= len(part)
    if left <= 0:
        raise too_large(max_bytes)
    return b"".join(parts)


def too_large(max_bytes: int) -> ImageRefused:
    """The refusal of a file that is larger than an image may be."""
    return ImageRefused("too-large", f"The file has more than {max_bytes:,} bytes, the limit for one image.")
