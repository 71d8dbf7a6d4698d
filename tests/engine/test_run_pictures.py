"""The pictures a run leaves: which there are, that they show something, and that none of them can end a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from effdense.data import read_image
from effdense.data.transforms.mixing import BatchMixer
from effdense.engine.hooks import MetricsFileHook, PicturesHook
from effdense.engine.hooks import pictures as pictures_module
from effdense.engine.hooks.input_watch import InputWatch
from effdense.engine.hooks.metrics_file import METRICS
from effdense.engine.hooks.run_charts import CurveDrawer
from effdense.engine.models.shell import Normalize
from effdense.engine.run import train
from effdense.visualize.run_numbers import read_curves
from tests.engine.conftest import DRAWN

ALL = {
    "labels.png", "train_batch_0.jpg", "train_batch_1.jpg", "train_batch_2.jpg", "val_predictions.jpg", "curves.png",
}  # fmt: skip


def test_a_run_leaves_all_of_them(trained: Any) -> None:
    """Of a detector here; of the other tasks in test_other_tasks.py."""
    folder = trained.work_dir / "pictures"
    assert {path.name for path in folder.iterdir()} == ALL
    for name in ALL:
        picture = read_image(folder / name)
        assert min(picture.shape[:2]) > 200 and picture.std() > 5, name
    first, second = (read_image(folder / f"train_batch_{i}.jpg") for i in (0, 1))
    assert first.shape != second.shape or (first != second).any()


def test_curves_of_a_resumed_run_cover_both_starts(trained: Any, tmp_path: Path, data: Path) -> None:
    """One epoch is done, and its rows are there; the run that goes on redraws the curves with both."""
    for name in ("epoch_1.pth", "validations.json", METRICS):
        shutil.copy(trained.work_dir / name, tmp_path / name)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "labels.png").write_bytes(b"of the first start")
    train(trained.config, work_dir=str(tmp_path), resume=True, options={"train_cfg.max_epochs": 2})
    run = read_curves(tmp_path / METRICS, "run")
    assert run.validated.tolist() == [1.0, 2.0] and run.at[0] < 1 < run.at[-1] == 2.0
    assert read_image(tmp_path / "pictures" / "curves.png").std() > 5
    assert (tmp_path / "pictures" / "labels.png").read_bytes() == b"of the first start"


def test_none_where_they_are_not_wanted(tiny_config: Any, tmp_path: Path) -> None:
    run = train(
        tiny_config(),
        work_dir=str(tmp_path / "run"),
        options={"train_cfg.max_epochs": 1, "default_hooks.pictures": None},
    )
    assert (run / "epoch_1.pth").is_file() and not (run / "pictures").exists()


class Untouchable:
    """A runner that nobody may look at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"runner.{name} was read")


@pytest.mark.parametrize("why", ["enable=False", "rank 1"])
def test_nothing_is_done_where_nothing_is_drawn(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if why == "rank 1":
        monkeypatch.setattr(pictures_module, "rank_and_world", lambda: (1, 2))
    hook, runner = PicturesHook(enable=why == "rank 1"), Untouchable()
    hook.before_train(runner)
    hook.before_train_iter(runner, 0, {})
    hook.after_train_iter(runner, 0, {}, {})
    hook.before_val_epoch(runner)
    hook.after_val_iter(runner, 0, {}, [{"index": 0}])
    hook.after_val_epoch(runner, {"coco/AP": 0.5})
    hook.close(runner)


def test_what_cannot_be_written_is_a_warning_each(tiny_config: Any, tmp_path: Path) -> None:
    """A file is where the folder should be, as on a full or broken disk; the run ends as it should."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "pictures").write_text("in the way")
    train(tiny_config(more=DRAWN), work_dir=str(run), options={"train_cfg.max_epochs": 1})
    assert (run / "epoch_1.pth").is_file()
    log = next(run.glob("*/*.log")).read_text()
    for name in ALL:
        assert log.count(f"pictures/{name} cannot be drawn: ") == 1, name


def test_curves_up_to_an_error(tiny_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No validation comes to its end; the losses until then are drawn."""

    def fail(self: Any, runner: Any, metrics: Any = None) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(MetricsFileHook, "after_val_epoch", fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        train(tiny_config(more=DRAWN), work_dir=str(tmp_path / "run"), options={"train_cfg.max_epochs": 1})
    assert read_image(tmp_path / "run" / "pictures" / "curves.png").std() > 5


# -- the first batches -------------------------------------------------------------------------------------------------


def shell_of(**options: Any) -> Any:
    return SimpleNamespace(data_preprocessor=Normalize((0.5, 0.4, 0.3), (0.2, 0.2, 0.2), **options))


def batch_of(images: int) -> dict[str, Any]:
    inputs = torch.randint(0, 256, (images, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return {"inputs": inputs, "labels": torch.arange(images) % 2}


def test_what_is_seen_is_what_the_network_gets() -> None:
    """Without jitter and resizing: the pixels of the batch, once for each iteration and only in training."""
    shell, batch = shell_of(), batch_of(5)
    watch = InputWatch(shell, batches=2, images=3)
    shell.data_preprocessor(batch, True)  # before the first iteration
    for iteration in range(3):
        if watch.is_done:
            break
        watch.begin(iteration)
        shell.data_preprocessor(batch, True)
        shell.data_preprocessor(batch_of(1), True)  # the rest of a batch that is trained in parts
        watch.end()
        shell.data_preprocessor(batch, False)
    assert [(seen.iteration, seen.size, seen.images) for seen in watch.seen] == [(0, (8, 8), 5), (1, (8, 8), 5)]
    content = watch.seen[0].to_host()
    assert torch.equal(content["inputs"], batch["inputs"][:3]) and content["labels"].tolist() == [0, 1, 0]
    watch.close()
    assert not shell.data_preprocessor._forward_hooks


def test_jitter_resizing_and_mixing_are_seen() -> None:
    torch.manual_seed(0)
    shell = shell_of(photometric={"prob": 1.0}, multi_scale={"low": 1.0, "high": 2.0, "step": 8})
    shell.mixer = BatchMixer(2, mixup=0.4, cutmix=0.0)
    watch = InputWatch(shell, batches=1, images=4)
    watch.begin(0)
    prepared = shell.data_preprocessor(batch_of(4), True)
    images, targets = shell.mixer(prepared["inputs"], prepared["labels"])
    content = watch.seen[0].to_host()
    assert watch.seen[0].size == (16, 16) and content["inputs"].shape == (4, 3, 16, 16)
    expected = images * shell.data_preprocessor.std + shell.data_preprocessor.mean
    np.testing.assert_allclose(content["inputs"].float(), expected.clamp(0, 255), atol=0.51)
    assert torch.equal(content["labels"], targets)
    watch.close()
    assert shell.mixer.watcher is None


def test_looking_draws_no_random_numbers() -> None:
    states = []
    for watched in (False, True):
        torch.manual_seed(3)
        shell = shell_of(photometric={})
        shell.mixer = BatchMixer(2)
        if watched:
            InputWatch(shell, batches=1, images=2).begin(0)
        prepared = shell.data_preprocessor(batch_of(4), True)
        states.append((shell.mixer(prepared["inputs"], prepared["labels"])[0], torch.get_rng_state()))
    assert torch.equal(states[0][0], states[1][0]) and torch.equal(states[0][1], states[1][1])


def test_an_error_of_the_watch_ends_the_watch_only() -> None:
    shell = shell_of()
    watch = InputWatch(shell, batches=3, images=2)
    watch.begin(0)
    del shell.data_preprocessor.std  # as a preprocessor of somebody else
    watch._prepared(None, (), {}, {"inputs": torch.zeros(1, 3, 4, 4)})
    assert watch.is_done and isinstance(watch.error, AttributeError) and watch.seen == []


# -- the curves --------------------------------------------------------------------------------------------------------


def test_curves_take_a_bounded_share_of_the_time(tmp_path: Path) -> None:
    """The second drawing waits, unless the run is over; without a new row there is nothing to draw."""
    runner: Any = SimpleNamespace(work_dir=str(tmp_path), hooks=[])
    drawer, out = CurveDrawer(), tmp_path / "curves.png"
    drawer.draw(runner, out, now=True)
    assert not out.exists()  # no row yet

    def log(epoch: int) -> None:
        with open(tmp_path / METRICS, "a") as file:
            file.write(json.dumps({"epoch": epoch, "iter": 10 * epoch, "coco/AP": 0.1}) + "\n")

    log(1)
    drawer.draw(runner, out)
    first = out.read_bytes()
    log(2)
    drawer.draw(runner, out)
    assert out.read_bytes() == first
    drawer.draw(runner, out, now=True)
    assert out.read_bytes() != first
    out.unlink()
    drawer.draw(runner, out, now=True)
    assert not out.exists()
