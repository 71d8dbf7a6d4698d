"""A report on disk: whole in one file, nothing fetched, everything escaped, no foreign file touched."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from effdense.errors import ConfigError
from effdense.report import Document, Gallery, Paragraph, Section, Table, render_html, render_markdown, write_report
from effdense.report.document import chart, file_part, number, photo

NASTY = "<script>alert('a & \"b\"')</script>"
IMAGE = np.full((20, 30, 3), 128, np.uint8)


def document(title: str = "a run") -> Document:
    return Document(
        title,
        [("run", "folder"), ("name", NASTY)],
        [
            Section("Scores", [Paragraph("text", "key"), Table(["class", "AP|50"], [[NASTY, "0.5"]], caption=NASTY)]),
            Section(NASTY, [chart("curve", IMAGE, NASTY, NASTY), Gallery([photo("worst_01", IMAGE, "x")])]),
        ],
    )


class Reader(HTMLParser):
    """Every tag with its attributes, and whether tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_opens_offline_and_escapes() -> None:
    text = render_html(document(NASTY))
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    tags = [tag for tag, _ in reader.tags]
    assert "script" not in tags and "link" not in tags and tags.count("img") == 2
    sources = [attributes["src"] or "" for tag, attributes in reader.tags if tag == "img"]
    assert all(re.match(r"data:image/(png|jpeg);base64,", source) for source in sources)
    assert not re.search(r"(src|href)=.(?!data:|#)", text) and "http://" not in text and "https://" not in text
    assert "default-src 'none'" in text and "url(" not in text
    assert NASTY not in text and "&lt;script&gt;" in text


def test_markdown_links_files_and_escapes() -> None:
    text = render_markdown(document())
    assert "](pictures/curve.png)" in text and "](pictures/worst_01.jpg)" in text
    assert "<script>" not in text and "| class | AP\\|50 |" in text


def test_control_characters_and_half_surrogates() -> None:
    text = render_html(Document("a\x00b\ud800c\u202f"))
    assert "\x00" not in text and "a\ufffdb\ufffdc\u202f" in text
    text.encode("utf-8")


def test_files_and_a_second_report(tmp_path: Path) -> None:
    path = write_report(document(), {"AP": float("nan"), "counts": np.arange(2)}, tmp_path / "out")
    assert sorted(p.name for p in path.parent.iterdir()) == ["metrics.json", "pictures", "report.html", "report.md"]
    numbers = json.loads((path.parent / "metrics.json").read_text())
    assert numbers["AP"] is None and numbers["counts"] == [0, 1]
    assert sorted(p.name for p in (path.parent / "pictures").iterdir()) == ["curve.png", "worst_01.jpg"]
    (path.parent / "pictures" / "mine.txt").write_text("stays")
    write_report(Document("another", (), [Section("s", [chart("other", IMAGE, "x")])]), {}, path.parent)
    assert sorted(p.name for p in (path.parent / "pictures").iterdir()) == ["mine.txt", "other.png"]


def test_older_names_never_lead_out_of_the_folder(tmp_path: Path) -> None:
    path = write_report(document(), {}, tmp_path / "out")
    victim = tmp_path / "out" / "keep.txt"
    victim.write_text("stays")
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    (tmp_path / "out" / "metrics.json").write_text(json.dumps({**content, "pictures": ["../keep.txt", 3, None]}))
    write_report(document(), {}, path.parent)
    assert victim.read_text() == "stays"


def test_no_foreign_file_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(ConfigError, match="not a report of effdense analyze"):
        write_report(document(), {}, tmp_path)
    with pytest.raises(ConfigError, match="is a file"):
        write_report(document(), {}, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == "mine"


def test_small_helpers() -> None:
    assert (number(None), number(float("nan")), number(-1.0), number(0.12345)) == ("–", "–", "–", "0.123")
    assert file_part("../../etc/pass wd") == "etc_pass_wd" and file_part("日本") == "picture"
