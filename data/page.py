"""Great Expectations' Data Docs page as one file that needs nothing else and asks no other host.

As made, the page loads eleven scripts and style sheets from public hosts. Opened in a hospital's network it would look
broken, and opened elsewhere it would tell those hosts. Ours carries a small style sheet instead.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

# What loads or calls something from elsewhere, and the parts that only work with it.
_FOREIGN = (
    r"<script\b.*?</script>",
    r"<link\b[^>]*>",
    r"<img\b[^>]*>",
    r"<footer\b.*?</footer>",
    r"@media \(prefers-color-scheme: dark\) \{.*?\n\}(?=</style>)",
    r"\sonclick=\"[^\"]*\"",
    r"\shref=\"[^#\"][^\"]*\"",
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the summary: what must hold, why, and what was found against it."""

    sentence: str
    reason: str
    breach: str | None


def self_contained(page: str, heading: str, notice: str | None, lines: Sequence[Line]) -> str:
    """The page without anything foreign, with our style sheet in its head and a summary before the details."""
    for pattern in _FOREIGN:
        page = re.sub(pattern, "", page, flags=re.DOTALL)
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    page = page.replace("</head>", f"<style>\n{style}</style>\n</head>", 1)
    return page.replace("<body>", f"<body>\n{_summary(heading, notice, lines)}", 1)


def _summary(heading: str, notice: str | None, lines: Sequence[Line]) -> str:
    broken = sum(line.breach is not None for line in lines)
    verdict = f"{broken} of {len(lines)} expectations are broken" if broken else f"all {len(lines)} expectations hold"
    rows = "\n".join(
        f'<tr><td><i class="text-{"danger" if line.breach else "success"}"></i></td>'
        f"<td>{escape(line.sentence)}</td><td>{escape(line.reason)}</td><td>{escape(line.breach or '')}</td></tr>"
        for line in sorted(lines, key=lambda line: line.breach is None)
    )
    return (
        f'<main class="container-fluid"><h4>Data contract: {verdict}</h4>\n<p>{escape(heading)}</p>\n'
        + (f"<p><strong>{escape(notice)}</strong></p>\n" if notice else "")
        + "<table><thead><tr><th></th><th>Expectation</th><th>Why</th><th>Found</th></tr></thead>\n"
        f"<tbody>{rows}</tbody></table></main>\n"
    )
