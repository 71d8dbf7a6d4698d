"""Paths: what is relative goes under EFFDENSE_DATA, and a missing file says where it was looked for and why there."""

from pathlib import Path

import pytest

from effdense.data.paths import COCO_LAYOUT, data_root, require_dir, require_file, resolve
from effdense.errors import DataError


def test_relative_paths_follow_the_variable_and_absolute_ones_do_not(monkeypatch, tmp_path):
    monkeypatch.delenv("EFFDENSE_DATA", raising=False)
    assert data_root() == Path.cwd() / "data"
    assert resolve("coco/a.json") == Path.cwd() / "data/coco/a.json"
    monkeypatch.setenv("EFFDENSE_DATA", str(tmp_path))
    assert resolve("coco/a.json") == tmp_path / "coco" / "a.json"
    assert resolve("/somewhere/a.json") == Path("/somewhere/a.json")


@pytest.mark.parametrize("value", [None, "/data sets"])
def test_missing_file_names_absolute_path_and_variable(monkeypatch, tmp_path, value):
    monkeypatch.chdir(tmp_path)
    if value is None:
        monkeypatch.delenv("EFFDENSE_DATA", raising=False)
    else:
        monkeypatch.setenv("EFFDENSE_DATA", value)
    with pytest.raises(DataError) as caught:
        require_file(resolve("a.json"), "the annotation file", advice=COCO_LAYOUT)
    text = str(caught.value)
    assert str(data_root().absolute() / "a.json") in text
    assert ("EFFDENSE_DATA is not set" if value is None else "EFFDENSE_DATA is set to '/data sets'") in text
    assert "annotations/instances_train2017.json" in text


def test_a_file_is_not_a_folder(tmp_path):
    file = tmp_path / "x"
    file.write_text("")
    assert require_file(file, "it") == file
    assert require_dir(tmp_path, "it") == tmp_path
    with pytest.raises(DataError, match="not a folder"):
        require_dir(file, "the image folder")


@pytest.mark.parametrize("root", [None, "sets", "../sets"])
def test_resolving_twice_changes_nothing_for_a_relative_root(
    root: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("EFFDENSE_DATA", raising=False)
    if root is not None:
        monkeypatch.setenv("EFFDENSE_DATA", root)
    once = resolve("coco")
    assert once.is_absolute()
    assert resolve(once / "annotations") == once / "annotations"
