"""The colours of a data set's classes go with it: pictures of the run, its checkpoint, and what opens it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import effdense
from effdense.data import read_image
from effdense.data.generated.shapes import write_shapes
from effdense.engine.run import test as evaluate
from effdense.engine.run import train
from tests.engine.conftest import ROOT

PALETTE = [(0, 0, 0), (250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250)]
CONFIG = """
_base_ = [{masks!r}]
image_size = 64
model = dict(name="efficientunet_lite0", decoder_channels=(16, 16, 8, 8, 8), photometric=dict())
_set = dict(root="shapes", class_file=None, split_file=None, palette={palette!r},
            classes=["background", "ellipse", "rectangle", "triangle", "star", "ring"])
train_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(**_set, images="train", masks="semantic/train"))
val_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(**_set, images="val", masks="semantic/val"))
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(precise_bn=None)
"""


def has_color(picture: np.ndarray, color: tuple[int, int, int]) -> bool:
    """In a JPEG, so nearly that colour."""
    return bool((np.abs(picture.astype(int) - color).max(2) < 40).sum() > 30)


def test_a_palette_travels_from_the_data_to_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shapes(tmp_path / "shapes", splits={"train": 4, "val": 3}, image_size=(64, 96))
    monkeypatch.setenv("EFFDENSE_DATA", str(tmp_path))
    config = tmp_path / "tiny.py"
    config.write_text(CONFIG.format(masks=str(ROOT / "configs" / "effunet_b0_masks.py"), palette=PALETTE))
    run = train(config, work_dir=str(tmp_path / "run"))
    evaluate(config, str(run / "best.pth"), work_dir=str(tmp_path / "again"), show_dir=str(tmp_path / "shown"))
    pages = sorted((tmp_path / "shown").glob("*.jpg"))
    assert [page.stem[:5] for page in pages] == ["00000", "00001", "00002"]
    for picture in (run / "pictures" / "train_batch_0.jpg", run / "pictures" / "val_predictions.jpg", pages[0]):
        drawn = read_image(picture)
        assert all(has_color(drawn, color) for color in PALETTE[1:])  # at least in the legend
    image = read_image(tmp_path / "shapes" / "val" / "000001.jpg")
    assert read_image(pages[0]).shape[1] >= 3 * image.shape[1]  # truth, prediction, errors
    model = effdense.load(run)
    assert model.meta["palette"] == [list(color) for color in PALETTE]
    result = model(image)
    assert result.palette == tuple(PALETTE)
    painted = result.plot(alpha=1.0)[result.mask.numpy() > 0]
    assert {tuple(color) for color in painted.tolist()} <= set(PALETTE[1:])
