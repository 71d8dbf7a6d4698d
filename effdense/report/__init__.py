"""Reports: numbers, tables and pictures as one HTML file that needs nothing beside it, as Markdown and as JSON."""

from __future__ import annotations

from effdense.report.document import Document, Gallery, Paragraph, Picture, Section, Table
from effdense.report.html import render_html
from effdense.report.markdown import render_markdown
from effdense.report.write import write_report

__all__ = [
    "Document",
    "Gallery",
    "Paragraph",
    "Picture",
    "Section",
    "Table",
    "render_html",
    "render_markdown",
    "write_report",
]
