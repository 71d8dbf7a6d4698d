"""The evaluation benchmark: equal inputs for all, numbers compared before times, at a size of seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tools.benchmarks import bench_coco_eval as bench

ROOT = Path(__file__).parents[2]


def test_the_set_is_what_it_says() -> None:
    truth, found = bench.make_columns(200, 100, 80)
    assert len(found) == 20_000 and len(truth.category_ids) == 80 and truth.category_ids.tolist() != list(range(80))
    assert 6.5 < len(truth) / 200 < 8 and 0 < truth.is_crowd.mean() < 0.03
    content, rows = bench.annotation_file(truth), bench.as_array(found)
    assert len(content["annotations"]) == len(truth) and rows.shape == (20_000, 7)
    np.testing.assert_array_equal([d["bbox"] for d in bench.result_dicts(found)], rows[:, 1:5])


def test_a_small_run_prints_and_writes_times(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    out = tmp_path / "out.json"
    script = str(ROOT / "tools" / "benchmarks" / "bench_coco_eval.py")
    options = ["--images", "40", "--detections", "20", "--classes", "5", "--repeats", "1", "--json", str(out)]
    run = subprocess.run([sys.executable, script, *options], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    content = json.loads(out.read_text())
    assert len(content) == 6 and all(row["apart"] < 1e-9 and row["seconds"] for row in content.values())
    assert "pycocotools, loadRes(dicts)" in run.stdout and "800 detections" in run.stdout
