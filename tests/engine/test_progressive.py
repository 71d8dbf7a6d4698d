"""Progressive learning: the paper's schedule, what each task can change, a run that stops in the middle of a stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from effdense.engine import checkpoint as files
from effdense.engine.hooks.progressive import ProgressiveLearningHook, stage_starts, stage_value
from effdense.engine.run import train
from effdense.errors import ConfigError
from tests.engine.test_run import assert_same_state, log_text


def run_with(arguments: str, tiny_config: Any, folder: Path, name: str, **options: Any) -> Path:
    """Train the tiny detector with the hook; ``default_hooks`` of the file are kept."""
    text = f"default_hooks['progressive'] = dict(type='ProgressiveLearningHook', {arguments})\n"
    config = tiny_config(name, text)
    return train(config, work_dir=str(folder / name), options={"default_hooks.pictures": None}, **options)


def scalars(work_dir: Path, key: str) -> list[Any]:
    lines = [json.loads(line) for file in sorted(work_dir.glob("*/vis_data/scalars.json")) for line in file.open()]
    return [line[key] for line in lines if key in line]


def test_stages_are_of_equal_length() -> None:
    assert stage_starts(4, 350) == [0, 88, 175, 263]
    assert stage_starts(4, 10) == [0, 3, 5, 8] and stage_starts(1, 5) == [0] and stage_starts(3, 3) == [0, 1, 2]


def test_table_6_of_the_paper() -> None:
    """EfficientNetV2-S: 128 to 300 px, dropout .1 to .3, RandAugment 5 to 15, in four stages."""
    hook = ProgressiveLearningHook(stages=4, image_size=(128, 300), dropout=(0.1, 0.3), randaugment=(5, 15))
    assert [hook.size(stage) for stage in range(4)] == [(128, 128), (192, 192), (256, 256), (300, 300)]
    assert [hook.settings(stage)["randaugment"] for stage in range(4)] == pytest.approx([5, 25 / 3, 35 / 3, 15])
    assert [hook.settings(stage)["dropout"] for stage in range(4)] == pytest.approx([0.1, 1 / 6, 7 / 30, 0.3])
    assert stage_value((1, 9), 0, 1) == 1 and hook.strengths == {"dropout": (0.1, 0.3)}


def test_sides_of_their_own() -> None:
    hook = ProgressiveLearningHook(stages=3, image_size=((96, 160), (256, 384)), divisor=32)
    assert [hook.size(stage) for stage in range(3)] == [(96, 160), (192, 256), (256, 384)]
    assert ProgressiveLearningHook(stages=1, image_size=(64, 96)).size(0) == (96, 96)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "nothing to change"),
        ({"stages": 0, "dropout": (0, 0.1)}, "stages"),
        ({"dropout": (0.1, 1.0)}, r"rates in \[0, 1\)"),
        ({"image_size": 128}, "image_size must be"),
        ({"image_size": (128, 0)}, "positive whole number"),
        ({"mixup": 0.2}, r"mixup must be \(first, last\)"),
        ({"randaugment": (-1, 5)}, "randaugment must be"),
        ({"divisor": 0, "dropout": (0, 0.1)}, "divisor"),
    ],
)
def test_arguments_that_mean_nothing(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ProgressiveLearningHook(**arguments)


def test_a_detector_grows(tiny_config: Any, tmp_path: Path) -> None:
    """Size and stochastic depth by epoch, in the log, in the scalars and in what the network is fed."""
    fed: list[tuple[int, ...]] = []
    from effdense.engine.models import DetectionModel

    plain = DetectionModel.forward

    def watch(self: Any, inputs: Any, *args: Any, mode: str = "loss", **kwargs: Any) -> Any:
        if mode == "loss":
            fed.append(tuple(inputs.shape[-2:]))
        return plain(self, inputs, *args, mode=mode, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DetectionModel, "forward", watch)
        arguments = "stages=3, image_size=(32, 96), divisor=32, drop_path=(0.0, 0.2)"
        work_dir = run_with(arguments, tiny_config, tmp_path, "grows")
    assert fed == [(32, 32)] * 6 + [(64, 64)] * 6 + [(96, 96)] * 6  # 24 pictures in batches of 4, three epochs
    text = log_text(work_dir)
    for epoch, size, rate in ((1, "32x32", "0"), (2, "64x64", "0.1"), (3, "96x96", "0.2")):
        assert f"epoch {epoch}: stage {epoch}/3, image_size {size}, drop_path {rate}" in text
    assert scalars(work_dir, "progressive/image_size") == [32.0, 64.0, 96.0]
    assert scalars(work_dir, "progressive/drop_path") == pytest.approx([0.0, 0.1, 0.2])


def test_resumed_in_the_middle_of_a_stage(tiny_config: Any, tmp_path: Path) -> None:
    """Three epochs in two stages (two epochs and one), stopped after the first: equal to the last bit."""
    arguments = "stages=2, image_size=(32, 64), drop_path=(0.0, 0.2)"
    straight = run_with(arguments, tiny_config, tmp_path, "straight")
    (tmp_path / "again").mkdir()
    first = files.load(straight / "epoch_1.pth")
    files.save_atomically(first, tmp_path / "again" / "epoch_1.pth")
    again = run_with(arguments, tiny_config, tmp_path, "again", resume=True)
    assert "epoch 2: stage 1/2, image_size 32x32" in log_text(again)
    assert "epoch 3: stage 2/2, image_size 64x64" in log_text(again)
    assert_same_state(straight / "epoch_3.pth", again / "epoch_3.pth", best=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("stages=2, mixup=(0, 0.2)", "a detection model has no mixup; it has drop_path"),
        ("stages=2, randaugment=(1, 5)", "no training transform has magnitude"),
        ("stages=5, drop_path=(0, 0.2)", "5 stages do not fit into 3 epochs"),
    ],
)
def test_what_nothing_takes_is_refused(tiny_config: Any, tmp_path: Path, arguments: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run_with(arguments, tiny_config, tmp_path, "refused")
    assert not list((tmp_path / "refused").glob("*.pth"))
