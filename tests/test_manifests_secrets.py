"""Generated secrets, and the setup of the object store."""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

from tests.support.manifests_of import (
    DEFAULTS,
    MANIFESTS,
    fresh_secrets,
    generated_secrets,
    named,
    secret_keys,
    walk,
)


def test_secrets_are_random_and_hidden_from_terminals() -> None:
    first, second = fresh_secrets(), fresh_secrets()
    values = [
        {name: manifest["stringData"] for manifest in made for name in [manifest["metadata"]["name"]]}
        for made in (first, second)
    ]
    same = {
        f"{name} {key}"
        for name, held in values[0].items()
        for key, value in held.items()
        if values[1][name][key] == value and key not in {"user", "username", "protocol", "sasl.mechanism"}
    }
    assert same == set()
    script = (
        f"import pty, sys; sys.exit(pty.spawn([{sys.executable!r}, {str(MANIFESTS / 'generate_secrets.py')!r}]) >> 8)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "stringData" not in done.stdout


def test_store_of_an_earlier_release_gets_the_present_rights_and_keeps_its_keys() -> None:
    (present,) = [made["stringData"] for made in fresh_secrets() if made["metadata"]["name"] == "seaweedfs-identities"]
    expected = json.loads(present["s3.json"])
    former = expected | {"policies": [{"name": "worklist", "content": "{}"}]}
    shown = {"kind": "Secret", "data": {"s3.json": base64.b64encode(json.dumps(former).encode()).decode()}}
    command = [sys.executable, str(MANIFESTS / "generate_secrets.py"), "--policies"]
    done = subprocess.run(command, input=json.dumps(shown), capture_output=True, text=True, check=True, timeout=60)
    renewed = json.loads(done.stdout)
    assert renewed["metadata"]["name"] == "seaweedfs-identities"
    assert json.loads(renewed["stringData"]["s3.json"]) == expected


def test_kafkas_authority_can_sign_certificates() -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    held = {
        key: value
        for manifest in generated_secrets()
        for key, value in manifest["stringData"].items()
        if key in {"ca.crt", "ca.key"}
    }
    certificate = x509.load_pem_x509_certificate(held["ca.crt"].encode())
    key = serialization.load_pem_private_key(held["ca.key"].encode(), password=None)
    assert key.public_key() == certificate.public_key()
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    certificate.verify_directly_issued_by(certificate)


def test_the_store_setup_creates_every_user() -> None:
    setup = (MANIFESTS / "base/storage/setup.sh").read_text()
    subprocess.run(["sh", "-n", MANIFESTS / "base/storage/setup.sh"], check=True)
    users = {path.stem for path in (MANIFESTS / "base/storage/policies").glob("*.json")}
    (line,) = re.findall(r"for user in ([a-z ]+);", setup)
    assert (
        set(line.split()) == users == {name.removeprefix("s3-") for _, name in secret_keys() if name.startswith("s3-")}
    )


def test_policies_name_our_buckets_and_model() -> None:
    settings = dict(line.split("=", 1) for line in (MANIFESTS / "base/settings.env").read_text().split())
    ours = {value for name, value in settings.items() if name.endswith("_BUCKET")}
    for path in (MANIFESTS / "base/storage/policies").glob("*.json"):
        for _, value in walk(json.loads(path.read_text())):
            if isinstance(value, str) and value.startswith("arn:aws:s3:::"):
                bucket, _, key = value.removeprefix("arn:aws:s3:::").partition("/")
                assert bucket in ours, f"{path.name}: {value}"
                assert bucket != DEFAULTS.models_bucket or key in {"", "*"}, "the models of every task"


def test_the_store_setup_is_repeatable_and_hides_secrets(tmp_path: Path) -> None:
    """With an `mc` that writes down its arguments, and answers as the real one does when all is done already."""
    calls, setup = tmp_path / "calls", MANIFESTS / "base/storage"
    (tmp_path / "mc").write_text(
        f'#!/bin/sh\necho "$@" >> {calls}\n'
        'case "$*" in *"user add"*) read -r a; read -r s; test "$s" = "hidden-$a" || exit 9;; '
        '*attach*) echo "mc: The specified policy change is already in effect" >&2; exit 1;; esac\n'
    )
    (tmp_path / "mc").chmod(0o755)
    users = {path.stem for path in (setup / "policies").glob("*.json")}
    for user in users:
        (tmp_path / user).mkdir()
        (tmp_path / user / "access").write_text(user)
        (tmp_path / user / "secret").write_text(f"hidden-{user}")
    settings = dict(line.split("=", 1) for line in (setup.parent / "settings.env").read_text().split())
    env = {"PATH": f"{tmp_path}", "ROOT_ACCESS": "root", "ROOT_SECRET": "hidden-root"}  # mc and the shell, nothing else
    env |= settings | {"USERS": str(tmp_path), "SETUP": str(setup / "policies")}
    for _ in range(2):
        subprocess.run(["/bin/sh", setup / "setup.sh"], env=env, check=True, timeout=60, capture_output=True)
    commands = calls.read_text()
    assert "hidden" not in commands
    assert all(f"admin policy create store lungline-{user} {setup}/policies/{user}.json" in commands for user in users)
    # MinIO stores the address of a queue with its region, and takes one without for another queue.
    queue = f"arn:minio:sqs:{settings['LUNGLINE_S3_REGION']}:uploads:kafka"
    assert f"event add --ignore-existing store/{DEFAULTS.uploads_bucket} {queue} --event put" in commands
    for overlay in ("minikube", "production"):
        (store,) = named(overlay, "Deployment")["object-store"]["spec"]["template"]["spec"]["containers"]
        region = next(entry["valueFrom"] for entry in store["env"] if entry["name"] == "MINIO_REGION")
        assert region == {"configMapKeyRef": {"name": "settings", "key": "LUNGLINE_S3_REGION"}}
    for name, value in settings.items():
        if name.endswith("_BUCKET"):
            assert f"mb --ignore-existing store/{value}" in commands
            assert f"anonymous set none store/{value}" in commands
