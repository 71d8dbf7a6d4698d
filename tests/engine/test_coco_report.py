"""What an evaluation of a detector leaves behind: a table with thresholds on screen, every number in scores.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from effdense.engine.run import test as evaluate
from effdense.evaluation import evaluate_coco


def test_an_evaluation_writes_scores_json_and_prints_the_best_threshold(
    trained: Any, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results.json"
    scores = evaluate(trained.config, str(trained.work_dir / "best.pth"), work_dir=str(tmp_path / "run"), out=str(out))
    content = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert content["scores"] == scores.to_dict() and content["images"] == 13
    truth = data / "shapes" / "annotations" / "instances_val.json"
    assert evaluate_coco(truth, out) == scores, "the file that was written scores the same"
    assert set(content["classes"]) == set(scores.per_class_ap)
    assert content["best"]["f1"] == scores.curves.best().f1
    assert sum(map(sum, content["confusion"]["counts"])) >= content["instances"]
    table = scores.table()
    assert table.splitlines()[0].split()[-4:] == ["P", "R", "F1", "at"] and "\nbest F1 " in table
    assert not (trained.work_dir / "scores.json").exists(), "training writes none"
