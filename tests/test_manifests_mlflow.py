"""The MLflow server of the cluster has the switches of the laptop's."""

from pathlib import Path

from laptop.home.credentials import claim_credentials
from laptop.home.ports import claim_ports
from laptop.services.mlflow import Mlflow
from lungline.home import Home
from tests.support.manifests_of import DEFAULTS, named


def test_cluster_switches_off_what_laptop_switches_off(tmp_path: Path) -> None:
    """With MLflow's job runners the pod exceeded its 1 GiB on the first run that was logged."""
    home = Home.make(tmp_path)
    laptop = Mlflow(home, DEFAULTS, claim_ports(home), claim_credentials(home)).command().env
    container = named("minikube", "Deployment")["mlflow"]["spec"]["template"]["spec"]["containers"][0]
    cluster = {entry["name"]: entry.get("value") for entry in container["env"]}
    switches = {
        name: value for name, value in laptop.items() if name.startswith("MLFLOW_") and value in ("true", "false")
    }
    assert switches
    assert {name: cluster.get(name) for name in switches} == switches
