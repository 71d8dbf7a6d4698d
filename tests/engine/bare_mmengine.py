"""Short runs of mmengine alone, as a program; prints what became of them as JSON on the last line.

    python tests/engine/bare_mmengine.py FOLDER

Nothing of effdense is imported: ``test_bare_runs.py`` holds these results against what the engine promises.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn
from torch.utils.data import DataLoader

EPOCHS, BATCHES = 2, 4


class Toy(BaseModel):
    """A layer behind dropout; keeps count of the batches it was trained on."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 1)
        self.seen: list[float] = []

    def forward(self, inputs: torch.Tensor, mode: str = "loss") -> dict[str, torch.Tensor]:
        self.seen.append(float(inputs[0]))
        dropped = nn.functional.dropout(inputs[:, None].float().expand(-1, self.layer.in_features), 0.5)
        return {"loss": self.layer(dropped).square().mean()}


class Boxes(BaseMetric):
    """Three results a sample, as a detector may have; says how many of them are scored."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.extend([0] * 3)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        return {"scored": len(results)}


class Code:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def trained(folder: Path, width: int = 4, **options: Any) -> Runner:
    """Two epochs of four batches, with a checkpoint after each and one after three iterations."""
    keep = {"type": "CheckpointHook", "by_epoch": False, "interval": 3, "save_last": False}
    runner = Runner(
        model=Toy(width),
        work_dir=str(folder),
        train_dataloader=DataLoader([{"inputs": float(n + 1)} for n in range(BATCHES)]),  # type: ignore[arg-type]
        train_cfg={"by_epoch": True, "max_epochs": EPOCHS},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.01}},
        custom_hooks=[keep],
        randomness={"seed": 1},
        experiment_name=folder.name,
        log_level="ERROR",
        **options,
    )
    runner.train()
    return runner


def outcome(call: Any) -> str:
    """The name of the error that it ends with, or "done"."""
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "done"


def main(root: Path) -> dict[str, Any]:
    straight = trained(root / "straight")
    said: dict[str, Any] = {"straight": [straight.iter, len(straight.model.seen)]}

    said["reads its own file"] = outcome(lambda: CheckpointLoader.load_checkpoint(str(root / "straight/epoch_1.pth")))
    torch.save({"state_dict": {}, "more": Code(root / "ran")}, root / "code.pth")
    said["reads code"] = outcome(lambda: CheckpointLoader.load_checkpoint(str(root / "code.pth")))
    said["ran it"] = (root / "ran").exists()

    said["resumes nothing"] = trained(root / "nothing", resume=True).iter

    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # else there is nothing to resume and to load
    for name in ("epoch_1", "iter_3"):
        resumed = trained(root / name, load_from=str(root / f"straight/{name}.pth"), resume=True)
        equal = torch.equal(resumed.model.layer.weight, straight.model.layer.weight)
        said[name] = {"iterations": resumed.iter, "batches": resumed.model.seen, "equal weights": equal}
    said["loads other sizes"] = outcome(
        lambda: trained(root / "sizes", width=5, load_from=str(root / "straight/epoch_1.pth"))
    )

    metric = Boxes()
    for _ in range(13):
        metric.process(None, [])
    said["scored of 39"] = metric.evaluate(13)["scored"]
    return said


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
