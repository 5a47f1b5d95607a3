"""The error codes of object stores, as Lungline's errors."""

from lungline.errors import LunglineError, ObjectGone, StorageUnavailable

_GONE = {"404", "NoSuchKey", "NoSuchVersion", "NotFound"}
# Responses to a read that can never succeed: a key or version id that the store does not allow, a delete marker.
_IMPOSSIBLE = {
    *("InvalidArgument", "InvalidRequest", "InvalidURI", "KeyTooLongError", "MethodNotAllowed"),
    "XMinioInvalidObjectName",
}
_BUSY = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "TooManyRequests", "Throttling"}
_CREDENTIALS = {"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


def refusal(code: str, status: int, bucket: str, *, reading: bool) -> LunglineError:
    """The error for a store's response with this error code and HTTP status; `reading` for GET and HEAD requests."""
    if code == "NoSuchBucket":
        return LunglineError(f"The object store has no bucket {bucket}.")
    if code in _GONE or (reading and code in _IMPOSSIBLE):
        return ObjectGone(f"The object is not in bucket {bucket}.")
    if is_busy(code, status):
        return StorageUnavailable(f"The object store cannot serve bucket {bucket} now ({code}).")
    if code == "RequestTimeTooSkewed":
        return StorageUnavailable(
            f"The object store refuses requests for bucket {bucket}: this machine's clock and its own differ too much."
        )
    if code in _CREDENTIALS:
        return LunglineError(f"The object store refuses these credentials for bucket {bucket} ({code}).")
    return LunglineError(f"The object store refused a request for bucket {bucket} ({code}).")


def is_busy(code: str, status: int) -> bool:
    """Whether the same request may succeed later."""
    return code in _BUSY or status in {408, 429} or (status >= 500 and status != 501)


def silence(exc: BaseException, bucket: str) -> StorageUnavailable:
    """The error for a store that does not answer at all."""
    return StorageUnavailable(f"The object store does not answer for bucket {bucket} ({type(exc).__name__}).")
