"""Faults a user can make, through the command line: exit code 2, a paragraph that says what to do, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from effdense.cli import main

Content = dict[str, Any]


@pytest.fixture
def folder(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the data set that may be spoilt; the data root is its parent."""
    monkeypatch.setenv("EFFDENSE_DATA", str(tmp_path / "data"))
    return Path(shutil.copytree(data_root / "shapes", tmp_path / "data" / "shapes"))


@pytest.fixture
def refused(
    folder: Path, tiny_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs ``effdense train``, which must refuse, and returns its message."""
    config = tiny_config("bad")
    monkeypatch.setenv("EFFDENSE_DATA", str(folder.parent))
    work_dir = tmp_path / "work"

    def run(*options: str, arguments: tuple[str, ...] = ()) -> str:
        command = ["train", str(config), "--work-dir", str(work_dir), *arguments]
        if options:
            command += ["--cfg-options", *options]
        code = main(command)
        error = capsys.readouterr().err
        assert code == 2, error
        assert "Traceback" not in error and not work_dir.exists()
        name, _, message = error.strip().partition(": ")
        assert name in {"ConfigError", "DataError", "WeightsError"}
        assert "\n\n" not in message
        return message

    return run


def edit(folder: Path, split: str, change: Callable[[Content], None]) -> None:
    path = folder / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# -- files -------------------------------------------------------------------------------------------------------------


def test_no_data_root(folder: Path, refused: Any) -> None:
    shutil.rmtree(folder)
    message = refused()
    assert "the dataset root" in message and str(folder) in message and "EFFDENSE_DATA" in message


def test_no_annotation_file(folder: Path, refused: Any) -> None:
    (folder / "annotations" / "instances_val.json").unlink()
    message = refused()
    assert "annotation file" in message and "instances_val.json" in message


def test_an_annotation_file_cut_short(folder: Path, refused: Any) -> None:
    path = folder / "annotations" / "instances_train.json"
    path.write_text(path.read_text()[:500])
    assert "instances_train.json" in refused()


def test_a_missing_picture(folder: Path, refused: Any) -> None:
    (folder / "train" / "000003.jpg").unlink()
    message = refused()
    assert "train split" in message and "[missing-image] 1x" in message and "000003.jpg" in message


def test_a_truncated_picture(folder: Path, refused: Any) -> None:
    path = folder / "val" / "000002.jpg"
    path.write_bytes(path.read_bytes()[:-400])
    message = refused()
    assert "val split" in message and "[truncated-image] 1x" in message and "000002.jpg" in message


def test_a_picture_of_another_size(folder: Path, refused: Any) -> None:
    shutil.copy(folder / "train" / "000001.jpg", folder / "train" / "000002.jpg")
    assert "[size-mismatch] 1x" in refused()


def test_a_file_that_is_no_picture(folder: Path, refused: Any) -> None:
    (folder / "train" / "000001.jpg").write_text("<html>not found</html>")
    (folder / "train" / "000002.jpg").write_bytes(b"")
    message = refused()
    assert "[not-an-image] 1x" in message and "[empty-file] 1x" in message  # all faults at once


# -- annotations -------------------------------------------------------------------------------------------------------


def set_box(box: list[float]) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        content["annotations"][0]["bbox"] = box

    return change


def repeat_image_id(content: Content) -> None:
    content["images"][1]["id"] = content["images"][0]["id"]


def unknown_category(content: Content) -> None:
    content["annotations"][0]["category_id"] = 99


def no_images(content: Content) -> None:
    content["images"], content["annotations"] = [], []


def no_annotations(content: Content) -> None:
    content["annotations"] = []


def corners(content: Content) -> None:
    """x1, y1, x2, y2 where COCO means x, y, w, h."""
    for item in content["annotations"]:
        x, y, w, h = item["bbox"]
        item["bbox"] = [x, y, x + w, y + h]


@pytest.mark.parametrize(
    ("split", "change", "found"),
    [
        ("train", set_box([1, 2, float("nan"), 4]), "[non-finite-bbox] 1x"),
        ("val", set_box([1, 2, float("inf"), 4]), "[non-finite-bbox] 1x"),
        ("train", set_box([1, 2, 3]), "[bad-bbox] 1x"),
        ("train", unknown_category, "[unknown-category-id] 1x"),
        ("val", unknown_category, "[unknown-category-id] 1x"),
        ("train", repeat_image_id, "[duplicate-image-id] 1x"),
        ("train", no_images, "[empty-split]"),
        ("val", no_images, "[empty-split]"),
        ("train", no_annotations, "[no-objects]"),
        ("train", corners, "[boxes-beyond-image]"),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value).strip("[] 1x"),
)
def test_annotations_that_cannot_be_used(
    folder: Path, refused: Any, split: str, change: Callable[[Content], None], found: str
) -> None:
    edit(folder, split, change)
    message = refused()
    assert found in message and f"{split} split" in message and f"instances_{split}.json" in message


# -- splits, classes, config -------------------------------------------------------------------------------------------


def test_a_class_count_that_the_data_do_not_have(refused: Any) -> None:
    message = refused("model.num_classes=7")
    assert "model.num_classes is 7" in message and "define 5 classes (ellipse, rectangle" in message


def test_validation_with_other_classes(folder: Path, refused: Any) -> None:
    def rename(content: Content) -> None:
        content["categories"][0]["name"] = "circle"

    edit(folder, "val", rename)
    message = refused()
    assert "circle" in message and "ellipse" in message


def test_a_class_that_is_not_there(refused: Any) -> None:
    message = refused("classes=['ring','stra']")
    assert "'stra'" in message and "'star'" in message


def test_a_misspelt_key(refused: Any) -> None:
    assert "Did you mean 'max_epochs'" in refused("train_cfg.max_epoch=3")
    assert "Did you mean 'efficientdet_lite0'" in refused("model.name=efficientdet_lit0")


def test_values_that_cannot_be(refused: Any) -> None:
    assert "expected a number" in refused("optim_wrapper.optimizer.lr=fast")
    assert "batch_size 25 exceeds the 24" in refused("train_dataloader.batch_size=25")
    assert "image_size" in refused("image_size=0")
    assert "scale" in refused("train_dataloader.dataset.transforms.0.scale=(2.0,1.0)")


@pytest.mark.parametrize("option", ["default_hooks.ema.decay=1.5", "optim_wrapper.dtype=int8"])
def test_arguments_that_their_own_class_refuses(
    folder: Path, tiny_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """These are found when the runner is built, so a log has been opened; the message is as plain."""
    command = ["train", str(tiny_config("late")), "--work-dir", str(tmp_path / "work"), "--cfg-options", option]
    assert main(command) == 2
    name, value = option.split("=")
    error = capsys.readouterr().err
    assert error.startswith("ConfigError: ") and name.split(".")[-1] in error and value in error


def test_no_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path / "absent.py")]) == 2
    assert "no config file" in capsys.readouterr().err


def test_weights_that_are_not_there_or_do_not_fit(refused: Any, tmp_path: Path) -> None:
    assert "no weight file" in refused(f"model.weights={tmp_path / 'absent.pth'}")
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    assert "no layout that effdense knows" in refused(f"model.weights={tmp_path / 'other.pth'}")


def test_load_from_of_another_model(refused: Any, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    assert "no layout that effdense knows" in refused(f"load_from={tmp_path / 'other.pth'}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["default_hooks.ema.decay=2"], "EMAHook.decay"),
        (["default_hooks.pictures.num_images=0"], "PicturesHook.num_images"),
        (["default_hooks.logger.interval=x"], "expected a number"),
        (["default_hooks.checkpoint.save_best=seg/mIoU"], "save_best is 'seg/mIoU', but validation"),
        (["default_hooks.checkpoint.save_best=coco/AP51"], "Did you mean 'coco/AP50'"),
        (["default_hooks.progressive.type=ProgressiveLearningHook"], "nothing to change"),
        (
            ["default_hooks.progressive.type=ProgressiveLearningHook", "default_hooks.progressive.mixup=(0,.2)",
             "default_hooks.progressive.stages=2"],
            "a detection model has no mixup",
        ),
        (["custom_hooks=[dict(type='EMAHook')]"], "custom_hooks must be a list"),
        (["optim_wrapper.optimizer.lr=-1"], "Invalid learning rate"),
        (["optim_wrapper.accumulative_counts=0"], "optim_wrapper cannot be used"),
        (["optim_wrapper.dtype=float8"], "dtype must be"),
        (["optim_wrapper.paramwise_cfg.layer_decay=2"], "layer_decay must lie"),
        (["optim_wrapper.paramwise_cfg.layer_decay=deep"], "layer_decay must be a number"),
        (["image_size=64.5"], "image_size must be a whole number"),
        (["train_cfg.max_epochs=0"], "max_epochs must be a whole number of at least 1"),
        (["train_cfg.val_interval=0"], "val_interval must be a whole number of at least 1"),
        (["train_dataloader.batch_size=0"], "batch_size must be a whole number of at least 1"),
    ],
    ids=lambda value: value[0].split("=")[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_values_that_are_refused_before_the_work_dir_is_made(refused: Any, options: list[str], said: str) -> None:
    assert said in refused(*options)


@pytest.mark.parametrize("how", ["--resume", "load_from"])
def test_a_checkpoint_that_is_not_there(refused: Any, tmp_path: Path, how: str) -> None:
    absent = str(tmp_path / "absent.pth")
    message = refused(arguments=("--resume", absent)) if how == "--resume" else refused(f"load_from={absent}")
    assert "no weight file" in message and absent in message


def test_evaluating_a_checkpoint_that_is_not_there(
    folder: Path, tiny_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work_dir = tmp_path / "work"
    command = ["test", str(tiny_config("bad_test")), str(tmp_path / "absent.pth"), "--work-dir", str(work_dir)]
    assert main(command) == 2
    assert "no weight file" in capsys.readouterr().err and not work_dir.exists()


# -- faults that are handled are counted -------------------------------------------------------------------------------


def test_what_is_left_out_is_counted_in_the_log(
    folder: Path, tiny_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(content: Content) -> None:
        items = content["annotations"]
        items[0]["bbox"][2] *= -1
        items[1]["bbox"][3] = 0
        items[2]["bbox"] = [-60, -60, 20, 20]
        items[3]["iscrowd"] = items[4]["iscrowd"] = 1

    config = tiny_config("counted")
    monkeypatch.setenv("EFFDENSE_DATA", str(folder.parent))
    edit(folder, "train", spoil)
    work_dir = tmp_path / "work"
    options = ["train_cfg.max_epochs=1", "default_hooks.pictures=None"]
    assert main(["train", str(config), "--work-dir", str(work_dir), "--cfg-options", *options]) == 0
    log = next(work_dir.glob("*/*.log")).read_text()
    for code, count in (("degenerate-bbox", 2), ("bbox-outside", 1), ("crowd", 2)):
        assert f"WARNING - train: [{code}] {count}x" in log
