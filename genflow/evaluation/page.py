"""A self-contained HTML page of sections, tables and pictures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

STYLE = """
body { margin: 0 auto; max-width: 68rem; padding: 1rem 1.2rem 4rem; color: #1a1a1a; background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 .6rem; }
h2 { margin: 2.6rem 0 .5rem; font-size: 1.3rem; border-bottom: 1px solid #ddd; }
h3 { margin: 1.6rem 0 .3rem; font-size: 1rem; overflow-wrap: anywhere; }
p, li, dd, figcaption { max-width: 48rem; overflow-wrap: anywhere; }
ul { padding-left: 1.2rem; } a { color: #1f5fa8; } nav { margin-top: .8rem; } nav a { margin-right: 1rem;
  white-space: nowrap; }
summary { cursor: pointer; } pre { overflow-x: auto; font-size: .8rem; background: #f6f6f6; padding: .8rem; }
.scroll { overflow-x: auto; border: 1px solid #ddd; border-radius: 4px; }
figcaption, small, .tag { color: #595959; font-weight: 400; }
table { border-collapse: separate; border-spacing: 0; font-size: .88rem;
  font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .32rem .65rem; text-align: right; white-space: nowrap; border-top: 1px solid #eee;
  vertical-align: top; }
thead th { border: 0; }
.text { text-align: left; }
th:first-child { text-align: left; position: sticky; left: 0; background: #fff; font-weight: 500; }
tr.group th { background: #f1f4f7; font-weight: 600; }
tr.group th > span { position: sticky; left: .65rem; }
td small { display: block; font-size: .78em; }
td.best { font-weight: 700; background: #e2f3e4; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .9rem; }
dt { font-weight: 600; }
dd { margin: 0; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem 2rem; align-items: flex-start; }
figure { margin: .6rem 0; flex: 0 1 32rem; min-width: 0; max-width: 40rem; }
figure.wide { flex-basis: 100%; max-width: 52rem; }
figure.wide > div { overflow-x: auto; }
img { display: block; max-width: 100%; height: auto; }
figure.wide img { min-width: 38rem; }
figcaption { font-size: .88rem; margin-top: .2rem; }
"""


def html_page(title: str, lead: str, sections: Sequence[tuple[str, str]], style: str = "") -> bytes:
    """Return a page with a list of links to its sections, which asks for nothing from elsewhere.

    Args:
        title: the heading, as plain text.
        lead: HTML over the links.
        sections: (heading, body) as HTML; those without a body are left out.
        style: CSS beyond the page's own.
    """
    made = [(f"part{i}", heading, body) for i, (heading, body) in enumerate(sections) if body]
    links = " ".join(f'<a href="#{anchor}">{heading}</a>' for anchor, heading, _ in made)
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n"
        f"{lead}<nav>{links}</nav>\n"
        + "".join(
            f'<section id="{anchor}"><h2>{heading}</h2>{body}</section>\n' for anchor, heading, body in made
        )
        + "</body></html>\n"
    )
    # a JSON file may contain half a surrogate pair, which UTF-8 cannot encode
    return page.encode("utf-8", "replace")


def html_figure(png: bytes, alt: str, caption: str, wide: bool = False) -> str:
    """Embed a PNG with its caption and its alternative text for screen readers."""
    return (
        f'<figure{" class=wide" if wide else ""}><div><img alt="{escape(alt)}" src="{data_url(png)}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def data_url(png: bytes) -> str:
    """Return a PNG as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
