"""Users, rights and topics of manifests/base/kafka on a Kafka of any kind, as Strimzi's operators make them."""

# confluent-kafka's documentation imports its admin types in this way.
# pyright: reportPrivateImportUsage=false

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)

from tests.support.manifests_of import MANIFESTS

KINDS = {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP, "cluster": ResourceType.BROKER}
PATTERNS = {"literal": ResourcePatternType.LITERAL, "prefix": ResourcePatternType.PREFIXED}


def manifests(name: str) -> list[dict[str, Any]]:
    """The objects of a file in manifests/base/kafka."""
    return list(yaml.safe_load_all((MANIFESTS / "base/kafka" / name).read_text()))


def topics() -> dict[str, int]:
    """The topics of topics.yaml, with the number of their partitions."""
    return {topic["metadata"]["name"]: topic["spec"]["partitions"] for topic in manifests("topics.yaml")}


def add_users(admin: AdminClient, passwords: Mapping[str, str]) -> None:
    """The users of users.yaml with their rights."""
    for user in manifests("users.yaml"):
        name = user["metadata"]["name"]
        add_user(admin, name, passwords[name], user["spec"]["authorization"]["acls"])


def add_topics(admin: AdminClient, replicas: int) -> None:
    """The topics of topics.yaml."""
    new = [
        NewTopic(
            topic["metadata"]["name"],
            topic["spec"]["partitions"],
            replicas,
            config={name: str(value) for name, value in topic["spec"]["config"].items()},
        )
        for topic in manifests("topics.yaml")
    ]
    for change in admin.create_topics(new, operation_timeout=10, request_timeout=15).values():
        change.result(20)


def add_user(admin: AdminClient, name: str, password: str, rights: Sequence[dict[str, Any]]) -> None:
    """One more user; `rights` are written as in users.yaml."""
    scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    change = UserScramCredentialUpsertion(name, scram, password.encode())
    changes: list[UserScramCredentialAlteration] = [change]
    for future in admin.alter_user_scram_credentials(changes, request_timeout=10).values():
        future.result(15)
    for future in admin.create_acls(list(acls_of(name, rights)), request_timeout=10).values():
        future.result(15)


def acls_of(user: str, rights: Sequence[dict[str, Any]]) -> Iterator[AclBinding]:
    """Rights, written as in users.yaml, as Strimzi's user operator gives them."""
    for acl in rights:
        resource = acl["resource"]
        for operation in acl["operations"]:
            yield AclBinding(
                KINDS[resource["type"]],
                resource.get("name", "kafka-cluster"),
                PATTERNS[resource.get("patternType", "literal")],
                f"User:{user}",
                "*",
                AclOperation[_snake(operation)],
                AclPermissionType.ALLOW,
            )


def _snake(operation: str) -> str:
    return "".join(f"_{letter}" if letter.isupper() else letter for letter in operation).strip("_").upper()
