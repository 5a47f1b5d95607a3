"""Images from buildah's store into containerd's, which keeps them between runs."""

import json
import subprocess

from tests.cluster.images import PIPELINE, TOOLS_IMAGE, images
from tests.cluster.node import Node

LOAD_SECONDS = 900


def load_images(node: Node) -> list[str]:
    """Bring every image that containerd lacks, or has in an older form; the names of what was brought."""
    noted = node.images / "loaded.json"
    digests: dict[str, str] = json.loads(noted.read_text()) if noted.exists() else {}
    present = set(node.ctr("images", "list", "--quiet").split())
    brought: list[str] = []
    for name in (image.name for image in images()):
        identity = _identity(name)
        if digests.get(name) == identity and name in present:
            continue
        _load(node, name)
        digests[name] = identity
        noted.write_text(json.dumps(digests))
        brought.append(name)
    node.ctr("images", "tag", "--force", TOOLS_IMAGE, PIPELINE)
    return brought


def _identity(name: str) -> str:
    command = ["buildah", "inspect", "--type=image", "--format={{.FromImageID}}", name]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def _load(node: Node, name: str) -> None:
    # An archive of Docker's kind holds the name; through a pipe, because the largest has some gigabytes.
    push = ["buildah", "push", "--quiet", name, f"docker-archive:/dev/stdout:{name}"]
    with subprocess.Popen(push, stdout=subprocess.PIPE) as source:
        node.ctr("images", "import", "-", stdin=source.stdout, timeout=LOAD_SECONDS)
        assert source.wait(60) == 0, f"buildah could not push {name}"
