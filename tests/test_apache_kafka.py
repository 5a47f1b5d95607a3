"""Apache Kafka itself under our clients: logins, rights, and what a person reads when they are wrong."""

from collections.abc import Iterator

import pytest

from tests.support.apache_kafka import ApacheKafka, running_kafka
from tests.support.kafka_manifests import topics

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    with running_kafka(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka


def test_the_manifests_topics_exist(kafka: ApacheKafka) -> None:
    found = kafka.admin().list_topics(timeout=10).topics
    assert {name: len(topic.partitions) for name, topic in found.items() if name in topics()} == topics()
