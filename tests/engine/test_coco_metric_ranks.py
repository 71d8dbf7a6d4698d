"""Boxes scored by two or three processes over gloo: numbers, result file and report of one, to the last byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effdense.data import ClassMap
from effdense.engine.coco_metric import CocoMetric
from tests.engine.test_distributed import pair

IMAGES = 7
CLASSES = ClassMap(("cat", "dog"), (3, 7))


def write_truth(path: Path) -> None:
    rng = np.random.default_rng(0)
    annotations = [
        {
            "id": number,
            "image_id": int(rng.integers(1, IMAGES)),  # nothing on the last image
            "category_id": int(rng.choice([3, 7])),
            "bbox": [*rng.uniform(0, 40, 2).tolist(), *rng.uniform(20, 60, 2).tolist()],
            "iscrowd": int(rng.random() < 0.1),
        }
        for number in range(30)
    ]
    content = {
        "images": [{"id": i, "width": 100, "height": 100, "file_name": f"{i}.jpg"} for i in range(1, IMAGES + 1)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": annotations,
    }
    path.write_text(json.dumps(content))


def results(truth: Path) -> list[dict[str, Any]]:
    """Moved copies of the objects, with many equal scores; nothing on some images."""
    content = json.loads(truth.read_text())
    rng = np.random.default_rng(1)
    samples = []
    for index in range(IMAGES):
        own = [a for a in content["annotations"] if a["image_id"] == index + 1] * 3
        xywh = np.array([a["bbox"] for a in own]).reshape(-1, 4) + rng.normal(0, 3, (len(own), 4))
        xywh[:, 2:] = xywh[:, :2] + xywh[:, 2:].clip(1)
        samples.append(
            {
                "index": index,
                "image_id": index + 1,
                "boxes": torch.tensor(xywh, dtype=torch.float32),
                "scores": torch.tensor(rng.integers(1, 6, len(own)) / 7, dtype=torch.float32),
                "labels": torch.tensor([CLASSES.label(a["category_id"]) for a in own], dtype=torch.int64),
            }
        )
    return samples


def score(truth: Path, folder: Path, batches: list[list[dict[str, Any]]]) -> dict[str, float]:
    built = CocoMetric(dump=str(folder / "results.json"), report=str(folder / "scores.json"), curves=True, voc=True)
    built.bind(truth, CLASSES, range(1, IMAGES + 1))
    for batch in batches:
        built.process(None, batch)
    numbers = built.evaluate(IMAGES)
    assert built.scores is not None
    (folder / f"numbers{torch.distributed.get_rank() if torch.distributed.is_initialized() else 0}.json").write_text(
        json.dumps([numbers, built.scores.per_class])
    )
    return numbers


MORE = """
import sys
from pathlib import Path
from effdense.engine.distributed import init_distributed, rank_and_world
from tests.engine.test_coco_metric_ranks import results, score

init_distributed("pytorch", backend="gloo", timeout=60)
truth, folder = Path(sys.argv[1]), Path(sys.argv[2])
own = results(truth)
rank, _ = rank_and_world()
# The third rank, where there is one, sees no image at all.
shares = [[[own[5], own[0]], [own[3]]], [[own[6], own[1], own[4], own[2]]], []]
score(truth, folder, shares[rank])
print("done", rank)
"""


@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_score_as_one(tmp_path: Path, ranks: int) -> None:
    truth = tmp_path / "truth.json"
    write_truth(truth)
    one, more = tmp_path / "one", tmp_path / "more"
    one.mkdir()
    more.mkdir()
    samples = results(truth)
    numbers = score(truth, one, [[sample] for sample in samples])
    assert 0 < numbers["coco/AP"] < 1 and numbers["coco/F1"] > 0
    for rank, (code, out, err) in enumerate(pair(MORE, str(truth), str(more), data=tmp_path, ranks=ranks)):
        assert (code, out.strip()) == (0, f"done {rank}"), err
    for name in ("results.json", "scores.json"):
        assert (one / name).read_bytes() == (more / name).read_bytes()
    expected = (one / "numbers0.json").read_bytes()
    for rank in range(ranks):
        assert (more / f"numbers{rank}.json").read_bytes() == expected
