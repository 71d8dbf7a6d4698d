"""``effdense check`` from the command line: exit codes, what is printed and written, and how long a big set takes."""

import json
import os
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from effdense.cli import main
from effdense.data.checks.report_text import printable
from tests.data import planted_sets as sets

CONFIG = """
image_size = 64
model = dict(type="DetectionModel", name="efficientdet_d0")
def _split(name):
    return dict(batch_size=2, dataset=dict(type="CocoDetection", root={root!r},
                ann_file=f"annotations/instances_{{name}}.json", image_dir=name))
train_dataloader = _split("train")
val_dataloader = _split("val")
test_dataloader = _split("val")
"""


@pytest.fixture
def coco(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return sets.write_coco(tmp_path / "mine")


def run(capsys, *arguments):
    code = main(["check", *map(str, arguments)])
    return code, capsys.readouterr().out


def test_clean_set(coco, capsys, tmp_path):
    code, out = run(capsys, coco)
    assert code == 0
    lines = out.splitlines()
    assert lines[-1] == "0 errors, 0 warnings"
    assert "  images  30 listed, 30 found, 0 missing, 0 unreadable, 0 empty" in lines
    assert "      1   2  dog       60  33.3%         30" in lines
    assert not any(c != "\n" and not c.isprintable() for c in out)
    content = json.loads((tmp_path / "data_check" / "mine" / "data_report.json").read_text())
    assert (content["errors"], content["warnings"], content["format"]) == (0, 0, "coco")
    assert content["splits"]["train"]["images"]["found"] == 30
    assert content["splits"]["val"]["labels"]["classes"][2] == {
        "label": 2, "id": 3, "name": "cow", "boxes": 12, "images": 6, "share": pytest.approx(1 / 3, abs=1e-6),
    }  # fmt: skip
    for name in content["files"]:
        picture = cv2.imread(str(tmp_path / "data_check" / "mine" / name))
        assert picture.shape[0] > 400 and picture.std() > 5
    assert sorted(content["files"]) == ["labels_compared.png", "labels_train.png", "labels_val.png"]


def test_errors_come_first_and_set_the_exit_code(coco, capsys):
    for name in ("missing", "clipped", "grey"):
        sets.coco_faults()[name][0](coco)
    code, out = run(capsys, coco, "--no-pictures")
    assert code == 1
    lines = out.splitlines()
    assert lines[-1] == "1 error, 1 warning"
    kinds = [line.split()[0] for line in lines if "[" in line and "x in " in line]
    assert kinds == ["error", "warning", "note"]
    at = next(i for i, line in enumerate(lines) if line.startswith("error [missing-image] 1x in train:"))
    assert lines[at].endswith("correct image_dir or add them.")
    assert lines[at + 1] == "    00.jpg (image id 100)"


def test_strict_and_examples(coco, capsys, tmp_path):
    for index in (1, 2, 3):
        sets.add_annotation(index, id=9000 + index)(coco)
    assert run(capsys, coco, "--no-pictures")[0] == 0
    code, out = run(capsys, coco, "--no-pictures", "--strict", "--max-examples", 1, "--split", "train")
    assert code == 1 and "    ... 2 more" in out and "\nval\n" not in out
    content = json.loads((tmp_path / "data_check" / "mine" / "data_report.json").read_text())
    (finding,) = [f for f in content["findings"] if f["code"] == "duplicate-bbox"]
    assert (finding["count"], finding["examples"], finding["split"]) == (3, ["annotation 9001 in 01.jpg"], "train")


def test_a_config_is_checked_split_by_split(coco, capsys, tmp_path):
    config = tmp_path / "my_config.py"
    config.write_text(CONFIG.format(root=str(coco)))
    sets.copy_train_to_val(coco)
    code, out = run(capsys, config, "--no-pictures")
    assert code == 1 and "\nval\n" in out and "\ntest\n" not in out  # test repeats val
    assert "error [same-content-in-splits] 1x: " in out
    assert (tmp_path / "data_check" / "my_config" / "data_report.json").is_file()
    assert main(["check", str(config), "--split", "trian"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "There is no data set at nowhere"),
        (["mine", "--split", "trial"], "Did you mean 'train'"),
        (["mine", "--decode", "some"], "--decode must be a number"),
        (["mine", "--workers", "0"], "workers must be at least 1"),
        (["mine", "--hash-distance", "40"], "0 to 16 bits"),
        (["mine", "--no-near-duplicates", "--hash-distance", "3"], "leaves out"),
        (["mine", "--format", "cocos"], "Did you mean 'coco'"),
        (["mine", "--image-size", "big"], "takes N or H,W"),
        (["mine", "--repair", "mine"], "nothing is overwritten"),
    ],
)
def test_usage_errors_exit_2(coco, capsys, arguments, message):
    assert main(["check", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_foreign_files_are_not_overwritten(coco, capsys, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "labels_val.png").write_text("mine")
    assert main(["check", str(coco), "--out", str(out)]) == 2
    assert "not overwritten" in capsys.readouterr().err
    (out / "labels_val.png").unlink()
    assert run(capsys, coco, "--out", out)[0] == 0
    assert run(capsys, coco, "--out", out)[0] == 0  # its own files may be renewed
    assert not list(out.glob(".*"))


def test_repair_says_what_it_did(coco, capsys, tmp_path):
    for name in ("missing", "doubled"):
        sets.coco_faults()[name][0](coco)
    code, out = run(capsys, coco, "--no-pictures", "--repair", tmp_path / "fixed")
    assert code == 1
    assert "     1 images without a readable picture file taken out" in out
    assert out.splitlines()[-1] == "1 error, 1 warning"
    code, out = run(capsys, tmp_path / "fixed", "--no-pictures")
    assert (code, out.splitlines()[-1]) == (0, "0 errors, 0 warnings")


def test_names_cannot_write_to_the_terminal(coco, capsys):
    assert printable("a\x1b[31mb\x07\ud800") == "a?[31mb??"
    for split in sets.COUNTS:
        sets.edit(split)(lambda c: c["categories"][0].update(name="\x1b[31mred\x07"))(coco)
    _, out = run(capsys, coco, "--no-pictures")
    assert "\x1b" not in out and "?[31mred?" in out


def test_terminal_output(coco, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    code, out = run(capsys, coco, "--no-pictures")
    assert code == 0 and "cow" in out and out.splitlines()[-1] == "0 errors, 0 warnings"


@pytest.mark.slow
def test_a_set_of_the_size_of_coco_val_takes_less_than_20_s(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    images, annotations = [], []
    for i in range(5000):
        cv2.imwrite(str(tmp_path / "val2017" / f"{i}.jpg"), sets.picture(i))
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48})
        for _ in range(8 if i % 5 == 0 else 7):
            x, y, w, h = (rng.uniform(0, 1, 4) * [30, 20, 27, 24] + [0, 0, 4, 4]).round(2).tolist()
            annotations.append({"id": len(annotations) + 1, "image_id": i, "category_id": int(rng.integers(1, 81)),
                                "bbox": [x, y, w, h], "area": round(w * h, 4), "iscrowd": 0})  # fmt: skip
    assert len(annotations) == 36000
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, 81)]
    sets.write_json(tmp_path, "val2017", {"images": images, "annotations": annotations, "categories": categories})
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", "from effdense.cli import main; raise SystemExit(main())", "check", str(tmp_path),
         "--workers", "1", "--out", str(tmp_path / "out")],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert done.stdout.splitlines()[-1].startswith("0 errors")
    assert time.monotonic() - start < 20
