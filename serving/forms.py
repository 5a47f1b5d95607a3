"""Files out of multipart forms (RFC 7578), in memory: an X-ray must not be left in a temporary folder."""

from email.message import Message

from serving.answers import RequestMalformed

MAX_PARTS = 16

_EXPECTED = "Expected a form with one image file, as `curl -F image=@chest.jpeg` sends it."


def first_file(body: bytes, content_type: str) -> bytes:
    """The content of a form's first part that has a file name. Raises RequestMalformed."""
    mark = b"\r\n--" + _boundary(content_type)
    # The first mark may stand at the very beginning, without the line end that belongs to it.
    position = 0 if body.startswith(mark[2:]) else body.find(mark) + 2
    for _ in range(MAX_PARTS):
        content = body.find(b"\r\n\r\n", position)
        end = body.find(mark, content + 2)  # an empty file's mark shares the blank line's end
        if not body.startswith(mark[2:], position) or content < 0 or end < 0:
            break
        if b"filename" in body[position:content].lower():
            return body[content + 4 : end]
        position = end + 2
    raise RequestMalformed(_EXPECTED)


def _boundary(content_type: str) -> bytes:
    message = Message()
    message["content-type"] = content_type
    boundary = message.get_param("boundary")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= 70 or not boundary.isascii():
        raise RequestMalformed(_EXPECTED)
    return boundary.encode()
