"""Faults of masks, through the command line: exit code 2, a paragraph with file, count and the likely fix, nothing
written; and the sets of binary, coloured and public masks by their names in a config.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effdense.cli import main
from effdense.data.image_io import write_jpeg, write_png
from effdense.engine import checkpoint as files
from effdense.engine.config import load_config
from effdense.engine.datasets import build_split, check_class_count
from effdense.engine.run import train
from effdense.errors import ConfigError, DataError
from tests.data import scene_trees as trees
from tests.engine.conftest import ROOT, read_log
from tests.engine.test_run import log_text

CONFIG = """
_base_ = [{runtime!r}, {schedule!r}]
image_size = 32
model = dict(type="SegmentationModel", name="efficientunet_lite0", decoder_channels=(16, 16, 8, 8, 8))
_files = dict(type="MaskFolder", root="set", images="images", masks="masks")
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(**_files, split_file="train.txt",
                        transforms=[dict(type="ScaleJitterCrop")]))
val_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(**_files, split_file="val.txt",
                      transforms=[dict(type="ResizePad")]))
val_evaluator = dict(type="SegmentationMetric")
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(pictures=None)
"""
SIZE = (32, 48)
CLASSES = {"classes": ["background", "road", "car"]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six pictures, four to train on, with masks of 0, 1, 2 and 255."""
    root = tmp_path / "data" / "set"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for i in range(6):
        write_jpeg(root / "images" / f"{i}.jpg", trees.picture(i, SIZE))
        write_png(root / "masks" / f"{i}.png", mask(i))
    (root / "train.txt").write_text("0\n1\n2\n3\n")
    (root / "val.txt").write_text("4\n5\n")
    (root / "classes.json").write_text(json.dumps(CLASSES))
    monkeypatch.setenv("EFFDENSE_DATA", str(root.parent))
    return root


def mask(i: int) -> np.ndarray:
    return trees.labels(i, 3, SIZE)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    base = ROOT / "configs" / "_base_"
    path = tmp_path / "masks.py"
    schedule = str(base / "schedules" / "adamw_short.py")
    path.write_text(CONFIG.format(runtime=str(base / "default_runtime.py"), schedule=schedule))
    return path


@pytest.fixture
def refused(folder: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs ``effdense train``, which must refuse, and returns its message."""

    def run(*options: str) -> str:
        command = ["train", str(config), "--work-dir", str(tmp_path / "work")]
        code = main([*command, "--cfg-options", *options] if options else command)
        error = capsys.readouterr().err
        assert code == 2, error
        assert "Traceback" not in error and not (tmp_path / "work").exists()
        name, _, message = error.strip().partition(": ")
        assert name in {"ConfigError", "DataError", "EmptySplitError"}
        return message

    return run


def binary(root: Path) -> None:
    for i in range(6):
        write_png(root / "masks" / f"{i}.png", np.where(mask(i) == 1, 255, 0).astype(np.uint8))


def colored(root: Path) -> None:
    table = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    for i in range(6):
        write_png(root / "masks" / f"{i}.png", table[mask(i)])


def sixteen_bit(root: Path) -> None:
    Image.fromarray(mask(2).astype(np.uint16)).save(root / "masks" / "2.png")


def jpeg(root: Path) -> None:
    for path in (root / "masks").glob("*.png"):
        Image.fromarray(np.minimum(mask(int(path.stem)), 2)).save(path.with_suffix(".jpg"))
        path.unlink()


def transparent(root: Path) -> None:
    Image.fromarray(mask(2)).convert("LA").save(root / "masks" / "2.png")


def of_another_size(root: Path) -> None:
    write_png(root / "masks" / "2.png", np.zeros((16, 24), np.uint8))


def missing(root: Path) -> None:
    (root / "masks" / "2.png").unlink()


def cut_short(root: Path) -> None:
    whole = (root / "masks" / "2.png").read_bytes()
    (root / "masks" / "2.png").write_bytes(whole[: len(whole) // 2])


def empty_split(root: Path) -> None:
    (root / "train.txt").write_text("\n")


def ignored(root: Path) -> None:
    for i in range(4):
        write_png(root / "masks" / f"{i}.png", np.full(SIZE, 255, np.uint8))


def strange_value(root: Path) -> None:
    spoilt = mask(2)
    spoilt[5, :7] = 9
    write_png(root / "masks" / "2.png", spoilt)


def outside(root: Path) -> None:
    (root / "train.txt").write_text("0\n../../x\n")


def misspelt(root: Path) -> None:
    (root / "classes.json").write_text(json.dumps({"clases": CLASSES["classes"]}))


def no_class_file(root: Path) -> None:
    (root / "classes.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (binary, "[binary-mask] 4x: masks hold only 0 and 255"),
        (colored, "[mask-kind] 4x: masks do not hold one 8-bit number per pixel. First: 0.png is RGB (colour-coded"),
        (sixteen_bit, "[mask-kind] 1x: masks do not hold one 8-bit number per pixel. First: 2.png is I;16 (16-bit"),
        (jpeg, "There is '0.jpg', but .jpg changes the values of a mask"),
        (transparent, "2.png is LA (grey with transparency: save it without the alpha channel)"),
        (of_another_size, "2.png is 24x16, the picture 48x32 (width x height)"),
        (missing, "[missing-mask] 1x"),
        (cut_short, "[unreadable-mask] 1x: mask files cannot be read; replace them or take them out. First: 2.png"),
        (empty_split, "train.txt: the split is empty"),
        (ignored, "[all-ignored] 4x: every mask holds nothing but ignored values (255)"),
        (strange_value, "First: 2.png (9: 7 px)"),
        (outside, "[unsafe-path] 1x"),
        (misspelt, "'clases' is no key of a class file. Did you mean 'classes'?"),
        (no_class_file, "the class file"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_masks_that_cannot_be_used(folder: Path, refused: Any, spoil: Callable[[Path], None], said: str) -> None:
    spoil(folder)
    assert said in refused()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("data_check.decode=-1", "decode must be at least 0, got -1"),
        ("train_dataloader.dataset.ignore_index=2.5", "ignore_index must be a whole number, None or 'auto'"),
        ("train_dataloader.dataset.ignore_index=1", "ignore_index 1 is also the value of a class"),
        ("train_dataloader.dataset.mask_suffx=_L", "Did you mean 'mask_suffix'"),
        ("model.num_classes=4", "model.num_classes is 4"),
        ("train_dataloader.dataset.type=CityScapes", "Did you mean 'Cityscapes'"),
    ],
)
def test_options_that_cannot_be_used(refused: Any, option: str, said: str) -> None:
    assert said in refused(option)


def test_a_single_class_has_nothing_beside_it(folder: Path, refused: Any) -> None:
    binary(folder)
    (folder / "classes.json").write_text(json.dumps(["object"]))
    assert 'have one class, object, and nothing to tell it from. Name what is around it, too: "classes"' in refused()


def test_classes_of_the_config_are_chosen_by_name(folder: Path, config: Path) -> None:
    names = CLASSES["classes"]
    whole = build_split(load_config(config), "train", seed=0).dataset.load_mask(0)
    split = build_split(load_config(config, {"classes": names[:0:-1]}), "train", seed=0)  # label order is the file's
    assert list(split.records.class_map.names) == names[1:]
    np.testing.assert_array_equal(split.dataset.load_mask(0), np.where((whole == 0) | (whole == 255), 255, whole - 1))
    with pytest.raises(ConfigError, match=r"is not\. Did you mean"):
        build_split(load_config(config, {"classes": [names[0] + "s", names[1]]}), "train", seed=0)


def test_loader_options_that_torch_refuses(refused: Any) -> None:
    assert "train_dataloader.num_workers must be a whole number of at least 0, got -1" in refused(
        "train_dataloader.num_workers=-1"
    )


def test_warnings_are_in_the_log(folder: Path, config: Path, tmp_path: Path) -> None:
    write_png(folder / "masks" / "0.png", np.full(SIZE, 255, np.uint8))
    (folder / "val.txt").write_text("3\n4\n5\n")
    assert main(["train", str(config), "--work-dir", str(tmp_path / "work")]) == 0
    log = log_text(tmp_path / "work")
    assert "WARNING - train: [all-ignored] 1x" in log and "WARNING - val: [also-in-training] 1x" in log


def test_how_many_masks_are_decoded(folder: Path, config: Path) -> None:
    """All of them unless the config says so."""
    strange_value(folder)
    with pytest.raises(DataError, match="mask-values"):
        build_split(load_config(config), "train", seed=0)
    for decode in (0, 2):
        cfg = load_config(config, {"data_check.decode": decode})
        assert not build_split(cfg, "train", seed=0).report.findings
    assert not build_split(load_config(config, {"data_check.enable": False}), "train", seed=0).report.findings


def test_binary_masks_as_they_are_by_config(folder: Path, config: Path) -> None:
    binary(folder)
    options = {
        f"train_dataloader.dataset.{key}": value
        for key, value in (("classes", ["background", "object"]), ("values", [0, 255]), ("ignore_index", None))
    }
    split = build_split(load_config(config, options), "train", seed=0)
    assert set(np.unique(split.dataset.load_mask(0)).tolist()) == {0, 1} and not split.report.findings
    assert check_class_count(None, split.records.class_map, "", task="segmentation") == 2
    assert check_class_count(1, split.records.class_map, "", task="segmentation") == 1  # one logit
    with pytest.raises(ConfigError, match=r"num_classes is 1.* define 2 classes"):
        check_class_count(1, split.records.class_map, "", task="detection")


def test_a_binary_segmentor_trains_on_0_and_255(folder: Path, config: Path, tmp_path: Path) -> None:
    """One logit, two class names."""
    binary(folder)
    (folder / "classes.json").write_text(
        json.dumps({"classes": ["background", "object"], "values": [0, 255], "ignore_index": None})
    )
    work_dir = train(config, work_dir=str(tmp_path / "work"), options={"model.num_classes": 1})
    meta = files.load(work_dir / "best.pth")["meta"]
    assert meta["classes"] == ["background", "object"] and meta["model"]["num_classes"] == 1
    assert [line for line in read_log(work_dir) if "seg/mIoU" in line]


@pytest.mark.parametrize(
    ("dataset", "make", "classes"),
    [
        ("VOCSegmentation", trees.voc, 21),
        ("Cityscapes", trees.cityscapes, 19),
        ("ADE20K", trees.ade20k, 150),
        ("CamVid", trees.camvid, 11),
        ("COCOPanoptic", trees.coco, 133),
        ("COCOStuff", trees.coco, 171),
    ],
)
def test_public_sets_by_name(
    dataset: str, make: Any, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each under its usual root."""
    monkeypatch.setenv("EFFDENSE_DATA", str(tmp_path))
    make(tmp_path)
    transforms = [{"type": "ResizePad"}]
    for split in ("train", "val"):
        cfg = {
            "image_size": 32,
            f"{split}_dataloader": {"dataset": {"type": dataset, "split": split, "transforms": transforms}},
        }
        built = build_split(cfg, split, seed=0)
        assert len(built.records.class_map) == classes and built.records.class_map.palette is not None
        assert {finding.code for finding in built.report.findings} <= {"absent-class"}
        sample = built.dataset[0]
        assert sample["mask"].shape == (32, 32) and (sample["mask"] < classes).any()
