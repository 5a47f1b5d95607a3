"""Print the secrets that the manifests name, with new random values, for a cluster that has none yet.

    python manifests/generate_secrets.py | kubectl create -f -

The values go through the pipe and nowhere else. `kubectl create` refuses what exists, so running it twice changes
nothing. In production a vault makes the same secrets under the same names and keys (docs/cluster.md).

The component seaweedfs has the rights of the store's users in a secret too. After an upgrade this gives the users of an
existing one the rights that this release needs, and keeps their keys:

    kubectl -n lungline get secret seaweedfs-identities -o json |
      python manifests/generate_secrets.py --policies | kubectl replace -f -
"""

import base64
import json
import secrets
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

NAMESPACE, PIPELINES = "lungline", "kubeflow"
CLUSTER = "xray"
S3_USERS = ("scanner", "predictor", "pipeline", "mlflow", "worklist", "reconcile", "retention")
KAFKA_USERS = ("object-store", "eventing", "tools", "dossier")
# The store for KServe's storage initializer, which reads no other setting.
STORE = {
    "serving.kserve.io/s3-endpoint": "object-store.lungline.svc.cluster.local:9000",
    "serving.kserve.io/s3-usehttps": "0",
    "serving.kserve.io/s3-verifyssl": "0",
    "serving.kserve.io/s3-usevirtualbucket": "0",
    "serving.kserve.io/s3-useanoncredential": "0",
    "serving.kserve.io/s3-region": "us-east-1",
}
VALID = timedelta(days=3650)


def secret(
    name: str, values: dict[str, str], *, namespace: str = NAMESPACE, annotations: dict[str, str] | None = None
) -> dict[str, Any]:
    """A secret as Kubernetes takes it."""
    labels = {"app.kubernetes.io/part-of": "lungline"}
    metadata: dict[str, Any] = {"name": name, "namespace": namespace, "labels": labels}
    if annotations:
        metadata["annotations"] = annotations
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}


def s3_secrets() -> Iterator[dict[str, Any]]:
    """Access keys of the store's users, and the same for SeaweedFS in the form that it reads."""
    keys = {user: (secrets.token_hex(10).upper(), secrets.token_urlsafe(30)) for user in ("root", *S3_USERS)}
    for user, (access, key) in keys.items():
        values = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": key}
        name = "object-store-root" if user == "root" else f"s3-{user}"
        yield secret(name, values, annotations=STORE if user == "predictor" else None)
        if user == "pipeline":
            yield secret(name, values, namespace=PIPELINES)
    yield secret("seaweedfs-identities", {"s3.json": json.dumps(_identities(keys))})


def _identities(keys: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """Users by their keys."""
    identities: list[dict[str, Any]] = []
    for user, (access, key) in keys.items():
        identity: dict[str, Any] = {"name": user, "credentials": [{"accessKey": access, "secretKey": key}]}
        if user == "root":
            identity["actions"] = ["Admin"]
        else:
            identity["policyNames"] = [user]
        identities.append(identity)
    return {"identities": identities, "policies": _policies()}


def _policies() -> list[dict[str, str]]:
    """Everybody's policy is the very file that MinIO's setup takes."""
    folder = Path(__file__).parent / "base/storage/policies"
    return [{"name": user, "content": (folder / f"{user}.json").read_text()} for user in S3_USERS]


def with_policies(existing: dict[str, Any]) -> dict[str, Any]:
    """The secret seaweedfs-identities with the present policies; `existing` is as `kubectl get` shows it."""
    identities = json.loads(base64.b64decode(existing["data"]["s3.json"]))
    return secret("seaweedfs-identities", {"s3.json": json.dumps(identities | {"policies": _policies()})})


def kafka_secrets() -> Iterator[dict[str, Any]]:
    """Kafka's certificate authority, and its users' passwords in the form that Knative and MinIO read."""
    certificate, key = _authority()
    labels = {"strimzi.io/kind": "Kafka", "strimzi.io/cluster": CLUSTER}
    for name, values, generation in (
        (f"{CLUSTER}-cluster-ca-cert", {"ca.crt": certificate}, "ca-cert-generation"),
        (f"{CLUSTER}-cluster-ca", {"ca.key": key}, "ca-key-generation"),
    ):
        made = secret(name, values, annotations={f"strimzi.io/{generation}": "0"})
        made["metadata"]["labels"] |= labels
        yield made
    for user in KAFKA_USERS:
        values = {"user": user, "password": secrets.token_urlsafe(30)}
        if user == "eventing":
            values |= {"protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512", "ca.crt": certificate}
        yield secret(f"kafka-{user}", values)


def _authority() -> tuple[str, str]:
    """A self-signed certificate authority and its key (PKCS 8), as Strimzi wants its users' own."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=4096)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{CLUSTER} cluster authority")])
    usage = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    )
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False, **usage),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(pem).decode(), private.decode()


def database_secrets() -> Iterator[dict[str, Any]]:
    """Passwords of PostgreSQL's users, and the addresses that hold them."""
    server, mlflow, worklist = (secrets.token_urlsafe(30) for _ in range(3))
    host = f"postgres.{NAMESPACE}.svc.cluster.local:5432"
    yield secret(
        "postgres",
        {
            "postgres-password": server,
            "mlflow-password": mlflow,
            "worklist-password": worklist,
            "mlflow-uri": f"postgresql+psycopg://mlflow:{mlflow}@{host}/mlflow",
            "worklist-uri": f"postgresql+psycopg://worklist:{worklist}@{host}/worklist",
        },
    )


def site_secrets() -> Iterator[dict[str, Any]]:
    """The key that signs packages and history, for the pipeline; its public half, for the predictor; that of proofs."""
    private, public = _key_pair()
    yield secret("site-key", {"private": private}, namespace=PIPELINES)
    yield secret("site-public-key", {"public": public})
    # Not the site's key: what signs proofs of erasures must not be able to sign a model.
    private, public = _key_pair()
    yield secret("retention-key", {"private": private, "public": public})
    # And what signs dossiers must be able to sign neither: it is in a pod that people reach.
    private, public = _key_pair()
    yield secret("dossier-key", {"private": private, "public": public})


def _key_pair() -> tuple[str, str]:
    """A new key (P-256) and its public half, as PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, pem = ec.generate_private_key(ec.SECP256R1()), serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    return private, key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def mlflow_secrets() -> Iterator[dict[str, Any]]:
    """MLflow's accounts for its server, and the login of each for those who use it."""
    accounts = {name: secrets.token_urlsafe(30) for name in ("pipeline", "people", "dossier")}
    yield secret("mlflow", {"accounts.json": json.dumps(accounts)})
    for name, password in accounts.items():
        values = {"username": name, "password": password}
        yield secret(f"mlflow-{name}", values, namespace=PIPELINES if name == "pipeline" else NAMESPACE)


def all_secrets() -> list[dict[str, Any]]:
    """Every secret that the manifests name, but for those that only a house can know (production)."""
    worklist = {"secret": secrets.token_urlsafe(48), "event-token": secrets.token_urlsafe(30)}
    research = {"secret": secrets.token_urlsafe(48)}
    gateway, viewers = ({"token": secrets.token_urlsafe(30)} for _ in range(2))
    made = (*s3_secrets(), *kafka_secrets(), *database_secrets(), *site_secrets(), *mlflow_secrets())
    named = {"worklist": worklist, "research": research, "dicom-gateway": gateway, "worklist-viewers": viewers}
    return [*made, *(secret(name, values) for name, values in named.items())]


def main() -> int:
    """Print them as one list; refuse a terminal, where they would stay to be read."""
    if sys.stdout.isatty():
        print(f"These are secrets: pipe them, as in `python {sys.argv[0]} | kubectl create -f -`.", file=sys.stderr)
        return 1
    if sys.argv[1:] == ["--policies"]:
        json.dump(with_policies(json.load(sys.stdin)), sys.stdout)
        return 0
    json.dump({"apiVersion": "v1", "kind": "List", "items": all_secrets()}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
