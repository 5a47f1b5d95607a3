"""The tests' own client of the API server, and kubeconfigs; the product's client does not test itself."""

import json
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.certificates import Pair

Object = dict[str, Any]
MERGE = "application/merge-patch+json"


class Api:
    """Calls with a client certificate; every refusal is an error that holds the server's words."""

    def __init__(self, address: str, authority: Path, client: Pair) -> None:
        context = ssl.create_default_context(cafile=str(authority))
        context.load_cert_chain(client.certificate, client.key)
        self._client = httpx.Client(base_url=address, verify=context, timeout=30, trust_env=False)

    def get(self, path: str) -> Object | None:
        """An object; None when there is none."""
        response = self._client.get(path)
        return None if response.status_code == 404 else self._checked(response)

    def items(self, path: str) -> list[Object]:
        return self._checked(self._client.get(path))["items"]

    def post(self, path: str, body: Object) -> Object:
        return self._checked(self._client.post(path, json=body))

    def patch(self, path: str, body: Object, kind: str = MERGE) -> Object:
        return self._checked(self._client.patch(path, json=body, headers={"content-type": kind}))

    def delete(self, path: str, *, at_once: bool = False) -> None:
        query = {"gracePeriodSeconds": 0} if at_once else {}
        response = self._client.delete(path, params=query)
        if response.status_code != 404:
            self._checked(response)

    def text(self, path: str) -> str | None:
        """What a path such as /readyz answers; None when nothing does, or not with 200."""
        try:
            response = self._client.get(path, timeout=2)
        except httpx.HTTPError:
            return None
        return response.text if response.is_success else None

    def token(self, namespace: str, account: str) -> str:
        """A token of a service account, as its pod would have one."""
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 86400},
        }
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        return str(self.post(path, request)["status"]["token"])

    def close(self) -> None:
        self._client.close()

    @staticmethod
    def _checked(response: httpx.Response) -> Object:
        assert response.is_success, f"{response.request.method} {response.request.url.path}: {response.text[:2000]}"
        return response.json()


def write_kubeconfig(path: Path, address: str, authority: Path, users: dict[str, Object], current: str) -> Path:
    """A kubeconfig with one context for each user, named like the user."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": {"server": address, "certificate-authority": str(authority)}}],
        "users": [{"name": name, "user": user} for name, user in users.items()],
        "contexts": [{"name": name, "context": {"cluster": "tests", "user": name}} for name in users],
        "current-context": current,
    }
    path.write_text(json.dumps(config))  # which is YAML too
    path.chmod(0o600)
    return path


def certificate_user(pair: Pair) -> Object:
    return {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}


def messages(events: Iterable[Object], reason: str) -> list[str]:
    """What events of a reason say."""
    return [event["message"] for event in events if event["reason"] == reason]
