"""boto3's S3 client as Lungline uses it: with its own address and keys, and its errors translated."""

# boto3 ships no types; it stays behind this module and `lungline.storage.s3`.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from pydantic import SecretStr

from lungline.errors import LunglineError
from lungline.network import proxies_for
from lungline.storage.errors import refusal, silence
from lungline.storage.kept_connections import CONNECT_SECONDS, READ_SECONDS
from lungline.storage.signing import ATTEMPTS, bad_address

CONNECTIONS = 64  # kept open by one client; threads beyond it open and close their own


def s3_client(endpoint: str | None, region: str, access_key: SecretStr | None, secret_key: SecretStr | None) -> Any:
    """A boto3 S3 client. Raises SettingsError for an address that is none.

    With an endpoint and keys, boto3 reads nothing else: no profile, no configuration file, no other endpoint and no
    session token of the environment. A store on this machine is asked without a proxy.
    """
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=CONNECTIONS,
        tcp_keepalive=True,
        proxies=proxies_for(endpoint),
        # Stores other than AWS address buckets by path, and not all of them accept the checksums that boto3 adds.
        s3={"addressing_style": "path" if endpoint else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        return _session(own=bool(endpoint and access_key and secret_key)).client(
            "s3",
            endpoint_url=endpoint,
            region_name=region,
            aws_access_key_id=access_key and access_key.get_secret_value(),
            aws_secret_access_key=secret_key and secret_key.get_secret_value(),
            config=config,
        )
    except ValueError as exc:
        raise bad_address(endpoint) from exc


def _session(*, own: bool) -> Any:
    """A session of its own: boto3's default one must not be shared by threads."""
    # The package itself, not one of its modules: those can be had while another thread is still importing it, and
    # sessions read its version.
    import boto3

    if not own:
        return boto3.Session()
    import botocore.session
    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES

    # Each variable keeps its default and loses its name in the environment and in configuration files.
    variables = {
        name: (None, None, default, convert)
        for name, (_, _, default, convert) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()
    }
    files = dict.fromkeys(("config_file", "credentials_file", "profile"), (None, None, None, None))
    return boto3.Session(botocore_session=botocore.session.Session(session_vars=variables | files))


@contextmanager
def translated(bucket: str, *, reading: bool = False) -> Generator[None]:
    """Raise errors of boto3 as StorageUnavailable, ObjectGone or LunglineError."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

    try:
        yield
    except ClientError as exc:
        raise refusal(code_of(exc), status_of(exc), bucket, reading=reading) from exc
    except (NoCredentialsError, PartialCredentialsError) as exc:
        raise LunglineError("No credentials for the object store: set LUNGLINE_S3_ACCESS_KEY and its secret.") from exc
    except Boto3Error as exc:  # transfers of files wrap the error that has the reason
        cause = exc.__cause__ or exc.__context__
        status = status_of(cause)
        raise (refusal(code_of(cause), status, bucket, reading=reading) if status else silence(exc, bucket)) from exc
    except (BotoCoreError, TimeoutError) as exc:
        raise silence(exc, bucket) from exc


def code_of(exc: object) -> str:
    """The error code of a store's refusal; empty for any other error."""
    return str(getattr(exc, "response", {}).get("Error", {}).get("Code", ""))


def status_of(exc: object) -> int:
    """The HTTP status of a store's refusal; 0 for any other error."""
    return int(getattr(exc, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
