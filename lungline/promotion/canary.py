"""A new version on trial: it takes a share of the requests, is compared with the champion, and goes if it is worse.

A trial is no promotion: the history and the champion stay as they are until `finish`, which is a promotion like any
other, or until the trial is withdrawn.
"""

import json
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from lungline.deployment.kserve import ClusterDeployment
from lungline.deployment.kubernetes_api import ClusterUnavailable
from lungline.deployment.release import Release
from lungline.errors import PromotionConflict, PromotionRefused, Unavailable
from lungline.network import open_url
from lungline.promotion.anchored_history import verified
from lungline.promotion.inspection import inspect, requirements
from lungline.promotion.promotion import Promotion, promote, rollback
from lungline.registry.versions import Registry
from lungline.settings import Settings

QUERY_SECONDS = 10.0
AWAY_SECONDS = 60.0
"""How long Prometheus may be away during a watch: as long as it takes to start again."""
SHORTEST_SECONDS, LONGEST_SECONDS = 60, 300
"""The time that both are compared over: since the watch began, within these bounds."""
LEAST_REQUESTS = 50
"""Fewer than this say nothing about a share of errors."""
MORE_ERRORS = 0.02
"""Share of answers with 5xx that a canary may have beyond the champion's."""
SLOWER, SLOWER_SECONDS = 1.5, 0.05
"""The p99 that a canary may have: so many times the champion's, and so much more."""


class PrometheusUnavailable(Unavailable):
    """Prometheus does not answer, or not with numbers."""


@dataclass(frozen=True, slots=True)
class RevisionMetrics:
    """What Prometheus says of one revision; `errors` is a share, `p99` seconds; None where there is nothing to say."""

    requests: float
    errors: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class CanaryComparison:
    """A canary beside the champion; `worse` says why it must go, None when it may stay."""

    canary: RevisionMetrics
    champion: RevisionMetrics
    worse: str | None


@dataclass(frozen=True, slots=True)
class CanaryWatch:
    """What came of a watch; `passed` says that the canary is no worse on enough requests, `withdrawn` that it went."""

    passed: bool
    withdrawn: bool
    sentence: str


def start(
    version: str | None,
    percent: int,
    *,
    settings: Settings,
    deployment: ClusterDeployment,
    without_gate: str | None = None,
) -> str:
    """Try a version out, the challenger when none is named; one sentence.

    Raises PromotionRefused, PackageError for a package that does not answer, and ModelNotReady, which says why.
    """
    registry = Registry(settings)
    target = registry.resolve(version)
    history = verified(registry, deployment)
    wanted = requirements(registry, target, history.entries, without_gate)
    facts = inspect(registry, target, wanted, accepts_synthetic=deployment.accepts_synthetic)
    anchor = history.entries[-1].anchor if history.entries else ""
    release = Release(facts.package, signed=True, anchor=anchor)
    return deployment.try_out(registry.package_uri(target), target, percent, release)


def finish(
    *, by: str, reason: str, settings: Settings, deployment: ClusterDeployment, without_gate: str | None = None
) -> Promotion:
    """Promote the version that is on trial; raises what `lungline.promotion.promotion.promote` raises."""
    canary = deployment.canary()
    if canary is None:
        raise PromotionRefused(f"No canary of {settings.model_name} is out: `lungline promote --canary 10` sends one.")
    return promote(canary[0], by=by, reason=reason, settings=settings, deployment=deployment, without_gate=without_gate)


def withdraw(*, by: str, reason: str, settings: Settings, deployment: ClusterDeployment) -> Promotion:
    """Withdraw the canary where one is out, else roll back to the champion before; raises what `rollback` raises."""
    if deployment.canary() is None:
        return rollback(by=by, reason=reason, settings=settings, deployment=deployment)
    sentence = deployment.withdraw()
    champion = deployment.serving() or ""
    return Promotion(champion, champion, changed=False, sentence=sentence)


def watch(
    deployment: ClusterDeployment,
    prometheus_uri: str,
    *,
    seconds: float,
    on_look: Callable[[CanaryComparison], None] = lambda _: None,
    poll_seconds: float = 15.0,
    away_seconds: float = AWAY_SECONDS,
) -> CanaryWatch:
    """Compare the canary with the champion for a while, and withdraw it as soon as it is worse.

    Raises PromotionRefused when no canary is deployed, PromotionConflict when somebody else ends its trial, and
    PrometheusUnavailable, which leaves the canary as it is.
    """
    canary, champion = deployment.canary(), deployment.serving()
    revisions = deployment.revisions()
    if canary is None or champion not in revisions or canary[0] not in revisions:
        raise PromotionRefused("No canary is out beside a champion; there is nothing to watch.")
    compared = revisions[canary[0]], revisions[champion]
    began = time.monotonic()
    deadline = began + seconds
    answered: float | None = None
    while True:
        # What the champion did before the trial, such as waking from zero, would hide that the canary is slower.
        window = min(max(time.monotonic() - began, SHORTEST_SECONDS), LONGEST_SECONDS)
        try:
            seen = compare(*(revision_metrics(prometheus_uri, revision, round(window)) for revision in compared))
        except PrometheusUnavailable:
            if answered is None or time.monotonic() - answered > away_seconds:
                raise
            time.sleep(poll_seconds)
            continue
        answered = time.monotonic()
        on_look(seen)
        _still_out(deployment, canary)
        if seen.worse:
            return CanaryWatch(passed=False, withdrawn=True, sentence=f"{seen.worse} {deployment.withdraw()}")
        if time.monotonic() > deadline:
            return _outlasted(seen, canary[0], champion)
        time.sleep(poll_seconds)


def _still_out(deployment: ClusterDeployment, canary: tuple[str, int]) -> None:
    """Raise PromotionConflict when the canary is not the one that is watched: its figures say nothing of another."""
    try:
        current = deployment.canary()
    except ClusterUnavailable:
        return  # it restarts; a withdrawal waits for it
    if current != canary:
        now = f"version {current[0]} takes {current[1]} %" if current else "none is out"
        raise PromotionConflict(f"Somebody else ended the trial of version {canary[0]}: {now}.")


def _outlasted(seen: CanaryComparison, canary: str, champion: str) -> CanaryWatch:
    enough = seen.canary.requests >= LEAST_REQUESTS
    verdict = "is no worse than" if enough else "had too few requests to be compared with"
    sentence = f"Version {canary} {verdict} version {champion} ({seen.canary.requests:.0f} requests)."
    return CanaryWatch(passed=enough, withdrawn=False, sentence=sentence)


def compare(canary: RevisionMetrics, champion: RevisionMetrics) -> CanaryComparison:
    """Whether a canary must go: more errors, or slower, on enough requests."""
    worse = None
    if canary.requests >= LEAST_REQUESTS:
        worse = _more_errors(canary.errors, champion.errors or 0.0) or _slower(canary.p99, champion.p99)
    return CanaryComparison(canary, champion, worse)


def _more_errors(canary: float | None, champion: float) -> str | None:
    if canary is None or canary <= champion + MORE_ERRORS:
        return None
    return f"The canary fails {canary:.1%} of its requests, the champion {champion:.1%}."


def _slower(canary: float | None, champion: float | None) -> str | None:
    if canary is None or champion is None or canary <= champion * SLOWER + SLOWER_SECONDS:
        return None
    return f"The canary's p99 is {canary:.2f} s, the champion's {champion:.2f} s."


def revision_metrics(prometheus_uri: str, revision: str, seconds: int = LONGEST_SECONDS) -> RevisionMetrics:
    """What Knative's proxy has counted for a revision in the last seconds."""
    metric, chosen = "kn_serving_invocation_duration_seconds", f'serving_knative_dev_revision="{revision}"'
    requests = _ask(prometheus_uri, f"sum(increase({metric}_count{{{chosen}}}[{seconds}s]))") or 0.0
    failed = f'sum(increase({metric}_count{{{chosen}, http_response_status_code=~"5.."}}[{seconds}s]))'
    p99 = f"histogram_quantile(0.99, sum by (le) (rate({metric}_bucket{{{chosen}}}[{seconds}s])))"
    errors = (_ask(prometheus_uri, failed) or 0.0) / requests if requests else None
    return RevisionMetrics(requests, errors, _ask(prometheus_uri, p99))


def _ask(prometheus_uri: str, query: str) -> float | None:
    """The one number that a query gives; None when it gives none, or not a number."""
    uri = f"{prometheus_uri.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with open_url(uri, timeout=QUERY_SECONDS) as response:
            series = cast("dict[str, Any]", json.load(response))["data"]["result"]
        value = float(series[0]["value"][1]) if series else None
    except (OSError, ValueError, LookupError, TypeError) as exc:
        raise PrometheusUnavailable(f"Prometheus at {prometheus_uri} does not answer with a number.") from exc
    return None if value is None or value != value else value  # noqa: PLR0124 - NaN is the one that differs
