"""How the command line shows models: their metrics, the gate's rules, their versions and promotions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cli import console

if TYPE_CHECKING:
    from lungline.evaluation.gate import GateVerdict
    from lungline.evaluation.metrics import Evaluation
    from lungline.registry.history import Facts, PromotionEntry
    from lungline.registry.versions import Version


def training(evaluation: "Evaluation", verdict: "GateVerdict", outcome: str, links: Mapping[str, str]) -> None:
    """Print the result of a training run."""
    metrics(evaluation)
    rules(verdict)
    console.say(outcome, "bold")
    for name, address in links.items():
        console.say(f"{name:8} {address}")


def rules(verdict: "GateVerdict") -> None:
    """Print the gate's rules with their outcome, one a line."""
    for rule in verdict.rules:
        word = "passed" if rule.passed else "failed"
        console.say(f"  {word}  {rule.sentence}", console.COLOURS[word])


def evaluation(facts: Mapping[str, str], evaluation: "Evaluation") -> None:
    """Print the metrics of a model on a data set."""
    console.say(f"Model {facts['model']} on the {facts['split']} split of {facts['data']}", "bold")
    metrics(evaluation)
    console.say(console.DISCLAIMER, "dim")


def metrics(evaluation: "Evaluation") -> None:
    """Print the metrics with their intervals, and the labels of each class."""
    from lungline.wording import count

    refused = f", {evaluation.refused} refused" if evaluation.refused else ""
    console.say(f"{count(evaluation.n, 'X-ray')} predicted{refused}")
    rows: list[tuple[str, str, str]] = []
    for name, value in evaluation.metrics().items():
        interval = evaluation.intervals.get(name)
        rows.append((name, f"{value:.3f}", f"{interval.low:.3f} to {interval.high:.3f}" if interval else ""))
    console.table(("metric", "value", "95 % interval"), rows)
    labels = tuple(next(iter(evaluation.per_class.values())))
    console.table(
        ("truth", *labels), [(truth, *(row[label] for label in labels)) for truth, row in evaluation.per_class.items()]
    )


def versions(versions: "Sequence[Version]") -> None:
    """Print the registered versions."""
    if not versions:
        console.say("No version is registered yet; `lungline train` registers one.")
        return
    rows = [
        (
            v.version,
            ", ".join(v.aliases),
            f"{v.registered:%Y-%m-%d %H:%M}",
            v.tags.get("data", ""),
            _site(v.tags.get("site"), v.tags.get("parent")),
            v.package,
        )
        for v in versions
    ]
    console.table(("version", "alias", "registered (UTC)", "data", "site", "package"), rows)


def history(entries: "Sequence[PromotionEntry]") -> None:
    """Print the history of promotions."""
    rows = [
        (
            e.number,
            f"{e.at:%Y-%m-%d %H:%M:%S}",
            e.kind,
            e.act,
            e.version,
            _site(e.facts.site, e.facts.parent),
            e.by,
            e.reason,
            f"{e.facts.metrics['auc']:.3f}" if "auc" in e.facts.metrics else "",
            _gate(e.facts),
        )
        for e in entries
    ]
    console.table(("#", "at (UTC)", "change", "act", "version", "site", "by", "reason", "auc", "gate"), rows)


def _site(name: str | None, parent: str | None) -> str:
    """The site that a version was fitted to, and the version whose network it has."""
    return f"{name} (from version {parent})" if name else ""


def _gate(facts: "Facts") -> str:
    """How a version came past the gate, in a few words."""
    lowered = f"lowered: {', '.join(facts.gate.lowered)}" if facts.gate and facts.gate.lowered else ""
    if facts.without_gate:
        return "; ".join(filter(None, (f"without: {facts.without_gate}", lowered)))
    return lowered or ("passed" if facts.gate and facts.gate.passed else "")
