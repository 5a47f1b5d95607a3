import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.http import RequestMalformed
from serving.predictions import first_file


def encoded(**fields: object) -> tuple[bytes, str]:
    """A form as a real client writes it; a tuple is a file, text a plain field."""
    files = {name: value for name, value in fields.items() if isinstance(value, tuple)}
    data = {name: value for name, value in fields.items() if not isinstance(value, tuple)}
    request = httpx.Request("POST", "http://x", data=data, files=files)
    return request.read(), request.headers["content-type"]


@given(st.binary(), st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1))
def test_a_file_comes_out_byte_for_byte(content: bytes, name: str) -> None:
    assert first_file(*encoded(note="ward 7", image=(name, content, "image/jpeg"))) == content


@pytest.mark.parametrize("content", [b"", b"\r\n", b"\r\n\r\n", b"--", b"\r\n--x", b"\xff\xd8\r\n\r\n--\r\n\xff\xd9"])
def test_line_ends_and_dashes_of_a_file_are_its_own(content: bytes) -> None:
    assert first_file(*encoded(image=("a.jpeg", content))) == content


def test_the_first_of_several_files_counts() -> None:
    """What comes before the form is skipped."""
    body, content_type = encoded(a=("1", b"first"), b=("2", b"second"))
    assert first_file(b"preamble\r\n" + body, content_type) == b"first"
    assert first_file(body, content_type.replace("boundary=", 'charset=x; Boundary="') + '"') == b"first"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        encoded(image="no file"),
        (b"", "multipart/form-data; boundary=x"),
        (b"--x", "multipart/form-data; boundary=x"),
        (b"--x\r\nfilename=a\r\n\r\ncut", "multipart/form-data; boundary=x"),
        (b"--x--\r\n", "multipart/form-data; boundary=x"),
        (b"--x\r\nfilename=a\r\n\r\n\r\n--x--", "multipart/form-data"),
        (b"--x\r\nfilename=a\r\n\r\n\r\n--x--", f"multipart/form-data; boundary={'x' * 71}"),
        (b"--x\r\n\r\n" * 100, "multipart/form-data; boundary=x"),
    ],
)
def test_a_form_without_a_whole_file_is_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(RequestMalformed, match="Expected a form with one image file"):
        first_file(body, content_type)


@given(st.binary(), st.sampled_from(["multipart/form-data; boundary=x", "multipart/form-data; boundary=\xff", "x"]))
def test_any_bytes_are_a_file_or_a_refusal(body: bytes, content_type: str) -> None:
    try:
        file = first_file(body, content_type)
    except RequestMalformed:
        return
    assert file in body
