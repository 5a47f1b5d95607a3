"""Which events go where: the laptop's counterpart of a cluster's Knative sources and triggers."""

from dataclasses import dataclass, field

from pydantic import SecretStr

from eventing.kafka import DEAD_LETTERS_GROUP, RESULTS_GROUP, TRIGGER_GROUP
from lungline.errors import StackError
from lungline.settings import Settings


@dataclass(frozen=True, slots=True)
class Route:
    """From a topic to whoever takes its records, and on with the answers."""

    name: str
    topic: str
    group: str
    """Under which its progress is committed."""
    url: str
    token: SecretStr | None = field(default=None, repr=False)
    """What the receiver wants to be shown."""
    replies: str | None = None
    """The topic of the events that the receiver answers with; None lets them go nowhere."""
    dead_letters: str | None = None
    """The topic of what nobody takes; None writes no more than a line in the log."""
    side_by_side: int = 16
    """Deliveries at once."""
    wait_milliseconds: int = 10
    """How long the broker may wait for a record before it answers.

    The embedded broker looks for new records as often as a request ends: 50 ms would cost an upload 13 ms more on
    average, 500 ms 200 ms. With 10 ms an idle trigger, which asks and asks, costs the broker 4 % of a core.
    """

    @property
    def headers(self) -> dict[str, str]:
        """What goes with every request, besides the event's own headers."""
        return {"authorization": f"Bearer {self.token.get_secret_value()}"} if self.token else {}


def routes(settings: Settings, worklist: str | None) -> tuple[Route, ...]:
    """Uploads to the predictor; its results and what it refused to the worklist at this address, if there is one.

    Raises StackError when the settings name no predictor.
    """
    if not settings.predictor_uri:
        raise StackError("No predictor is set: start the stack with `lungline up`, or set LUNGLINE_PREDICTOR_URI.")
    judge = Route(
        "predictor",
        settings.uploads_topic,
        TRIGGER_GROUP,
        f"{settings.predictor_uri}/v1/models/{settings.model_name}:predict",
        replies=settings.results_topic,
        dead_letters=settings.dead_letters_topic,
    )
    return (judge, *_to_worklist(settings, worklist)) if worklist else (judge,)


def _to_worklist(settings: Settings, address: str) -> tuple[Route, Route]:
    token = settings.worklist.event_token
    show = Route(
        "worklist",
        settings.results_topic,
        RESULTS_GROUP,
        f"{address}/",
        token,
        dead_letters=settings.dead_letters_topic,
        side_by_side=4,  # its database has one writer
        wait_milliseconds=100,
    )
    # A dead letter that is refused again must not become another one, and so on for ever.
    count = Route(
        "dead letters",
        settings.dead_letters_topic,
        DEAD_LETTERS_GROUP,
        f"{address}/dead-letters",
        token,
        side_by_side=2,
        wait_milliseconds=250,
    )
    return show, count
