"""The shipped configs of the public segmentation sets, each pointed at a tiny tree of its layout: step and score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effdense.engine import checkpoint as files
from effdense.engine.run import train
from effdense.errors import DataError
from tests.data import scene_trees as trees
from tests.engine.conftest import ROOT, read_log

# Config: the tree, the smallest network of its kind, what else makes it small.
NETWORKS: dict[str, tuple[Callable[[Path], Any], dict[str, Any]]] = {
    "effunet_b3_voc": (lambda root: trees.voc(root, extra=1), {"model.name": "efficientunet_b0"}),
    "bifpnseg_b4_voc": (lambda root: trees.voc(root, extra=1), {"model.name": "bifpnseg_b0"}),
    "effunet_b0_cityscapes": (trees.cityscapes, {"train_dataloader.dataset.transforms.0.size": (32, 64)}),
    "effunet_v2s_ade20k": (trees.ade20k, {"model.name": "efficientunet_v2b0"}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_of_every_config(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, options = NETWORKS[name]
    monkeypatch.setenv("EFFDENSE_DATA", str(tmp_path / "data"))
    make(tmp_path / "data")
    options = {
        "image_size": (64, 64) if "cityscapes" not in name else (48, 64),
        "train_dataloader.batch_size": 2,
        "train_dataloader.num_workers": 0,
        "val_dataloader.num_workers": 0,
        "train_cfg.max_epochs": 1,
        "train_cfg.val_interval": 1,
        "default_hooks.pictures": None,
        **options,
    }
    work_dir = train(ROOT / "configs" / f"{name}.py", work_dir=str(tmp_path / "run"), options=options)
    lines = read_log(work_dir)
    losses = [line["loss"] for line in lines if "loss" in line]
    scores = [line["seg/mIoU"] for line in lines if "seg/mIoU" in line]
    assert all(0 < loss < 20 for loss in losses) and len(scores) == 1 and 0 <= scores[0] <= 1
    meta = files.load(work_dir / "best.pth")["meta"]
    assert (
        len(meta["palette"])
        == len(meta["classes"])
        == {"voc": 21, "apes": 19, "e20k": 150}[next(end for end in ("voc", "apes", "e20k") if name.endswith(end))]
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("effunet_b3_voc", "ROOT/JPEGImages"),
        ("bifpnseg_b4_voc", "ROOT/JPEGImages"),
        ("effunet_b0_cityscapes", "gtFine_trainvaltest.zip"),
        ("effunet_v2s_ade20k", "ADEChallengeData2016.zip"),
    ],
)
def test_without_data_the_layout_is_said(name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFDENSE_DATA", str(tmp_path))
    with pytest.raises(DataError, match="EFFDENSE_DATA is set to") as caught:
        train(ROOT / "configs" / f"{name}.py", work_dir=str(tmp_path / "run"))
    assert said in str(caught.value) and not (tmp_path / "run").exists()
