"""Whether the services of the stack run, and whether other users of the machine can reach what asks for no login."""

import math
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, cast

from laptop import stack
from laptop.supervision.status import ServiceStatus, StackStatus
from lungline.health_check import Check
from lungline.home import read_json
from lungline.wording import ago, count

# A service that starts for longer than this has failed.
START_SECONDS = 180.0


def check_services(status: StackStatus) -> Iterator[Check]:
    """Whether every service runs; one that has just been started has not failed."""
    if not status.running:
        yield Check("stack", False, "not running", "lungline up")
        return
    for service in status.services:
        state = service.state + (f", {count(service.restarts, 'restart')}" if service.restarts else "")
        if service.state == "starting" and _age(service) < START_SECONDS:
            yield Check(service.name, True, f"{state} since {ago(timedelta(seconds=_age(service)))}")
            continue
        log = status.home / "logs" / f"{service.name}.log"
        yield Check(service.name, service.state in stack.SETTLED, state, service.note or f"Read {log}.")


def check_kafka_login(status: StackStatus) -> Iterator[Check]:
    """Whether other users of this machine can reach the broker past its login."""
    report = read_json(status.home / "run/kafka_gate.json")
    if not isinstance(report, dict) or status.service("broker").state in {"external", "stopped"}:
        return
    gate = cast("dict[str, Any]", report)
    text = "clients log in; the broker itself is out of reach"
    if not gate.get("private"):
        text = "clients log in, but this system allows the broker no network of its own: every user of this machine"
        text += f" can reach its port {gate.get('port')}"
    yield Check("kafka login", True, text)


def check_store_ports(status: StackStatus) -> Iterator[Check]:
    """Whether other users of this machine can reach the ports of the store's master and volume servers."""
    report = read_json(status.home / "run/store_gate.json")
    if not isinstance(report, dict) or status.service("store").state in {"external", "stopped"}:
        return
    text = "only S3 and the filer's gRPC port can be reached; they ask for keys and a certificate"
    if not cast("dict[str, Any]", report).get("private"):
        text = "this system allows the store no network of its own: every user of this machine can reach its ports,"
        text += " which ask for keys or a certificate"
    yield Check("store ports", True, text)


def _age(service: ServiceStatus) -> float:
    """Seconds since the last start of a service; infinite when it was not noted."""
    return time.time() - service.started if service.started else math.inf
