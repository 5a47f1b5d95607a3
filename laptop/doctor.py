"""All checks of `lungline doctor`: the machine, the stack, the champion, the flow of X-rays."""

from laptop import stack
from laptop.checks.champion import check_champions, check_registry
from laptop.checks.flow import check_flow
from laptop.checks.machine import check_machine
from laptop.checks.services import check_kafka_login, check_services, check_store_ports
from lungline.health_check import Check
from lungline.settings import Settings


def examine(settings: Settings) -> list[Check]:
    """Make all checks, also after one has failed."""
    status = stack.status(settings)
    return [
        *check_machine(settings),
        *check_services(status),
        *check_kafka_login(status),
        *check_store_ports(status),
        *check_champions(settings, status),
        *check_registry(settings, status),
        *check_flow(status),
    ]
