"""The monitoring page: one self-contained HTML file."""

import html
from collections.abc import Iterable, Iterator

from lungline.monitoring.comparison import TESTS
from lungline.monitoring.findings import ModelFindings, MonitoringFindings, Proportion, Window, unreadable_sentence

NOTICE = "For research. Not a medical device. Drift does not prove the model wrong: its metrics may no longer hold."
_WIDTH, _HEIGHT = 640, 120
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2530;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}table{border-collapse:collapse;margin:.8rem 0}
th,td{padding:.25rem .8rem .25rem 0;text-align:left;border-bottom:1px solid #dde3ea;font-variant-numeric:tabular-nums}
.alarm{color:#a3180c;font-weight:600}.calm{color:#14683a}.note{color:#55616e}
@media(prefers-color-scheme:dark){body{background:#12171d;color:#dfe6ee}th,td{border-color:#2d3742}
.alarm{color:#ff8f80}.calm{color:#6fd49b}.note{color:#9aa7b4}}
"""


def page(findings: MonitoringFindings) -> str:
    """The findings as HTML."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Lungline: monitoring</title><style>{_STYLE}</style>",
        "<h1>Do production images look like the validation images?</h1>",
        f"<p class=note>{_e(NOTICE)}</p>",
        _run(findings),
        *_unreadable(findings.unreadable_readings),
    ]
    if not findings.models:
        parts.append("<p>There are no results in that period.</p>")
    for model in findings.models:
        parts += _model(model)
    return "\n".join(parts) + "\n"


def _run(findings: MonitoringFindings) -> str:
    return (
        f"<p>Run at {findings.at:%Y-%m-%d %H:%M} UTC on results since {findings.since:%Y-%m-%d %H:%M} UTC, in windows "
        f"of {findings.window}. At most {findings.alarm_rate:.1%} of windows without drift raise an alarm.</p>"
    )


def _unreadable(count: int) -> Iterator[str]:
    if count:
        yield f"<p class=alarm>{unreadable_sentence(count)}</p>"


def _model(model: ModelFindings) -> Iterator[str]:
    kind = "alarm" if model.drifted else "calm" if model.windows else "note"
    yield f"<h2>Version {_e(model.version)}</h2><p class={kind}>{_e(model.in_a_sentence())}</p>"
    counts = ", ".join(f"{count} {label}" for label, count in sorted(model.labels.items()))
    shares = f"Unsure {_share(model.unsure)}, refused {_share(model.refused)}"
    yield f"<p>{model.results} results: {_e(counts)}. {shares}.</p>"
    if model.windows:
        yield _chart(model.windows)
        yield from _tests(model.windows[-1])
        yield from _statistics(model.windows[-1])
    yield from _feedback(model)


def _tests(window: Window) -> Iterator[str]:
    when = f"{window.start:%Y-%m-%d %H:%M} to {window.end:%Y-%m-%d %H:%M} UTC"
    yield f"<h3>Latest window: {when}, {window.results} results</h3>"
    tests = [(name, window.comparison.tests[name]) for name in TESTS if name in window.comparison.tests]
    rows = [(name, f"{test.distance:.3f}", f"{test.p:.3f}", "alarm" if test.alarm else "calm") for name, test in tests]
    yield _table(("test", "distance", "p", ""), rows)


def _statistics(window: Window) -> Iterator[str]:
    statistics = sorted(window.comparison.statistics.items(), key=lambda item: -item[1].distance)
    rows = [
        (name, f"{test.reference:.4g}", f"{test.field:.4g}", f"{test.distance:.3f}", f"{test.p:.3f}")
        for name, test in statistics
    ]
    if rows:
        yield _table(("image statistic", "median of the reference", "median now", "distance", "p alone"), rows)


def _feedback(model: ModelFindings) -> Iterator[str]:
    feedback = model.feedback
    if feedback is None:
        yield "<p class=note>No reader has given a finding on any of them.</p>"
        return
    yield (
        f"<p>Readers gave a finding on {feedback.readings} of them. Sensitivity "
        f"{_share(feedback.sensitivity)}, specificity {_share(feedback.specificity)}, at the operating point. "
        "<span class=note>Readers choose what they read and see the model's result first: these metrics are biased."
        "</span></p>"
    )


def _chart(windows: tuple[Window, ...]) -> str:
    """A bar for the largest distance of each window, from the oldest to the latest."""
    step = min(40.0, _WIDTH / len(windows))
    bars: list[str] = []
    for place, window in enumerate(windows):
        far = max((test.distance for test in window.comparison.tests.values()), default=0.0)
        high = max(1.0, far * _HEIGHT)
        title = f"{window.start:%Y-%m-%d %H:%M}: {', '.join(window.comparison.alarms) or 'no alarm'}"
        bars.append(
            f"<rect x={place * step:.1f} y={_HEIGHT - high:.1f} width={max(1.0, step - 2):.1f} height={high:.1f} "
            f"fill={'#c0392b' if window.alarm else '#5b8db8'}><title>{_e(title)}</title></rect>"
        )
    label = f"Largest distance of each of {len(windows)} windows, the latest at the right; red raised an alarm"
    return (
        f"<figure><svg role=img aria-label='{_e(label)}' viewBox='0 0 {_WIDTH} {_HEIGHT}' width='100%'>{''.join(bars)}"
        f"</svg><figcaption class=note>{_e(label)}.</figcaption></figure>"
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}" for row in rows)
    return f"<table><tr>{''.join(f'<th>{_e(cell)}' for cell in head)}{lines}</table>"


def _cell(text: str) -> str:
    return f"<td class={text}>{text}" if text in {"alarm", "calm"} else f"<td>{_e(text)}"


def _share(share: Proportion | None) -> str:
    return "unknown" if share is None else _e(str(share))


def _e(text: str) -> str:
    return html.escape(text, quote=True)
