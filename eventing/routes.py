"""Which events go where: the laptop's counterpart of a cluster's Knative sources and triggers."""

from dataclasses import dataclass, field

from pydantic import SecretStr

from eventing.kafka import (
    DEAD_LETTERS_GROUP,
    REJUDGE_GROUP,
    REJUDGED_OPINIONS_GROUP,
    RESULTS_GROUP,
    SHADOW_GROUP,
    SHADOW_OPINIONS_GROUP,
    TRIGGER_GROUP,
)
from lungline.errors import StackError
from lungline.events.proof import Receiving, Sender
from lungline.settings import Settings

BATCH = 50
"""A multiple of it in flight is what a kill delivers again."""
REST_SECONDS = 0.5
"""Second opinions leave the broker alone while a live upload passes: a fetch that waits would be answered with it."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a delivery is tried again, and after which pauses; Knative's delivery spec has the same fields."""

    retries: int = 10
    first_backoff_seconds: float = 0.2
    max_backoff_seconds: float = 30.0

    def backoff(self, retry: int) -> float:
        """Seconds before a retry, counted from 0: each pause is twice the last."""
        return min(self.first_backoff_seconds * 2**retry, self.max_backoff_seconds)


@dataclass(frozen=True, slots=True)
class Route:
    """From a Kafka topic to an HTTP sink, and on with the sink's reply events."""

    name: str
    topic: str
    group: str
    """Consumer group of its offsets."""
    url: str
    token: SecretStr | None = field(default=None, repr=False)
    """Bearer token that the sink expects."""
    sender: Sender | None = field(default=None, repr=False)
    """Proves the requests instead, and requires answers to be proved."""
    replies: str | None = None
    """Topic of the sink's reply events; None drops them."""
    dead_letters: str | None = None
    """Topic of undeliverable records; None only logs them."""
    concurrency: int = 16
    """Requests at once."""
    batch: int = 1
    """How many records that wait may share a request, if the sink takes CloudEvents in batched mode."""
    rest_seconds: float = 0.0
    """For how long it asks for nothing once everything is read; 0 waits for the next record."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request, besides the event's own."""
        if self.token is None or self.sender is not None:
            return {}
        return {"authorization": f"Bearer {self.token.get_secret_value()}"}


def routes(
    settings: Settings,
    worklist: str | None,
    retry: RetryPolicy = RetryPolicy(),
    *,
    plain_predictor: bool = False,
) -> tuple[Route, ...]:
    """Uploads to the predictor; results and dead letters to the worklist at this address, if there is one.

    With the purpose of second opinions their events, one at a time: live uploads come first. A plain predictor has not
    the key of events. Raises StackError when the settings name no predictor.
    """
    if not settings.predictor_uri:
        raise StackError("No predictor is set: start the stack with `lungline up`, or set LUNGLINE_PREDICTOR_URI.")
    if settings.purpose != "answer":
        return _second_opinions(settings, worklist, retry)
    uploads = Route(
        "predictor",
        settings.uploads_topic,
        TRIGGER_GROUP,
        _predict_url(settings),
        sender=None if plain_predictor else _sender(settings, "predictor"),
        replies=settings.results_topic,
        dead_letters=settings.dead_letters_topic,
        retry=retry,
    )
    return (uploads, *_to_worklist(settings, worklist, retry)) if worklist else (uploads,)


def trigger_name(settings: Settings) -> str:
    """The name of a trigger among the services: `trigger`, or that of second opinions by its purpose."""
    return "trigger" if settings.purpose == "answer" else f"{settings.purpose}-trigger"


def _predict_url(settings: Settings) -> str:
    return f"{settings.predictor_uri}/v1/models/{settings.model_name}:predict"


def _second_opinions(settings: Settings, worklist: str | None, retry: RetryPolicy) -> tuple[Route, ...]:
    """From live or old uploads to the predictor of another version, and from there to the worklist alone.

    Without dead letters: what cannot be judged twice is nobody's loss.
    """
    if settings.purpose == "shadow":
        topic, group = settings.uploads_topic, SHADOW_GROUP
        replies, replies_group = settings.shadow_topic, SHADOW_OPINIONS_GROUP
    else:
        topic, group = settings.rejudge_topic, REJUDGE_GROUP
        replies, replies_group = settings.rejudged_topic, REJUDGED_OPINIONS_GROUP
    judged = Route(
        f"{settings.purpose} predictor",
        topic,
        group,
        _predict_url(settings),
        sender=_sender(settings, "predictor"),
        replies=replies,
        concurrency=1,
        rest_seconds=REST_SECONDS,
        retry=retry,
    )
    if not worklist:
        return (judged,)
    token, sender = settings.worklist.event_token, _sender(settings, "worklist")
    shown = Route(
        f"{settings.purpose} worklist",
        replies,
        replies_group,
        f"{worklist}/",
        token,
        sender,
        concurrency=1,
        batch=BATCH,
        rest_seconds=REST_SECONDS,
        retry=retry,
    )
    return judged, shown


def _to_worklist(settings: Settings, address: str, retry: RetryPolicy) -> tuple[Route, Route]:
    token, sender = settings.worklist.event_token, _sender(settings, "worklist")
    results = Route(
        "worklist",
        settings.results_topic,
        RESULTS_GROUP,
        f"{address}/",
        token,
        sender,
        dead_letters=settings.dead_letters_topic,
        # Under load few requests with many results each: most of what a result costs is its request.
        concurrency=4,
        batch=BATCH,
        retry=retry,
    )
    # Without dead letters of its own: one that is refused again would become another, for ever.
    dead_letters = Route(
        "dead letters",
        settings.dead_letters_topic,
        DEAD_LETTERS_GROUP,
        f"{address}/dead-letters",
        token,
        sender,
        concurrency=2,
        retry=retry,
    )
    return results, dead_letters


def _sender(settings: Settings, receiver: Receiving) -> Sender | None:
    key = settings.event_key
    return Sender(key.get_secret_value(), receiver) if key else None
