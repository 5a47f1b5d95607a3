"""What `lungline doctor` says of services."""

import time
from pathlib import Path

import pytest

from laptop.checks.services import check_services
from laptop.supervision.status import ServiceStatus, StackStatus


def checked(service: ServiceStatus) -> tuple[bool, str, str]:
    (check,) = check_services(StackStatus(Path("/home"), True, 1, (service,)))
    return check.passed, check.finding, check.cure


def test_a_service_that_starts_has_not_failed() -> None:
    starting = ServiceStatus("mlflow", "starting", started=time.time() - 20)
    assert checked(starting) == (True, "starting since 20 s", "")


@pytest.mark.parametrize(
    ("service", "finding"),
    [
        (ServiceStatus("mlflow", "starting", started=time.time() - 1000), "starting"),
        (ServiceStatus("mlflow", "starting"), "starting"),
        (ServiceStatus("mlflow", "restarting", restarts=1), "restarting, 1 restart"),
        (ServiceStatus("mlflow", "stopped", restarts=2), "stopped, 2 restarts"),
    ],
)
def test_a_service_that_does_not_come_up_has_failed(service: ServiceStatus, finding: str) -> None:
    assert checked(service) == (False, finding, "Read /home/logs/mlflow.log.")
