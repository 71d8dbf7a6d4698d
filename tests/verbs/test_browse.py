"""``effdense browse``: the pictures are those that training gets, the grid is as asked for, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from effdense.cli import main
from effdense.data.generated.shapes import write_shapes
from effdense.data.generated.shapes_folder import write_shapes_folder
from effdense.engine.browsing import FINAL, RAW, chosen_stages, open_browser
from effdense.engine.config import load_config
from effdense.engine.datasets import build_loader, build_split
from effdense.errors import ConfigError

SPLITS = {"train": 9, "val": 5}
HEAD = f"""
image_size = (48, 64)
train_cfg = dict(max_epochs=4)
_set = dict(splits={SPLITS!r}, image_size=(48, 80))
"""
CONFIGS = {
    "detection": """
model = dict(type="DetectionModel", name="efficientdet_lite0", max_level=6, fpn_cells=1)
train_dataloader = dict(batch_size=4, num_workers=0, sampler=dict(type="RepeatFactor", threshold=0.9), dataset=dict(
    type="ShapesDetection", split="train", max_objects=4, **_set, transforms=[dict(type="ScaleJitterCrop",
    scale=(0.5, 2.0)), dict(type="HorizontalFlip", prob=0.5)]))
val_dataloader = dict(batch_size=4, dataset=dict(type="ShapesDetection", split="val", max_objects=4, **_set,
    transforms=[dict(type="ResizePad")]))
""",
    "segmentation": """
model = dict(type="SegmentationModel", name="efficientunet_lite0", photometric=dict(prob=1.0))
train_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(type="ShapesSegmentation", split="train",
    max_objects=4, **_set, transforms=[dict(type="ScaleJitterCrop"), dict(type="HorizontalFlip")]))
""",
    "classification": """
model = dict(type="ClassificationModel", name="efficientnet_lite0", mixup=0.2, cutmix=1.0)
train_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(type="ShapesFolder", split="train", **_set,
    transforms=[dict(type="RandomResizedCrop"), dict(type="RandAugment", magnitude=5)]))
default_hooks = dict(progressive=dict(type="ProgressiveLearningHook", stages=2, image_size=((24, 32), (48, 64)),
    divisor=8, randaugment=(0, 9)))
""",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browse_data")
    write_shapes(folder / "shapes", splits=SPLITS, image_size=(48, 80), seed=0, max_objects=4)
    write_shapes_folder(folder / "shapes_folder", splits=SPLITS, image_size=(48, 80), seed=0)
    return folder


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return written(str(request.param), root, tmp_path, monkeypatch)


@pytest.fixture
def detection(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return written("detection", root, tmp_path, monkeypatch)


def written(task: str, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EFFDENSE_DATA", str(root))
    monkeypatch.chdir(folder)
    path = folder / f"{task}.py"
    path.write_text(HEAD + CONFIGS[task])
    return path


def read(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture


@pytest.mark.parametrize("epoch", [1, 3])
def test_what_is_shown_is_what_training_gets(detection: Path, epoch: int) -> None:
    cfg = load_config(detection)
    split = build_split(cfg, "train", seed=0)
    loader = build_loader(split, seed=0, training=True)
    loader.sampler.set_epoch(epoch - 1)
    batch = next(iter(loader))
    browser = open_browser(load_config(detection), "train", epoch=epoch)
    seen = list(browser.samples(4, None))
    for place, one in enumerate(seen):
        final = one.views[-1]
        assert np.array_equal(final.image, batch["inputs"][place].permute(1, 2, 0).numpy())
        assert np.array_equal(final.boxes, batch["boxes"][place][batch["valid"][place]].numpy())
        assert one.line.startswith(f"{batch['indices'][place]} {batch['paths'][place]}: ")
        assert len(one.views) == 4 and np.array_equal(one.views[2].image, final.image)  # the flip is the last step


def test_a_page_for_every_task(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.png"
    assert main(["browse", str(config), "-n", "3", "--cell", "100", "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4 and printed[-1] == f"written: {out}"
    page = read(out)
    assert page.shape[1] == 4 * 100 + 5 * 8 and page.std() > 20
    before = out.read_bytes()
    assert main(["browse", str(config), "-n", "3", "--cell", "100", "--out", str(out), "--overwrite"]) == 0
    assert out.read_bytes() == before  # the same command, the same picture
    torch.rand(3)  # whatever else has been drawn
    assert (
        main(["browse", str(config), "-n", "3", "--cell", "100", "--out", str(out), "--overwrite", "--seed", "1"]) == 0
    )
    assert out.read_bytes() != before


def test_colours_are_jittered_and_labels_mixed_at_the_end(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = open_browser(load_config(written("segmentation", root, tmp_path, monkeypatch)), "train")
    one = next(browser.samples(1, None))
    assert "jittered" in one.views[-1].title and one.views[-1].mask is not None
    assert not np.array_equal(one.views[-2].image, one.views[-1].image)
    assert np.array_equal(one.views[-2].mask, one.views[-1].mask)
    browser = open_browser(load_config(written("classification", root, tmp_path, monkeypatch)), "train", epoch=4)
    titles = [one.views[-1].title for one in browser.samples(9, None)]
    assert any(" + 0." in title for title in titles)


def test_a_stage_of_progressive_training(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written("classification", root, tmp_path, monkeypatch)
    for epoch, size in ((1, (24, 32)), (2, (24, 32)), (3, (48, 64))):
        one = next(open_browser(load_config(path), "train", epoch=epoch).samples(1, None))
        assert one.views[-1].image.shape[:2] == size


def test_chosen_samples_and_stages(detection: Path) -> None:
    browser = open_browser(load_config(detection), "train", indices=[7, 2])
    seen = list(browser.samples(2, chosen_stages(browser, "raw,HorizontalFlip,final")))
    assert [one.line.split()[0] for one in seen] == ["7", "2"]
    assert [view.title.split()[0] for view in seen[0].views[1:]] == ["HorizontalFlip", "network"]
    assert browser.stages == (RAW, "ScaleJitterCrop", "HorizontalFlip", FINAL)
    val = list(open_browser(load_config(detection), "val").samples(99, [FINAL]))
    assert [one.line.split()[0] for one in val] == ["0", "1", "2", "3", "4"]
    with pytest.raises(ConfigError, match=r"there is no 'HorizontlFlip'\. Did you mean 'HorizontalFlip'"):
        chosen_stages(browser, "HorizontlFlip")


def test_pages_are_split_and_a_grid_has_columns(
    detection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effdense.visualize.browse.MAX_PAGE_PX", 3 * 3 * 108 * 140 + 1)
    out = tmp_path / "grid.png"
    arguments = ["browse", str(detection), "--stage", "final", "--cell", "100", "--columns", "3", "--out", str(out)]
    assert main([*arguments, "-n", "9"]) == 0
    assert out.is_file() and (tmp_path / "grid_2.png").is_file() and not (tmp_path / "grid_3.png").exists()
    assert read(out).shape[1] == 3 * 108 + 8


def test_the_usual_place_is_written_again(detection: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["browse", str(detection), "-n", "1", "--epoch", "2"]) == 0
    assert Path("work_dirs/detection/browse/train_epoch2.png").is_file()
    assert "work_dirs/detection/browse/train_epoch2.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--index", "0,99"], "--index must lie in 0..8 (train split), got [99]"),
        (["--index", "a"], "positions in the data set"),
        (["--index", "-1"], "positions in the data set"),
        (["-n", "0"], "-n must lie in 1..2000"),
        (["--epoch", "0"], "counts from 1 as the log does, to 4; got 0"),
        (["--epoch", "5"], "counts from 1 as the log does, to 4; got 5"),
        (["--out", "page.gif"], "picture file ending in .png"),
        (["--out", "there.png"], "there.png exists; name another --out, or say --overwrite"),
        (["--stage", "Mosiac"], "there is no 'Mosiac'"),
        (["--split", "test"], "the config has no test_dataloader section"),
        (["--columns", "0"], "--columns must lie in 1..32"),
        (["--cell", "5"], "--cell must lie in"),
        (["--seed", "-2"], "--seed must not be negative"),
        (["--cfg-options", "train_dataloader.batchsize=3"], "Did you mean 'batch_size'"),
        (["--cfg-options", "model.num_classes=3"], "model.num_classes is 3"),
    ],
)  # fmt: skip
def test_what_is_refused(
    detection: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there.png").write_bytes(b"mine")
    if arguments[0] == "--index" and arguments[1].startswith("-"):
        arguments = [f"--index={arguments[1]}"]
    assert main(["browse", str(detection), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert Path("there.png").read_bytes() == b"mine"
    assert not Path("work_dirs").exists()


def test_a_picture_that_cannot_be_read_is_named(
    detection: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "data"
    write_shapes(copy / "shapes", splits=SPLITS, image_size=(48, 80), seed=0, max_objects=4)
    monkeypatch.setenv("EFFDENSE_DATA", str(copy))
    broken = sorted((copy / "shapes" / "train").glob("*.jpg"))[2]
    broken.write_bytes(broken.read_bytes()[:200])
    assert main(["browse", str(detection), "--index", "2", "--out", "page.png"]) == 2
    assert broken.name in capsys.readouterr().err
    assert not Path("page.png").exists()
