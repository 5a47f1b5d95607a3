"""What the pages of this room are made of: one file that needs nothing else, for a screen and for paper.

Nothing is fetched and no script runs: the page forbids both itself (content security policy), wherever it is opened.
"""

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from lungline.dossier.signing import embedded
from lungline.dossier.style import STYLE

_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_DIGEST}'; img-src data:"
"""What a page may do: show its own style and pictures."""
DISCLAIMER = "Research use only. Not a medical device."
NOT_RECORDED = "not recorded"


class Markup(str):
    """HTML that was made here."""

    __slots__ = ()


class Code(str):
    """A digest, an id or an address, which is shown letter by letter."""

    __slots__ = ()


def cell(value: Any) -> Markup:
    """A value as HTML; what is not there is said."""
    if isinstance(value, Markup):
        return value
    if value is None or value == "":
        return Markup(f'<span class="none">{NOT_RECORDED}</span>')
    if isinstance(value, datetime):
        return Markup(f'<time datetime="{value.astimezone(UTC).isoformat()}">{clock(value)}</time>')
    if isinstance(value, bool):
        return Markup("yes" if value else "no")
    text = html.escape(str(value))
    return Markup(f"<code>{text}</code>") if isinstance(value, Code) else Markup(text)


def clock(moment: datetime) -> str:
    """A moment to the millisecond, in UTC."""
    at = moment.astimezone(UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}"


def facts(rows: Iterable[tuple[str, Any]]) -> Markup:
    """Names and values."""
    lines = (f"<dt>{html.escape(name)}</dt><dd>{cell(value)}</dd>" for name, value in rows)
    return Markup(f'<dl class="facts">{"".join(lines)}</dl>')


def table(titles: Sequence[str], rows: Iterable[Sequence[Any]], otherwise: str = "") -> Markup:
    """Rows under their titles; the sentence `otherwise` where there are none."""
    body = "".join(f"<tr>{''.join(f'<td>{cell(value)}</td>' for value in row)}</tr>" for row in rows)
    if not body:
        return paragraph(otherwise or "None.", "none")
    head = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in titles)
    return Markup(f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def paragraph(text: Any, kind: str = "") -> Markup:
    """A paragraph."""
    return Markup(f"<p{_class(kind)}>{cell(text)}</p>")


def bullets(sentences: Iterable[Any], kind: str = "") -> Markup:
    """Sentences, each on a line."""
    lines = "".join(f"<li>{cell(sentence)}</li>" for sentence in sentences)
    return Markup(f"<ul{_class(kind)}>{lines}</ul>" if lines else "")


def figure(data: bytes, media_type: str, title: str, over: str = "") -> Markup:
    """An image with its title; `over` is drawn on it."""
    address = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    image = f'<img src="{address}" alt="{html.escape(title)}">'
    return Markup(
        f'<figure><div class="film">{image}{over}</div><figcaption>{html.escape(title)}</figcaption></figure>'
    )


def section(title: str, *blocks: Markup) -> Markup:
    """A part of the page under a title."""
    return Markup(f"<section><h2>{html.escape(title)}</h2>{''.join(blocks)}</section>")


def standalone(title: str, kicker: str, blocks: Iterable[Markup], document: dict[str, Any]) -> str:
    """The whole page; `document` is the signed JSON value that it shows, which it holds as well."""
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{html.escape(title)} · Lungline</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            f'<header><p class="kicker">{html.escape(kicker)}</p><h1>{html.escape(title)}</h1>',
            f'<p class="disclaimer">{DISCLAIMER}</p></header>\n<main>',
            *blocks,
            f"</main>\n<footer>{_signature(document)}</footer>\n{embedded(document)}\n</body>\n</html>\n",
        )
    )


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _signature(document: dict[str, Any]) -> Markup:
    if not document.get("key"):
        return paragraph("This page is not signed: the site's private key was not at hand where it was made.", "notice")
    return Markup(
        f"<p>Every byte of this page is signed with the key {cell(Code(document['key']))} of the site. "
        "<code>lungline dossier --verify FILE</code> says whether it is as it was signed.</p>"
    )
