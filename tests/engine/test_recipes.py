"""Every config snippet of the training page's recipes passes the check on top of a shipped config."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from effdense.engine.config import load_config
from tests.engine.conftest import ROOT

_PAGE = (ROOT / "docs" / "training.md").read_text()


def snippets(*titles: str) -> list[str]:
    """Python blocks of the sections with these titles."""
    found = []
    for title in titles:
        section = re.split(r"\n## ", _PAGE.split(f"\n## {title}\n", 1)[1], maxsplit=1)[0]
        found += re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    return found


SNIPPETS = snippets("Batch size", "Recipes")


def test_there_are_recipes() -> None:
    text = "".join(SNIPPETS)
    for word in ("auto", "flat_decay_mult", "layer_decay", "agc", "EMAHook", "WarmupStepLR", "multi_scale", "determin"):
        assert word in text


@pytest.mark.parametrize("base", ["effdet_b0_coco.py", "effunet_b0_shapes.py", "effnet_small_shapes.py"])
@pytest.mark.parametrize("text", SNIPPETS, ids=[re.sub(r"\W+", "-", text)[:40] for text in SNIPPETS])
def test_a_recipe_passes_the_check(text: str, base: str, tmp_path: Path) -> None:
    config = tmp_path / "recipe.py"
    config.write_text(f"_base_ = [{str(ROOT / 'configs' / base)!r}]\n{text}")
    load_config(config)
