"""A real node for the control plane: containerd with runc and the bridge plugin, kubelet, scheduler, kube-proxy.

It runs in the control plane's namespaces, so its mounts, its packet filter rules and its containers end with them.
"""

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.cluster.api import certificate_user
from tests.cluster.certificates import Pair
from tests.cluster.control_plane import ControlPlane
from tests.cluster.network import BRIDGE, HOST, SERVICES, SUBNET
from tests.cluster.node_groups import make_groups, remove_groups
from tests.cluster.process import Process

NODE = "node-1"
GROUP = "lungline-node"
PODS = f"{SUBNET}.0/24"
DNS = "10.96.0.10"
PAUSE = "localhost/lungline-test/pause:1"
PLUGINS = Path("/usr/lib/cni")
RUN = Path("/run/lungline-node")
# Folders that programs have fixed: inside, they are folders of the run.
FIXED = (RUN, Path("/var/log/pods"), Path("/var/log/containers"), Path("/var/lib/cni"))
START_SECONDS = 180


class Node:
    """One node, Ready when entered. `images` outlives the run: containerd's content and unpacked layers."""

    def __init__(self, plane: ControlPlane, images: Path) -> None:
        self.plane, self.images = plane, images
        self.folder = plane.folder / "node"
        self.socket = RUN / "containerd.sock"

    def __enter__(self) -> Self:
        make_groups(GROUP)
        self.folder.mkdir(exist_ok=True)
        self._prepare_mounts()
        self._prepare_network()
        self._start_containerd()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The kubelet first, so that it starts nothing again; then the containers."""
        for name in ("kubelet", "kube-proxy", "kube-scheduler"):
            for process in self.plane.processes:
                if process.name == name and process.running():
                    process.kill()
        for task in self.ctr("tasks", "list", "--quiet", check=False).split():
            self.ctr("tasks", "kill", "--signal", "KILL", task, check=False)
        self.containerd.stop()
        remove_groups(GROUP)

    def join(self) -> None:
        """Start what makes the node part of the cluster, and wait until it is Ready."""
        self._start_kubelet()
        self.plane.run(
            "kube-scheduler", [f"--kubeconfig={self._client('system:kube-scheduler')}", "--leader-elect=false"]
        )
        proxy = self._write("kube-proxy.json", _proxy(self._client("system:kube-proxy")))
        self.plane.run("kube-proxy", [f"--config={proxy}"])
        self.plane.process("kubelet").wait_until(self._ready, START_SECONDS)

    def ctr(self, *words: str, stdin: Any = None, check: bool = True, timeout: float = 600) -> str:
        """The output of containerd's own client, in the kubelet's name space of images and containers."""
        command = ["ctr", f"--address={self.socket}", "--namespace=k8s.io", *words]
        done = subprocess.run(command, stdin=stdin, capture_output=True, check=False, timeout=timeout)
        output = (done.stdout + done.stderr).decode(errors="replace")
        assert done.returncode == 0 or not check, f"ctr {' '.join(words)}: {output[-2000:]}"
        return done.stdout.decode(errors="replace")

    def _ready(self) -> bool:
        node = self.plane.api.get(f"/api/v1/nodes/{NODE}") or {}
        conditions = node.get("status", {}).get("conditions", [])
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)

    def _prepare_mounts(self) -> None:
        # Volumes that the kubelet mounts must appear in containers, so mounts propagate (within our namespace only).
        _run("mount", "--make-rshared", "/")
        for fixed in FIXED:
            own = self.folder / "fixed" / fixed.name
            own.mkdir(parents=True, exist_ok=True)
            fixed.mkdir(parents=True, exist_ok=True)
            _run("mount", "--bind", str(own), str(fixed))
        # Whoever plays the person at the laptop knows the cluster's names.
        names = self.folder / "resolv.conf"
        names.write_text(f"nameserver {DNS}\noptions timeout:2\n")
        _run("mount", "--bind", str(names), str(Path("/etc/resolv.conf").resolve()))

    def _prepare_network(self) -> None:
        _run("ip", "route", "replace", SERVICES, "dev", BRIDGE)
        _run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1")
        (self.folder / "cni").mkdir(exist_ok=True)
        self._write("cni/10-bridge.conflist", _network())

    def _start_containerd(self) -> None:
        settings = self.folder / "containerd.toml"
        settings.write_text(_containerd(self.images, self.folder / "cni"))
        self.containerd = Process("containerd", ["containerd", f"--config={settings}"], self.folder)
        self.containerd.wait_until(lambda: "Server" in self.ctr("version", check=False), START_SECONDS)

    def _start_kubelet(self) -> None:
        pair = self.plane.authority.sign(f"system:node:{NODE}", organisation="system:nodes", hosts=(HOST, NODE))
        access = self.plane.kubeconfig_of({"kubelet": certificate_user(pair)}, "kubelet")
        (self.folder / "no-names").write_text("nameserver 127.0.0.1\n")  # for pods beside CoreDNS, which ask nobody
        config = self._write("kubelet.json", self._kubelet(pair))
        root = self.folder / "kubelet"
        flags = [f"--config={config}", f"--kubeconfig={access}", f"--root-dir={root}", f"--cert-dir={root}/pki"]
        self.plane.run("kubelet", [*flags, f"--hostname-override={NODE}", f"--node-ip={HOST}"])

    def _client(self, name: str) -> Path:
        pair = self.plane.authority.sign(name)
        return self.plane.kubeconfig_of({name: certificate_user(pair)}, name.replace(":", "-"))

    def _write(self, name: str, value: Any) -> Path:
        path = self.folder / name
        path.write_text(json.dumps(value))
        return path

    def _kubelet(self, pair: Pair) -> dict[str, Any]:
        authority = str(self.plane.authority.pair.certificate)
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": HOST,
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{GROUP}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": ["none"],
            "clusterDNS": [DNS],
            "clusterDomain": "cluster.local",
            "resolvConf": str(self.folder / "no-names"),
            "authentication": {"x509": {"clientCAFile": authority}, "webhook": {"enabled": True}},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(pair.certificate),
            "tlsPrivateKeyFile": str(pair.key),
            "volumePluginDir": str(self.folder / "plugins"),
            # The disk is shared with others, and the next run wants the images again.
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "serializeImagePulls": False,
        }


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def _network() -> dict[str, Any]:
    addresses = {"subnet": PODS, "rangeStart": f"{SUBNET}.100", "rangeEnd": f"{SUBNET}.250", "gateway": HOST}
    ipam = {"type": "host-local", "ranges": [[addresses]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "hairpinMode": True, "ipam": ipam}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}


def _containerd(images: Path, plugins: Path) -> str:
    runtime = '[plugins."io.containerd.grpc.v1.cri"'
    return f"""version = 2
root = "{images}"
state = "{RUN}/containerd"
[grpc]
  address = "{RUN}/containerd.sock"
{runtime}]
  sandbox_image = "{PAUSE}"
  # Without CAP_SYS_RESOURCE, which containers and small machines often lack, nobody may lower his score.
  restrict_oom_score_adj = true
{runtime}.cni]
  bin_dir = "{PLUGINS}"
  conf_dir = "{plugins}"
{runtime}.containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "runc"
{runtime}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"""


def _proxy(access: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(access)},
        "mode": "iptables",
        "clusterCIDR": PODS,
        "hostnameOverride": NODE,
        # Connection tracking belongs to the machine, not to us.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
