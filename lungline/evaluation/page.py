"""What self-contained HTML pages about models are made of: one style, tables, images."""

import base64
import html
from collections.abc import Sequence

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Column titles, and rows."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1d2733;
  background: #fff }
table { border-collapse: collapse; margin: .6rem 0 } th, td { text-align: left; padding: .3rem .7rem;
  border-bottom: 1px solid #d9e0e7; font-variant-numeric: tabular-nums }
.notice { border-left: 4px solid #c8502d; padding: .4rem .8rem; background: #faf1ee }
.plots, .worst { display: flex; flex-wrap: wrap; gap: 1rem } .plots img { width: 21rem; max-width: 100% }
figure { margin: 0; width: 13rem } figure img { width: 100% } figcaption { font-size: .85rem }
figure.wide { width: auto; margin-bottom: 1rem } figure.wide img { width: auto; max-width: 100% }
"""


def table_html(table: Table) -> str:
    """A table as HTML."""
    head, rows = table
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def image_html(png: bytes, text: str) -> str:
    """PNG bytes as an image with a text for those who do not see it."""
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
