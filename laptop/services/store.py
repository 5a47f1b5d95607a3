"""The object store: SeaweedFS in one process, with generated credentials that it enforces.

Every listener is on 127.0.0.1. The S3 port requires the identities of `s3.json`; gRPC and the HTTP ports of master,
volume server and filer require the store's certificate, because some of them require nothing else for harmful requests.
Besides, the store runs in a network of its own (`store_gate`), of which this machine sees the S3 port and the filer's
gRPC port. Where the system allows no such network, the certificates alone keep other users of the machine out.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pydantic import SecretStr

from eventing.seaweedfs_tls import secure
from laptop.home.credentials import Credentials, Key, claim_credentials
from laptop.home.disk import SMALL_VOLUME_MB, SMALL_VOLUMES_BELOW
from laptop.home.ports import Ports, claim_ports
from laptop.home.store_files import find_weed, forget_store_files
from laptop.home.store_growth import note_growth
from laptop.services.process import running
from laptop.services.service import Command, base_environment
from lungline.errors import LunglineError
from lungline.home import Home, write_json
from lungline.network import HOST
from lungline.service_state import State, number_of, read_state
from lungline.settings import Settings
from lungline.storage.contents import Contents
from lungline.storage.s3 import Storage

BROKER_BUCKET = "tansu"
"""Where earlier releases kept the broker's log."""
# Target of the store's garbage collector. Without it, objects of 50 MB left the store with 570 MB resident instead of
# 220 MB, for a fifth less processor time; small objects cost the same.
MEMORY_LIMIT = "350MiB"
UPLOAD = [
    f"s3:{action}"
    for action in (
        "PutObject",
        "CreateMultipartUpload",
        "UploadPart",
        "CompleteMultipartUpload",
        "AbortMultipartUpload",
    )
]


@dataclass(frozen=True)
class Store:
    """The embedded object store."""

    home: Home
    settings: Settings
    ports: Ports
    credentials: Credentials = field(repr=False)

    name = "store"
    after = ()
    stop_timeout = 5.0
    notice_seconds = 0.0

    @property
    def address(self) -> str:
        """The S3 endpoint."""
        return f"http://{HOST}:{self.ports.s3}"

    @property
    def listens(self) -> tuple[int, ...]:
        """Of its gate; where it has no network of its own, the ports behind them are new at each start."""
        return self.ports.s3, self.ports.filer_grpc

    @property
    def buckets(self) -> tuple[str, ...]:
        """The buckets that it makes at its first start."""
        ours = self.settings
        of_uploads = (ours.uploads_bucket, ours.results_bucket, ours.patients_bucket, ours.research_bucket)
        return (*of_uploads, ours.models_bucket, ours.mlflow_bucket)

    def connected(self) -> Settings:
        """The settings with this store's address and its owner's credentials."""
        return self.settings.model_copy(
            update={
                "s3_endpoint": self.address,
                "s3_access_key": SecretStr(self.credentials.owner.access_key),
                "s3_secret_key": SecretStr(self.credentials.owner.secret_key),
            }
        )

    def command(self) -> Command:
        """Write its configuration; returns how to start it."""
        config, data = self.home.file("store", "config"), self.home.file("store", "data")
        forget_store_files(self.home)
        secure(config, self.credentials.signing)
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(config / "s3.json", self._identities())
        options = {
            "dir": data,
            "ip": HOST,
            "ip.bind": HOST,
            "s3.config": config / "s3.json",
            "webdav": "false",
            "admin.ui": "false",
            "master.telemetry": "false",
            # A master that resumes its elections and wins the first at once hands out no space for 15 seconds, in which
            # other servers might report their volumes. Here there are none; the volumes say what the log would.
            "master.resumeState": "false",
            "volume.preStopSeconds": 0,  # no other server waits for the announcement of its end
            # The store ends when these ports are taken, and neither Iceberg nor Lance is used.
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            **_volume_options(self.home),
            **_port_options(self.ports),
            **_socket_options(self.home),
        }
        gate = (sys.executable, "-P", "-m", "laptop.services.store_gate", "--door", f"s3.port={self.ports.s3}")
        gate += ("--door", f"filer.port.grpc={self.ports.filer_grpc}")
        gate += ("--data", str(data))
        gate += ("--report", str(self.home.file("run", "store_gate.json")), "--")
        weed = (*gate, find_weed(), "-logtostderr", f"-config_dir={config}", "mini")
        env = base_environment() | {"GOMEMLIMIT": MEMORY_LIMIT}
        return Command((*weed, *(f"-{name}={value}" for name, value in options.items())), env, data)

    def probe(self, pid: int) -> State:
        """Ready once the owner can write: the store answers some time before its volumes do; then while it answers."""
        try:
            if pid in self._begun:
                self._storage.exists(self.settings.models_bucket, ".ready")
                return "ready"
            Contents(self.home, self._storage).settle(self.buckets, used=self._was_used)
            with ThreadPoolExecutor(len(self.buckets)) as pool:
                # Not to the uploads bucket, where the object would be an upload.
                list(pool.map(self._try_out, self.buckets[1:]))
        except LunglineError:
            return "starting"
        self._begun.add(pid)
        return "ready"

    @property
    def _was_used(self) -> bool:
        """Whether the home has had uploads or a model, so that a store without buckets is not a new one."""
        delivered = number_of(read_state(self.home, "bridge"), "delivered")
        return delivered > 0 or self.home.file("predictor", "history.json").exists()

    def _try_out(self, bucket: str) -> None:
        """Write to a bucket: the first object waits 0.2 s for a volume, and that should not be a result."""
        self._storage.put(bucket, ".ready", b"ready")
        self._storage.delete(bucket, ".ready")

    def maintain(self) -> None:
        """List what its files have grown to, for the next start after a kill."""
        note_growth(self.home)

    @cached_property
    def _begun(self) -> set[int]:
        """The processes that have been ready."""
        return set()

    @cached_property
    def _storage(self) -> Storage:
        return Storage.from_settings(self.connected())

    def _identities(self) -> dict[str, object]:
        owner = {"name": "owner", "credentials": [_pair(self.credentials.owner)], "actions": ["Admin"]}
        # A policy instead of the store's own action Write, which would also allow a scanner to delete.
        scanner = {"name": "scanner", "credentials": [_pair(self.credentials.scanner)], "policyNames": ["upload"]}
        statement = {
            "Effect": "Allow",
            "Action": UPLOAD,
            "Resource": [f"arn:aws:s3:::{self.settings.uploads_bucket}/*"],
        }
        mlflow = {"name": "mlflow", "credentials": [_pair(self.credentials.mlflow)], "policyNames": ["mlflow"]}
        policies = [_policy("upload", statement), _policy("mlflow", *_own_bucket(self.settings.mlflow_bucket))]
        return {"identities": [owner, scanner, mlflow], "policies": policies}


@contextmanager
def running_store(home: Path, settings: Settings) -> Iterator[Settings]:
    """A store alone; yields the settings completed with its address and credentials."""
    made = Home.make(home)
    store = Store(made, settings, claim_ports(made), claim_credentials(made))
    with running(store, made.log(store.name)):
        yield store.connected()


def _pair(key: Key) -> dict[str, str]:
    return {"accessKey": key.access_key, "secretKey": key.secret_key}


def _policy(name: str, *statements: dict[str, object]) -> dict[str, str]:
    return {"name": name, "content": json.dumps({"Version": "2012-10-17", "Statement": statements})}


def _own_bucket(bucket: str) -> tuple[dict[str, object], dict[str, object]]:
    """What MLflow may do, as on a cluster (manifests/base/storage/policies/mlflow.json)."""
    resource = f"arn:aws:s3:::{bucket}"
    actions = ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload", "ListMultipartUploadParts")
    objects = {"Effect": "Allow", "Action": [f"s3:{action}" for action in actions], "Resource": [f"{resource}/*"]}
    listing = ["s3:ListBucket", "s3:GetBucketLocation"]
    return objects, {"Effect": "Allow", "Action": listing, "Resource": [resource]}


def _volume_options(home: Home) -> dict[str, int]:
    """Small volumes on a small disk: the store chooses their size by the whole disk, also when little of it is free."""
    small = shutil.disk_usage(home.path).free < SMALL_VOLUMES_BELOW
    return {"master.volumeSizeLimitMB": SMALL_VOLUME_MB} if small else {}


def _port_options(ports: Ports) -> dict[str, int]:
    names = ("s3", "master", "volume", "filer")
    plain = {f"{name}.port": getattr(ports, name) for name in (*names, "admin")}
    options = plain | {f"{name}.port.grpc": getattr(ports, f"{name}_grpc") for name in names}
    # The gate has these, and chooses the ports behind them.
    return {name: port for name, port in options.items() if name not in {"s3.port", "filer.port.grpc"}}


def _socket_options(home: Home) -> dict[str, Path]:
    """The sockets in the home folder instead of in /tmp, unless its path is too long for a socket."""
    sockets = {f"{name}.localSocket": home.file("run", f"{name}.sock") for name in ("s3", "filer")}
    return sockets if all(len(os.fsencode(path)) < 100 for path in sockets.values()) else {}
