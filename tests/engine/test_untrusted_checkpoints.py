"""A weight file with code in it is refused at every door, and the code does not run."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import effdense
from effdense.engine import checkpoint as files
from effdense.engine.run import test as evaluate
from effdense.engine.run import train
from effdense.errors import WeightsError

DOORS = ("load_from", "model.weights", "model.encoder_weights", "effdense.load", "--resume", "test")


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.target,)


def content(bomb: Any) -> dict[str, Any]:
    """As much like a checkpoint of ours as can be, the bomb in a place that is read late."""
    meta = {
        "task": "detection",
        "epoch": 1,
        "classes": ["a"],
        "model": {"name": "efficientdet_lite0"},
        "image_size": 64,
    }
    return {"format": files.FORMAT, "meta": meta, "state_dict": {}, "optimizer": {}, "progress": bomb}


def zip_archive(path: Path, bomb: Any) -> None:
    torch.save(content(bomb), path)


def old_format(path: Path, bomb: Any) -> None:
    torch.save(content(bomb), path, _use_new_zipfile_serialization=False)


def bare_pickle(path: Path, bomb: Any) -> None:
    path.write_bytes(pickle.dumps(content(bomb), protocol=2))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("write", [zip_archive, old_format, bare_pickle], ids=lambda write: write.__name__)
def test_nothing_in_a_file_runs(tiny_config: Any, tmp_path: Path, door: str, write: Any) -> None:
    ran, file, run = tmp_path / "it_ran", tmp_path / "weights.pth", tmp_path / "run"
    write(file, Bomb(ran))
    config = tiny_config(f"bomb_{door.strip('-').replace('.', '_')}_{write.__name__}")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(WeightsError, match=r"weights\.pth.*(could run code|cannot be read|damaged|no weight file)"):
        if door == "effdense.load":
            effdense.load(str(file))
        elif door == "test":
            evaluate(config, str(file), work_dir=str(run))
        elif door == "--resume":
            train(config, work_dir=str(run), resume=str(file))
        else:
            train(config, work_dir=str(run), options={door: str(file)})
    assert not ran.exists()
    if door != "--resume":  # is read when the run begins, the others before it
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("write", [zip_archive, old_format, bare_pickle], ids=lambda write: write.__name__)
def test_the_newest_of_a_folder_is_passed_over(tmp_path: Path, write: Any) -> None:
    """``--resume`` without a path looks for the newest file that can be read."""
    ran = tmp_path / "it_ran"
    write(tmp_path / "epoch_2.pth", Bomb(ran))
    (tmp_path / "last_checkpoint").write_text("epoch_2.pth")
    assert files.find_last(tmp_path) is None and not ran.exists()
    torch.save({**content(None), "checksums": {}}, tmp_path / "epoch_1.pth")
    found = files.find_last(tmp_path)
    assert (found is None or found.name == "epoch_1.pth") and not ran.exists()


def test_the_bomb_is_one(tmp_path: Path) -> None:
    """Read as torch.load did before 2.6, all three files run their code: the test above tests something."""
    for number, write in enumerate((zip_archive, old_format, bare_pickle)):
        ran, file = tmp_path / f"ran_{number}", tmp_path / f"{number}.pth"
        write(file, Bomb(ran))
        if write is bare_pickle:
            pickle.loads(file.read_bytes())
        else:
            torch.load(file, weights_only=False)
        assert ran.is_dir()


def test_a_config_inside_a_checkpoint_is_text(trained: Any, tmp_path: Path) -> None:
    """mmdet's init_detector runs the config it finds in a file; here it may say anything."""
    ran = tmp_path / "ran"
    loaded = torch.load(trained.work_dir / "best.pth", weights_only=True)
    loaded["meta"]["config_text"] = f"import os; os.mkdir({str(ran)!r})"
    torch.save(loaded, tmp_path / "said.pth")
    with zipfile.ZipFile(tmp_path / "said.pth") as archive:
        assert any(b"os.mkdir" in archive.read(name) for name in archive.namelist())
    assert effdense.load(str(tmp_path / "said.pth")) is not None
    assert not ran.exists()
