"""A report as Markdown, with its pictures as files beside it: for issues, wikis and diffs."""

from __future__ import annotations

from collections.abc import Sequence

from effdense.report.document import Block, Document, Gallery, Paragraph, Picture, Table, without_controls


def render_markdown(document: Document, folder: str = "pictures") -> str:
    """The whole page; pictures are linked as ``folder/name``."""
    lines = [f"# {_text(document.title)}", ""]
    lines += [f"- {_text(name)}: {_text(value)}" for name, value in document.facts]
    for section in document.sections:
        lines += ["", f"## {_text(section.title)}"]
        for block in section.blocks:
            lines += ["", *_block(block, folder)]
    return "\n".join([*lines, ""])


def _block(block: Block, folder: str) -> list[str]:
    if isinstance(block, Paragraph):
        shown = _text(block.text)
        return [f"**{shown}**" if block.kind == "key" else f"> {shown}" if block.kind == "warning" else shown]
    if isinstance(block, Table):
        lines = [_text(block.caption), ""] if block.caption else []
        lines.append(_row(block.columns))
        lines.append(_row([":--" if i in block.text_columns else "--:" for i in range(len(block.columns))], plain=True))
        return [*lines, *(_row(row) for row in block.rows)]
    if isinstance(block, Picture):
        caption = ["", _text(block.caption)] if block.caption else []
        return [f"![{_text(block.alt)}]({folder}/{block.name})", *caption]
    assert isinstance(block, Gallery)
    return [line for picture in block.pictures for line in [*_block(picture, folder), ""]]


def _row(cells: Sequence[str], plain: bool = False) -> str:
    return "| " + " | ".join(cell if plain else _text(cell) for cell in cells) + " |"


def _text(text: object) -> str:
    """One line in which nothing is taken for markup."""
    shown = without_controls(" ".join(str(text).split()))
    for letter in "\\`*_[]|#":
        shown = shown.replace(letter, f"\\{letter}")
    return shown.replace("<", "&lt;").replace(">", "&gt;")
