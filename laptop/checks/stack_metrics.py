"""The metrics of the stack's services, read from where Prometheus would read them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lungline.network import open_url

TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class StackMetrics:
    """The samples of all services that answered."""

    samples: tuple[tuple[str, dict[str, str], float], ...]

    def total(self, name: str, **labels: str) -> float | None:
        """The sum of a metric's samples that have these labels; None when there is none."""
        values = [value for sample, has, value in self.samples if sample == name and labels.items() <= has.items()]
        return sum(values) if values else None

    def label(self, name: str, label: str) -> str | None:
        """A label of the first sample of a metric."""
        return next((has[label] for sample, has, _ in self.samples if sample == name and label in has), None)


def read(addresses: list[str]) -> StackMetrics:
    """The metrics at some addresses; a service that does not answer has none."""
    with ThreadPoolExecutor(len(addresses)) as pool:
        texts = list(pool.map(_text, addresses))
    from prometheus_client.parser import text_string_to_metric_families

    families = (family for text in texts for family in text_string_to_metric_families(text))
    return StackMetrics(
        tuple((sample.name, dict(sample.labels), sample.value) for family in families for sample in family.samples)
    )


def _text(address: str) -> str:
    try:
        with open_url(f"http://{address}/metrics", timeout=TIMEOUT_SECONDS) as response:
            return response.read().decode()
    except OSError:
        return ""
