"""A whole cluster for the tests of this folder: one for all of them, because it takes a minute to start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import isolation
from tests.cluster.cluster import Cluster, running_cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with the secrets of the manifests, and nothing else of them."""
    if not isolation.is_isolated():
        pytest.skip("a real control plane runs in namespaces of its own: `make cluster-test`")
    with running_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def overlay(cluster: Cluster) -> Iterator[Path]:
    """The overlay minikube, applied; its namespace is deleted at the end."""
    cluster.create_secrets()
    cluster.apply_overlay("minikube")
    yield Path("minikube")
    cluster.remove_overlay()
