"""A version on trial, compared with the champion by what Prometheus has seen."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

import pytest

from lungline.deployment.kserve import ClusterDeployment
from lungline.errors import PromotionConflict, PromotionRefused
from lungline.promotion.canary import (
    CanaryComparison,
    CanaryWatch,
    PrometheusUnavailable,
    RevisionMetrics,
    compare,
    revision_metrics,
    watch,
)
from tests.support.http_stand_in import Quiet, serving
from tests.support.kubernetes_api import Cluster, api_of, running_cluster
from tests.support.manifests_of import text_of


@contextmanager
def prometheus(answers: dict[tuple[str, str], float]) -> Iterator[str]:
    """Answers queries by revision and kind (count, errors, p99), with or without a period such as ` 60s`.

    `answers["", ""]` queries get a 503 first.
    """

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if answers.get(("", ""), 0) > 0:
                answers["", ""] -= 1
                self.send_error(503)
                return
            query = parse_qs(urlsplit(self.path).query)["query"][0]
            kind = "p99" if "quantile" in query else "errors" if "5.." in query else "count"
            revision = query.partition('serving_knative_dev_revision="')[2].partition('"')[0]
            period = query.partition("[")[2].partition("]")[0]
            value = answers.get((revision, f"{kind} {period}"), answers.get((revision, kind)))
            result = [] if value is None else [{"metric": {}, "value": [0, str(value)]}]
            body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(Handler) as address:
        yield address


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running_cluster() as running:
        yield running


def on_trial(cluster: Cluster) -> ClusterDeployment:
    there = ClusterDeployment(api_of(cluster), "pneumonia", poll_seconds=0.01)
    there.deploy("s3://lungline-models/pneumonia/1/", "1")
    there.try_out("s3://lungline-models/pneumonia/2/", "2", 10)
    return there


def seen(**two: float) -> dict[tuple[str, str], float]:
    champion, canary = "pneumonia-predictor-00001", "pneumonia-predictor-00002"
    normal = {"count": 900.0, "errors": 0.0, "p99": 0.2}
    return {(champion, key): value for key, value in normal.items()} | {
        (canary, key): value for key, value in ({"count": 100.0, "errors": 0.0, "p99": 0.2} | two).items()
    }


def test_a_canary_that_is_no_worse_stays(cluster: Cluster) -> None:
    there = on_trial(cluster)
    looks: list[CanaryComparison] = []
    with prometheus(seen()) as uri:
        seen_it = watch(there, uri, seconds=0.05, on_look=looks.append, poll_seconds=0.02)
    assert seen_it == CanaryWatch(True, False, "Version 2 is no worse than version 1 (100 requests).")
    assert there.canary() == ("2", 10)
    assert looks[0].champion == RevisionMetrics(900.0, 0.0, 0.2)


@pytest.mark.parametrize(
    ("worse", "why"),
    [({"errors": 5.0}, "fails 5.0% of its requests, the champion 0.0%"), ({"p99": 0.9}, "p99 is 0.90 s")],
)
def test_a_canary_that_is_worse_is_withdrawn_by_itself(cluster: Cluster, worse: dict[str, float], why: str) -> None:
    there = on_trial(cluster)
    with prometheus(seen(**worse)) as uri:
        seen_it = watch(there, uri, seconds=60, poll_seconds=0.02)
    assert (seen_it.passed, seen_it.withdrawn) == (False, True)
    assert why in seen_it.sentence
    assert seen_it.sentence.endswith("Version 2 takes no more requests; version 1 serves.")
    assert there.canary() is None
    assert there.serving() == "1"


def test_champions_past_does_not_hide_a_slower_canary(cluster: Cluster) -> None:
    """On a real cluster the champion's p99 of five minutes held its start from zero, before the canary was out."""
    there = on_trial(cluster)
    before = {("pneumonia-predictor-00001", kind): 5.8 for kind in ("p99", "p99 300s", "p99 5m")}
    with prometheus(seen(p99=0.42) | before | {("pneumonia-predictor-00001", "p99 60s"): 0.2}) as uri:
        assert watch(there, uri, seconds=0.05, poll_seconds=0.02).withdrawn


def test_a_worse_canary_goes_when_the_api_server_is_back(cluster: Cluster) -> None:
    there = on_trial(cluster)

    def restart(_: CanaryComparison) -> None:
        cluster.refusals = 5

    with prometheus(seen(errors=50.0)) as uri:
        assert watch(there, uri, seconds=60, on_look=restart, poll_seconds=0.02).withdrawn
    assert there.canary() is None


def test_a_prometheus_that_is_away_for_a_moment_ends_no_watch(cluster: Cluster) -> None:
    """One that has never answered does, and one that stays away."""
    there = on_trial(cluster)
    answers = seen()

    def restart(_: CanaryComparison) -> None:
        answers["", ""] = 3.0  # unavailable answers that are left

    with prometheus(answers) as uri:
        assert watch(there, uri, seconds=0.2, on_look=restart, poll_seconds=0.02).passed
        answers["", ""] = 1000.0
        with pytest.raises(PrometheusUnavailable):
            watch(there, uri, seconds=60)
    assert there.canary() == ("2", 10)


def test_a_trial_that_somebody_else_ends_is_watched_no_longer(cluster: Cluster) -> None:
    """Their canary is not withdrawn for the figures of this one."""
    there = on_trial(cluster)

    def other(_: CanaryComparison) -> None:
        there.try_out("s3://lungline-models/pneumonia/3/", "3", 20)

    with prometheus(seen(errors=50.0)) as uri, pytest.raises(PromotionConflict, match="version 3 takes 20 %"):
        watch(there, uri, seconds=60, on_look=other, poll_seconds=0.02)
    assert there.canary() == ("3", 20)


def test_a_few_requests_say_nothing(cluster: Cluster) -> None:
    there = on_trial(cluster)
    with prometheus(seen(count=10.0, errors=9.0)) as uri:
        seen_it = watch(there, uri, seconds=0, poll_seconds=0.02)
    assert "too few requests" in seen_it.sentence
    assert not seen_it.passed
    assert there.canary() == ("2", 10)


def test_a_champion_that_fails_as_well_condemns_nobody() -> None:
    failing = RevisionMetrics(requests=500, errors=0.4, p99=1.0)
    assert compare(failing, failing).worse is None
    assert compare(RevisionMetrics(500, None, None), RevisionMetrics(0, None, None)).worse is None


def test_without_a_canary_there_is_nothing_to_watch(cluster: Cluster) -> None:
    there = ClusterDeployment(api_of(cluster), "pneumonia", poll_seconds=0.01)
    there.deploy("s3://lungline-models/pneumonia/1/", "1")
    with pytest.raises(PromotionRefused, match="nothing to watch"):
        watch(there, "http://127.0.0.1:9", seconds=1)


def test_an_unreachable_prometheus_is_reported() -> None:
    with pytest.raises(PrometheusUnavailable, match="does not answer with a number"):
        revision_metrics("http://127.0.0.1:9", "pneumonia-predictor-00001")


def test_the_manifests_collect_the_metrics_of_a_canary() -> None:
    rendered = text_of("overlays/minikube")
    assert "http-usermetric" in rendered
    assert "serving.knative.dev/revision" in rendered
    assert "kn_serving_invocation_duration_seconds_count" in rendered
