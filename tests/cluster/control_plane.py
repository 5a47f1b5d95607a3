"""etcd, the API server and the controller manager, as a cluster's control plane starts them.

`with ControlPlane(folder) as plane:` needs an isolated namespace, where all ports are free (isolation.py).
"""

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.cluster.api import Api, Object, certificate_user, write_kubeconfig
from tests.cluster.binaries import PROGRAMS
from tests.cluster.certificates import Authority
from tests.cluster.network import HOST, SERVICES, Bridge
from tests.cluster.process import Process
from tests.support.manifests_of import kubectl

ADDRESS = f"https://{HOST}:6443"
START_SECONDS = 120
ADMINISTRATORS = "system:masters"
ISSUER = "https://kubernetes.default.svc.cluster.local"
NAMES = (HOST, "10.96.0.1", "127.0.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


class ControlPlane:
    """A running control plane; its logs, certificates and data lie in a folder of the caller's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bridge = Bridge()
        self.authority = Authority(folder)
        self._server = self.authority.sign("kube-apiserver", hosts=NAMES)
        self._tokens = self.authority.signing_key("service-accounts")
        administrator = self.authority.sign("administrator", organisation=ADMINISTRATORS)
        self._administrator = administrator
        self.api = Api(ADDRESS, self.authority.pair.certificate, administrator)
        self.kubeconfig = self.kubeconfig_of({"administrator": certificate_user(administrator)}, "administrator")
        self.processes: list[Process] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def start_api_server(self) -> Process:
        """Start the API server and wait until it serves; also to start it again after a stop."""
        server = self.run("kube-apiserver", self._api_server_flags())
        server.wait_until(lambda: self.api.text("/readyz") == "ok", START_SECONDS)
        return server

    def run(self, name: str, arguments: list[str], **options: Any) -> Process:
        """Run a program of the cluster until the control plane stops; options as of Process."""
        process = Process(name, [PROGRAMS[name].path, *arguments], self.folder, **options)
        self.processes.append(process)
        return process

    def process(self, name: str) -> Process:
        """The newest process of a program."""
        return next(process for process in reversed(self.processes) if process.name == name)

    def kubeconfig_of(self, users: dict[str, Object], name: str) -> Path:
        path = self.folder / f"{name}.kubeconfig"
        return write_kubeconfig(path, ADDRESS, self.authority.pair.certificate, users, current=next(iter(users)))

    def account_kubeconfig(self, namespace: str, account: str) -> Path:
        """A kubeconfig of a service account, whose rights are therefore the manifests' own."""
        users = {account: {"token": self.api.token(namespace, account)}}
        return self.kubeconfig_of(users, f"{namespace}-{account}")

    def kubectl(
        self, *arguments: str, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """kubectl as the administrator."""
        command = [kubectl(), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=180)
        assert done.returncode == 0 or not check, f"kubectl {' '.join(arguments)}:\n{done.stderr}"
        return done

    def _start(self) -> None:
        data = f"--data-dir={self.folder / 'etcd'}"
        # A test cluster may lose its last second: fsync costs most of the start on a busy disk.
        etcd = self.run("etcd", [data, "--unsafe-no-fsync", "--log-level=warn"])
        etcd.wait_until(lambda: _answers("http://127.0.0.1:2379/health"), START_SECONDS)
        self.start_api_server()
        manager = self.authority.sign("system:kube-controller-manager")
        config = self.kubeconfig_of({"manager": certificate_user(manager)}, "kube-controller-manager")
        ca = self.authority.pair
        self.run(
            "kube-controller-manager",
            [
                *(f"--kubeconfig={config}", f"--root-ca-file={ca.certificate}", "--leader-elect=false"),
                *(f"--service-account-private-key-file={self._tokens.key}", "--use-service-account-credentials"),
                *(f"--cluster-signing-cert-file={ca.certificate}", f"--cluster-signing-key-file={ca.key}"),
                "--bind-address=127.0.0.1",
            ],
        )
        self._await_accounts()

    def _await_accounts(self) -> None:
        """The controller manager works once it has made the default account."""
        path = "/api/v1/namespaces/default/serviceaccounts/default"
        self.process("kube-controller-manager").wait_until(lambda: self.api.get(path), START_SECONDS)

    def _api_server_flags(self) -> list[str]:
        ca, admin = self.authority.pair.certificate, self._administrator
        return [
            *("--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443", f"--advertise-address={HOST}"),
            *(f"--tls-cert-file={self._server.certificate}", f"--tls-private-key-file={self._server.key}"),
            *(f"--client-ca-file={ca}", "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"),
            # Webhooks are called at the addresses of their EndpointSlices, so that no kube-proxy is needed.
            *("--enable-aggregator-routing=true", "--allow-privileged=true", f"--service-cluster-ip-range={SERVICES}"),
            *(f"--service-account-issuer={ISSUER}", f"--service-account-key-file={self._tokens.certificate}"),
            f"--service-account-signing-key-file={self._tokens.key}",
            *(f"--kubelet-client-certificate={admin.certificate}", f"--kubelet-client-key={admin.key}"),
            "--kubelet-preferred-address-types=InternalIP",  # nobody resolves the names of nodes
        ]

    def _stop(self) -> None:
        for process in reversed(self.processes):
            # The namespace's end would kill them too; an orderly end shows faults of the end itself.
            process.kill() if process.name == "etcd" else process.stop()
        self.api.close()


def _answers(address: str) -> bool:
    import httpx

    try:
        return httpx.get(address, timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False
