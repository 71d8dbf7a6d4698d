"""Whole runs, small: a score that the file reproduces, a resume that changes nothing, options that do what they say.

``trained`` (conftest) is three epochs without interruption; most tests compare with it.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from effdense.cli import main
from effdense.data import read_image
from effdense.engine import checkpoint as files
from effdense.engine import datasets
from effdense.engine.config import load_config
from effdense.engine.run import test as evaluate
from effdense.engine.run import train
from effdense.errors import ConfigError, WeightsError
from tests.engine.conftest import SPLITS, read_log, validations

ROOT = Path(__file__).parents[2]
QUICK = {"train_cfg.max_epochs": 1, "default_hooks.pictures": None}


def assert_equal(a: Any, b: Any, where: str = "") -> None:
    """Bit-equal, through dicts, lists and tensors."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def assert_same_state(a: Path, b: Path, *, best: bool = True) -> None:
    """Weights, moving average, optimizer, schedule, random streams and best score; not the time of writing.

    ``best=False`` leaves the best score out: that of the last epoch before a resume is known to best.pth alone.
    """
    first, second = files.load(a), files.load(b)
    if not best:
        first.pop("progress"), second.pop("progress")
    for key in ("time", "config_text"):
        first["meta"].pop(key), second["meta"].pop(key)
    for content in (first, second):
        for key in [key for key in content.get("history", {}) if key.endswith("time")]:
            del content["history"][key]
    assert_equal(first, second)


def log_text(work_dir: Path) -> str:
    return max(work_dir.glob("*/*.log")).read_text()


# -- a score is reproduced by the file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["best.pth", "epoch_1.pth", "epoch_3.pth"])
def test_a_file_reproduces_the_score_of_its_epoch(trained: Any, data: Path, tmp_path: Path, name: str) -> None:
    """All twelve numbers, to the last digit."""
    epoch = files.load(trained.work_dir / name)["meta"]["epoch"]
    scores = evaluate(trained.config, str(trained.work_dir / name), work_dir=str(tmp_path))
    logged = trained.scores[epoch - 1]
    assert scores.to_dict() == logged
    assert len(logged) == 12 and logged["AP"] > 0


def test_best_is_the_best(trained: Any) -> None:
    best = files.load(trained.work_dir / "best.pth")["meta"]
    aps = [scores["AP"] for scores in trained.scores]
    assert best["epoch"] == 1 + aps.index(max(aps))
    assert best["metrics"]["coco/AP"] == max(aps)
    assert "optimizer" not in files.load(trained.work_dir / "best.pth")


def test_detections_written_out_score_the_same_with_plain_pycocotools(trained: Any, data: Path, tmp_path: Path) -> None:
    out, shown = tmp_path / "out" / "results.json", tmp_path / "shown"
    scores = evaluate(
        trained.config,
        str(trained.work_dir / "best.pth"),
        work_dir=str(tmp_path / "w"),
        out=str(out),
        show_dir=str(shown),
    )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(data / "shapes" / "annotations" / "instances_val.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(out)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert list(scores.to_dict().values()) == evaluation.stats.tolist()
    pictures = sorted(shown.glob("*.jpg"))
    assert len(pictures) == SPLITS["val"]
    assert all(read_image(path).std() > 5 for path in pictures)


@pytest.mark.parametrize(
    "options",
    [{"default_hooks.ema": None}, {"default_hooks.precise_bn": {"type": "PreciseBNHook", "num_batches": 3}}],
    ids=["without-average", "precise-bn"],
)
def test_other_hooks_keep_that_promise(tiny_config: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    options = {**QUICK, **options}
    work_dir = train(tiny_config("promise"), work_dir=str(tmp_path / "run"), options=options)
    scores = evaluate(tiny_config("kept"), str(work_dir / "best.pth"), work_dir=str(tmp_path / "w"))
    assert scores.to_dict() == validations(work_dir)[0]


def test_the_training_split_can_be_scored(trained: Any, tiny_config: Any, tmp_path: Path) -> None:
    best = str(trained.work_dir / "best.pth")
    scores = evaluate(tiny_config("on_train"), best, work_dir=str(tmp_path / "w"), split="train")
    assert scores.num_images == SPLITS["train"]
    with pytest.raises(ConfigError, match="no test_dataloader"):
        evaluate(tiny_config("on_test"), best, work_dir=str(tmp_path / "w"), split="test")


# -- resume ------------------------------------------------------------------------------------------------------------


def test_resuming_changes_nothing(trained: Any, tiny_config: Any, tmp_path: Path) -> None:
    """Two epochs and one after a restart are three epochs: with workers, random depth, scale jitter and an average."""
    work_dir = train(
        tiny_config("resumed"), work_dir=str(tmp_path / "run"), resume=str(trained.work_dir / "epoch_2.pth")
    )
    assert_same_state(work_dir / "epoch_3.pth", trained.work_dir / "epoch_3.pth")
    assert validations(work_dir) == trained.scores[2:]
    resumed = [line["loss"] for line in read_log(work_dir) if "loss" in line]
    straight = [line["loss"] for line in read_log(trained.work_dir) if "loss" in line]
    assert len(resumed) == 6 and resumed[0] != straight[0]


def test_a_moved_run_with_a_damaged_newest_file_goes_on_from_the_one_before(
    trained: Any, tiny_config: Any, tmp_path: Path
) -> None:
    """``--resume`` alone, in a folder that was moved here; the best score of epoch 1 is known again."""
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copy2(trained.work_dir / "epoch_1.pth", moved)
    best = files.load(moved / "epoch_1.pth")  # best.pth as it was after the first validation
    for key in ("optimizer", "param_schedulers", "rng", "train_state_dict"):
        del best[key]
    best["meta"]["metrics"] = {f"coco/{name}": value for name, value in trained.scores[0].items()}
    best["progress"] = {"best_score": trained.scores[0]["AP"], "best_epoch": 1}
    files.save_atomically(best, moved / "best.pth")
    whole = (trained.work_dir / "epoch_2.pth").read_bytes()
    (moved / "epoch_2.pth").write_bytes(whole[: len(whole) // 2])
    (moved / "last_checkpoint").write_text("epoch_2.pth")
    work_dir = train(tiny_config("moved"), work_dir=str(moved), resume=True)
    assert "resumed" in log_text(work_dir) and "epoch_1.pth" in log_text(work_dir)
    for name in ("epoch_2.pth", "epoch_3.pth", "best.pth"):
        assert_same_state(work_dir / name, trained.work_dir / name)


def test_more_epochs_extend_the_cosine(trained: Any, tiny_config: Any, tmp_path: Path) -> None:
    """From 3 epochs of 6 iterations to 4: iteration 18 + i has the LR that a run of 24 has there."""
    work_dir = train(
        tiny_config("longer"),
        work_dir=str(tmp_path / "run"),
        resume=str(trained.work_dir / "epoch_3.pth"),
        options={"train_cfg.max_epochs": 4, "default_hooks.pictures": None},
    )
    lines = [line for line in read_log(work_dir) if "lr" in line]
    expected = [1e-3 * 0.5 * (1 + math.cos(math.pi * step / 24)) for step in range(18, 24)]
    assert [line["lr"] for line in lines] == pytest.approx(expected)
    assert {line["epoch"] for line in lines} == {4}
    assert files.load(work_dir / "epoch_4.pth")["meta"]["iter"] == 24


def test_nothing_to_resume_is_said(tiny_config: Any, tmp_path: Path) -> None:
    work_dir = train(tiny_config("fresh"), work_dir=str(tmp_path / "run"), resume=True, options=QUICK)
    assert "no checkpoint in" in log_text(work_dir) and (work_dir / "epoch_1.pth").is_file()


# -- randomness --------------------------------------------------------------------------------------------------------


def test_a_seed_repeats_whatever_the_workers(tiny_config: Any, tmp_path: Path) -> None:
    runs = [
        train(
            tiny_config(f"seed_{i}"),
            work_dir=str(tmp_path / str(i)),
            options={**QUICK, "randomness.seed": 7, "train_dataloader.num_workers": workers},
        )
        for i, workers in enumerate((0, 3))
    ]
    assert_same_state(runs[0] / "epoch_1.pth", runs[1] / "epoch_1.pth")


def batches(cfg: Any, *, epoch: int = 0, seed: int = 0, workers: int = 0, rank: int = 0, world: int = 1) -> list[Any]:
    """Training batches as a rank of a run would see them."""
    cfg = {**cfg, "train_dataloader": {**cfg["train_dataloader"], "num_workers": workers}}
    split = datasets.build_split(cfg, "train", seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "rank_and_world", lambda: (rank, world))
        loader = datasets.build_loader(split, seed=seed, training=True)
    loader.sampler.set_epoch(epoch)
    return list(loader)


def pixels(found: list[Any]) -> dict[int, torch.Tensor]:
    """Augmented picture of each sample."""
    return {int(i): image for batch in found for i, image in zip(batch["indices"], batch["inputs"], strict=True)}


def test_augmentation_is_new_in_every_epoch_and_the_same_for_any_workers(tiny_config: Any) -> None:
    cfg = load_config(tiny_config("augmented")).to_dict()
    first, again = batches(cfg), batches(cfg, workers=2)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a["inputs"], b["inputs"]) and torch.equal(a["boxes"], b["boxes"])
    for other in (batches(cfg, epoch=1), batches(cfg, seed=1), batches(cfg, epoch=1, workers=2)):
        before, after = pixels(first), pixels(other)
        assert set(before) == set(after) == set(range(SPLITS["train"]))
        same = [i for i in before if torch.equal(before[i], after[i])]
        assert len(same) <= 1  # two draws may agree once, by chance
        assert [b["indices"].tolist() for b in first] != [b["indices"].tolist() for b in other]


def test_ranks_share_the_samples_and_their_augmentation_is_their_own(tiny_config: Any) -> None:
    cfg = load_config(tiny_config("ranks")).to_dict()
    alone = pixels(batches(cfg, epoch=2))
    shares = [pixels(batches(cfg, epoch=2, rank=rank, world=2)) for rank in (0, 1)]
    assert not set(shares[0]) & set(shares[1]) and set(shares[0]) | set(shares[1]) == set(alone)
    for share in shares:
        assert all(torch.equal(image, alone[i]) for i, image in share.items())


# -- options -----------------------------------------------------------------------------------------------------------


def test_the_learning_rate_follows_the_batch_of_an_optimizer_step(
    trained: Any, tiny_config: Any, tmp_path: Path
) -> None:
    """4 images x 2 accumulated iterations = 8, for a base of 16: half the LR. The first loss is not touched by it."""
    work_dir = train(
        tiny_config("scaled"),
        work_dir=str(tmp_path / "run"),
        auto_scale_lr=True,
        options={**QUICK, "auto_scale_lr": {"base_batch_size": 16}, "optim_wrapper.accumulative_counts": 2},
    )
    assert "LR x 0.5: batch 8" in log_text(work_dir)
    lines = [line for line in read_log(work_dir) if "lr" in line]
    start, unscaled = lines[0], read_log(trained.work_dir)[0]
    assert start["lr"] == pytest.approx(unscaled["lr"] / 2) and start["loss"] == unscaled["loss"]
    saved = files.load(work_dir / "epoch_1.pth")
    assert saved["optimizer"]["updates"] == 3 and saved["meta"]["iter"] == 6


def test_a_base_batch_is_needed_to_scale(tiny_config: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="base_batch_size"):
        train(tiny_config("unscaled"), work_dir=str(tmp_path / "run"), auto_scale_lr=True)


def test_mixed_precision_from_the_command_line(trained: Any, tiny_config: Any, tmp_path: Path) -> None:
    work_dir = tmp_path / "run"
    arguments = ["train", str(tiny_config("amp")), "--amp", "--work-dir", str(work_dir)]
    assert main([*arguments, "--cfg-options", "train_cfg.max_epochs=1", "default_hooks.pictures=None"]) == 0
    loss, exact = read_log(work_dir)[0]["loss"], read_log(trained.work_dir)[0]["loss"]
    assert loss != exact and loss == pytest.approx(exact, rel=0.02)
    weights = files.load(work_dir / "epoch_1.pth")["state_dict"]
    assert all(t.dtype == torch.float32 and t.isfinite().all() for t in weights.values() if t.is_floating_point())


def test_a_run_may_start_from_the_weights_of_another(trained: Any, tiny_config: Any, tmp_path: Path) -> None:
    """Also of one with other classes: the class prediction then starts anew. The average starts from them too."""
    source = files.load(trained.work_dir / "best.pth")["state_dict"]
    frozen = {"optim_wrapper.optimizer.lr": 0.0, "default_hooks.ema.ramp": False}
    work_dir = train(
        tiny_config("from_weights"),
        work_dir=str(tmp_path / "run"),
        options={**QUICK, **frozen, "load_from": str(trained.work_dir / "best.pth"), "classes": ["ring", "star"]},
    )
    saved = files.load(work_dir / "epoch_1.pth")
    assert saved["meta"]["classes"] == ["star", "ring"] and saved["meta"]["epoch"] == 1
    name = "backbone.conv_stem.weight"
    for state in (saved["state_dict"], saved["train_state_dict"]):
        torch.testing.assert_close(state[name], source[name], rtol=0, atol=1e-7)
    assert "ordered by class name (5 -> 2 classes)" in log_text(work_dir)
    # Rows are anchor-major: 9 anchors of 5 classes there, of 2 here.
    row, names = "class_net.predict.conv_pw.bias", files.load(trained.work_dir / "best.pth")["meta"]["classes"]
    rows = source[row].view(9, -1)[:, [names.index("star"), names.index("ring")]]
    torch.testing.assert_close(saved["state_dict"][row].view(9, 2), rows, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.fpn_cells": 2}, "tensors that .* needs"),
        ({"model.fpn_channels": 32}, "another architecture or size"),
        ({"model.name": "efficientdet_d0"}, "efficientdet_d0"),
        ({"classes": ["ring", "star"]}, "was trained for the classes"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_evaluation_needs_the_weights_of_this_model(
    trained: Any, tiny_config: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    name = "misfit_" + "".join(c for c in next(iter(change)) if c.isalpha())
    with pytest.raises(WeightsError, match=message):
        evaluate(tiny_config(name), str(trained.work_dir / "best.pth"), work_dir=str(tmp_path / "w"), options=change)


@pytest.mark.parametrize("part", ["backbone", "half", "classes"])
def test_evaluation_needs_all_of_the_weights(trained: Any, tiny_config: Any, tmp_path: Path, part: str) -> None:
    state = files.load(trained.work_dir / "best.pth")["state_dict"]
    if part == "backbone":
        state = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    elif part == "half":
        state = dict(list(state.items())[: len(state) // 2])
    else:
        state = {k: v[:9] if k.startswith("class_net.predict.conv_pw") else v for k, v in state.items()}
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match=r"lack|stay random"):
        evaluate(tiny_config(f"part_{part}"), str(tmp_path / "part.pth"), work_dir=str(tmp_path / "w"))


# -- what a run leaves behind ------------------------------------------------------------------------------------------


def test_a_work_dir_holds_what_the_documentation_says(trained: Any, data: Path) -> None:
    folder = trained.work_dir
    assert (folder / "last_checkpoint").read_text() == "epoch_3.pth"
    environment = json.loads(next(folder.glob("*/environment.json")).read_text())
    assert {"effdense", "torch", "mmengine", "device", "seed"} <= set(environment)
    resolved = load_config(folder / "straight.py")
    assert resolved.model.num_classes == 5 and resolved.default_hooks.ema.decay == 0.98
    meta = files.load(folder / "best.pth")["meta"]
    assert meta["category_ids"] == [
        c["id"] for c in json.loads((data / "shapes" / "annotations" / "instances_val.json").read_text())["categories"]
    ]
    assert meta["image_size"] == [64, 64] and len(meta["mean"]) == len(meta["std"]) == 3


def test_evaluating_leaves_the_runs_files_alone(trained: Any, tiny_config: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("best.pth", "straight.py"):
        shutil.copy2(trained.work_dir / name, folder)
    config = tiny_config("straight")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    evaluate(config, str(folder / "best.pth"), work_dir=str(folder))
    assert {name: (folder / name).read_bytes() for name in before} == before


LOAD = """
import sys, effdense
model = effdense.load(sys.argv[1])
found = model(sys.argv[2], score_threshold=0.0)
print(len(found), ",".join(found.class_names), found.image_size, "mmengine" in sys.modules)
"""


def test_a_run_folder_loads_without_mmengine(trained: Any, data: Path, tmp_path: Path) -> None:
    picture = data / "shapes" / "val" / "000001.jpg"
    command = [sys.executable, "-c", LOAD, str(trained.work_dir), str(picture)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    height, width = read_image(picture).shape[:2]
    count, rest = result.stdout.split(maxsplit=1)
    assert int(count) > 0
    assert rest.strip() == f"ellipse,rectangle,triangle,star,ring ({height}, {width}) False"


def test_a_predictor_finds_what_validation_found(trained: Any, data: Path, tmp_path: Path) -> None:
    import effdense

    out = tmp_path / "results.json"
    evaluate(trained.config, str(trained.work_dir / "best.pth"), work_dir=str(tmp_path / "w"), out=str(out))
    truth = json.loads((data / "shapes" / "annotations" / "instances_val.json").read_text())
    logged = json.loads(out.read_text())
    model = effdense.load(trained.work_dir)
    for image in truth["images"][:3]:
        found = model(data / "shapes" / "val" / image["file_name"], score_threshold=0.0).to_coco(
            image["id"], model.category_ids
        )
        scores = sorted((d["score"] for d in found), reverse=True)
        expected = sorted((d["score"] for d in logged if d["image_id"] == image["id"]), reverse=True)
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)


def test_warnings_of_the_data_are_in_the_log(trained: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert logging.getLevelName(logging.WARNING) in log_text(trained.work_dir)
    assert "[empty-image] 1x" in log_text(trained.work_dir)
