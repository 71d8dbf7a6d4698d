"""A report as one HTML file: pictures inside as data URIs, styles inline, no script, nothing fetched.

A content security policy says so to the browser as well. All text is escaped.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from effdense.report.document import Block, Document, Gallery, Paragraph, Picture, Section, Table, without_controls

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --paper: #fff; --soft: #666d76; --line: #d9dde2; --band: #f4f6f8;
  --key: #eaf2fb; --key-line: #2f6db5; --warn: #fdf1e3; --warn-line: #e08a1e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --paper: #16191d; --soft: #9aa2ac; --line: #343a42;
  --band: #1e2328; --key: #1a2a3d; --warn: #33270f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1360px; padding: 1.5rem; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
nav { margin: 1rem 0; } nav a { margin-right: 1rem; color: var(--key-line); display: inline-block; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
p { max-width: 75ch; } p.note { color: var(--soft); font-size: .88rem; }
p.key, p.warning { padding: .6rem .9rem; border-left: 4px solid var(--key-line); background: var(--key); }
p.warning { border-color: var(--warn-line); background: var(--warn); }
.scroll { overflow-x: auto; margin: .8rem 0; max-height: 42rem; overflow-y: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { padding: .22rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { position: sticky; top: 0; background: var(--band); }
th.text, td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; max-width: 26rem; }
tbody tr:nth-child(even) { background: var(--band); }
figure { margin: .8rem 0; } figure img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
figure.wide { overflow: auto; max-height: 46rem; } figure.wide img { max-width: none; }
figcaption { font-size: .85rem; color: var(--soft); overflow-wrap: anywhere; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 620px), 1fr)); gap: .8rem; }
.gallery figure { margin: 0; }
@media print { .scroll, figure.wide { max-height: none; overflow: visible; } nav { display: none; } }
"""


def render_html(document: Document) -> str:
    """The whole page."""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">",
        f"<title>{_text(document.title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_text(document.title)}</h1>",
        "<dl>" + "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in document.facts) + "</dl>",
    ]
    if len(document.sections) > 1:
        links = (f'<a href="#s{i}">{_text(section.title)}</a>' for i, section in enumerate(document.sections))
        parts.append(f"<nav>{' '.join(links)}</nav>")
    parts += [_section(i, section) for i, section in enumerate(document.sections)]
    return "\n".join([*parts, "</body></html>", ""])


def _section(number: int, section: Section) -> str:
    body = "\n".join(_block(block) for block in section.blocks)
    return f'<section id="s{number}"><h2>{_text(section.title)}</h2>\n{body}</section>'


def _block(block: Block) -> str:
    if isinstance(block, Paragraph):
        return (
            f'<p class="{_text(block.kind)}">{_text(block.text)}</p>' if block.kind else f"<p>{_text(block.text)}</p>"
        )
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Picture):
        return _figure(block)
    assert isinstance(block, Gallery)
    return '<div class="gallery">' + "\n".join(_figure(picture) for picture in block.pictures) + "</div>"


def _table(table: Table) -> str:
    def row(tag: str, cells: Sequence[str]) -> str:
        kinds = (' class="text"' if i in table.text_columns else "" for i in range(len(cells)))
        return f"<tr>{''.join(f'<{tag}{kind}>{_text(cell)}</{tag}>' for kind, cell in zip(kinds, cells))}</tr>"

    caption = f"<caption>{_text(table.caption)}</caption>" if table.caption else ""
    body = "\n".join(row("td", cells) for cells in table.rows)
    return (
        f'<div class="scroll"><table>{caption}<thead>{row("th", table.columns)}</thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.data).decode("ascii")
    height, width = picture.size
    sides = f' width="{width}" height="{height}"' if height and width else ""
    caption = f"<figcaption>{_text(picture.caption)}</figcaption>" if picture.caption else ""
    kind = ' class="wide"' if picture.wide else ""
    return (
        f'<figure{kind}><img src="data:{picture.media_type};base64,{data}" alt="{_text(picture.alt)}"{sides}>'
        f"{caption}</figure>"
    )


def _text(text: object) -> str:
    """Escaped for text and for attributes; control characters, which HTML does not allow, become a mark."""
    return html.escape(without_controls(str(text)), quote=True)
