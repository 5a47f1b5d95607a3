"""The few calls to the Kubernetes API that a promotion needs, through the official client.

The client's call for custom objects cannot send `application/apply-patch+yaml`, so the calls here name their paths.
"""

# The client ships no types; it stays behind this module.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from lungline.errors import LunglineError, Unavailable

Json = dict[str, Any]
CALL_SECONDS = 15.0
_PASSING = {0, 409, 429}
"""Besides 5xx; a conflict with another change (409) is over when that change is."""
_HINTS = {
    401: " Sign in again, or renew the kubeconfig.",
    404: " `lungline doctor --cluster` says what is missing.",
}


class ClusterUnavailable(Unavailable):
    """The Kubernetes API does not answer, or cannot answer now."""


class ClusterRefused(LunglineError):
    """The Kubernetes API refuses: a missing right, which the message names, an unknown kind, or an invalid object."""


class KubernetesApi:
    """Calls to one cluster; raises ClusterUnavailable and ClusterRefused."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @classmethod
    def connect(cls, context: str | None = None) -> "KubernetesApi":
        """Connect to the cluster that this process runs in, or else to the kubeconfig's context."""
        from kubernetes import client, config
        from kubernetes.config.config_exception import ConfigException

        configuration = client.Configuration()
        try:
            if context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=configuration)
            else:
                config.load_kube_config(context=context, client_configuration=configuration)
        except ConfigException as exc:
            raise ClusterRefused(f"Cannot connect to a cluster: {exc} See `kubectl config get-contexts`.") from exc
        # The client's own three retries would multiply the timeout.
        configuration.retries = False  # pyright: ignore[reportAttributeAccessIssue] - urllib3 takes it
        return cls(client.ApiClient(configuration))

    def get(self, path: str) -> Json | None:
        """Read an object, or a list of objects under `items`; None when there is none."""
        try:
            return self._call("GET", path)
        except ClusterRefused as exc:
            if getattr(exc.__cause__, "status", None) == 404:
                return None
            raise

    def apply(self, path: str, body: Json, manager: str) -> Json:
        """Server-side apply: the manager owns the fields of `body` and gives up those that it no longer sends.

        With `metadata.uid` in the body it changes that object only, and does not create one.
        """
        query = [("fieldManager", manager), ("force", "true")]
        return self._call("PATCH", path, body, "application/apply-patch+yaml", query)

    def _call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        kind: str = "application/json",
        query: list[tuple[str, str]] | None = None,
    ) -> Json:
        with _translated():
            response = self._client.call_api(
                path,
                method,
                query_params=query or [],
                header_params={"Accept": "application/json", "Content-Type": kind},
                body=body,
                response_type="object",
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _request_timeout=CALL_SECONDS,
            )
        return cast("Json", response)


@contextmanager
def _translated() -> Generator[None]:
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as exc:
        sentence = _sentence(exc)
        another_object = exc.status == 409 and "uid mismatch" in sentence  # it will not come back
        if (exc.status in _PASSING and not another_object) or (exc.status or 0) >= 500:
            raise ClusterUnavailable(f"The Kubernetes API cannot answer now: {sentence}") from exc
        hint = _HINTS.get(exc.status or 0, "")
        raise ClusterRefused(f"The Kubernetes API refuses: {sentence}{hint}") from exc
    except HTTPError as exc:
        raise ClusterUnavailable(f"The Kubernetes API does not answer ({type(exc).__name__}).") from exc


def _sentence(exc: Any) -> str:
    """The message of the API server's Status object, or else the HTTP status."""
    try:
        message = json.loads(exc.body or "")["message"]
    except (ValueError, TypeError, LookupError):
        message = f"{exc.status} {exc.reason}"
    return str(message).rstrip(".") + "."
