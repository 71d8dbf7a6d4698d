"""The command line: help of every verb, output that scripts can read, and errors without tracebacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import effdense
from effdense.cli import main

PROGRAM = [sys.executable, "-c", "from effdense.cli import main; raise SystemExit(main())"]


def checkpoint(folder: Path) -> Path:
    """A small untrained detector, biased so that scores pass the default threshold."""
    options = {"image_size": 64, "max_level": 4, "fpn_channels": 16, "fpn_cells": 1, "head_repeats": 1}
    network = effdense.create_detector("efficientdet_d0", 2, **options)
    torch.nn.init.constant_(network.class_net.predict.conv_pw.bias, 1.0)
    meta = {
        "model": {"name": "efficientdet_d0", "num_classes": 2, **options},
        "classes": ["a", "b"],
        "category_ids": [1, 2],
    }
    path = folder / "best.pth"
    torch.save({"format": "effdense/1", "state_dict": network.state_dict(), "meta": meta}, path)
    return path


def write_picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize("verb", ["", "train", "test", "predict", "list", "info", "fit"])
def test_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"] if verb else ["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: effdense {verb}".rstrip())
    for option in {"train": ["--work-dir", "--resume", "--amp", "--cfg-options", "--launcher"], "test": ["--out"]}.get(
        verb, []
    ):
        assert option in text


def test_list_prints_one_name_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "efficientdet_d[01]"]) == 0
    assert capsys.readouterr().out == "efficientdet_d0\nefficientdet_d1\n"
    assert main(["list"]) == 0
    assert capsys.readouterr().out.split() == effdense.list_models()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "efficientdet_d9"], "ConfigError: no model matches 'efficientdet_d9'"),
        (["predict", "nowhere.pth", "street.jpg"], "WeightsError: no weight file at"),
        (["predict", ".", "street.jpg"], "WeightsError: "),
        (["train", "nowhere.py"], "nowhere.py"),
        (["test", "nowhere.py", "nowhere.pth"], "nowhere.py"),
        (["info", "nowhere.pth"], "WeightsError: no weight file at"),
        (["info", "efficientdet_d9"], "Did you mean 'efficientdet_d"),
        (["info", "efficientnet_b0", "--image-size", "1,2,3"], "ConfigError: --image-size is px or HEIGHT,WIDTH"),
        (["fit"], "ConfigError: a budget needs a limit"),
        (["fit", "--max-gmacs", "five"], "ConfigError: expected a number such as 10M"),
        (["fit", "--max-gmacs", "1", "--family", "resnet"], "ConfigError: no family is called 'resnet'"),
        (["fit", "--max-gmacs", "1", "--image-size", "64,96"], "ConfigError: fit compares models at a square size"),
    ],
)
def test_an_error_is_one_paragraph_and_exit_code_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""
    assert "Traceback" not in captured.err and "\n\n" not in captured.err.strip()


def test_the_program_ends_with_that_code(tmp_path: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, "predict", "nowhere.pth", "x.jpg"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("WeightsError: no weight file at") and "Traceback" not in done.stderr


def test_a_reader_that_leaves_early_is_no_error() -> None:
    program = subprocess.Popen([*PROGRAM, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout is not None and program.stderr is not None
    program.stdout.close()  # as `effdense list | true`
    errors = program.stderr.read()
    program.stderr.close()
    assert program.wait(120) == 1 and errors == b""


@pytest.mark.parametrize("arguments", [["fly"], [], ["train"], ["predict", "only.pth"], ["list", "a", "b"]])
def test_usage_errors_are_argparses(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: effdense" in capsys.readouterr().err


def test_predict_writes_a_line_and_a_picture_for_each_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = checkpoint(tmp_path), tmp_path / "out"
    pictures = [write_picture(tmp_path / "in" / name) for name in ("a.png", "b.jpg", "b.png")]
    assert main(["predict", str(model), str(tmp_path / "in"), "--out-dir", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(picture) for picture in pictures]
    written = sorted(path.name for path in out.iterdir())
    assert len(written) == 3 and {"a.jpg", "b.jpg"} < set(written)  # b.png does not write over the picture of b.jpg


def test_predict_never_writes_over_its_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, picture = checkpoint(tmp_path), write_picture(tmp_path / "in" / "a.jpg")
    before = picture.read_bytes()
    assert main(["predict", str(model), str(picture), "--out-dir", str(picture.parent)]) == 2
    assert "would overwrite the input picture" in capsys.readouterr().err
    assert picture.read_bytes() == before


def facts(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    return {line[:18].split("  ")[0]: line.partition("  ")[2].strip() for line in capsys.readouterr().out.splitlines()}


def test_long_list_has_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "efficientdet_d[0]", "--long"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["model", "params", "M", "GMACs", "2", "x", "MACs", "G", "input"]
    assert row.split() == ["efficientdet_d0", "3.88", "2.492", "4.985", "512"]


def test_info_of_a_detector(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "efficientdet_d0"]) == 0
    said = facts(capsys)
    assert (said["parameters"], said["MACs"], said["2 x MACs"]) == ("3,880,067", "2.492 G", "4.985 G")
    assert said["anchors"] == "49,104 per image (9 per cell)"
    assert said["BiFPN"] == "3 cells, 64 channels, fusion fastattn" and said["heads"].startswith("3 layers")
    assert said["encoder"].startswith("efficientnet_b0") and "0.001" in said["convention"]
    assert said["published"] == "34.3 % COCO val AP (google/automl efficientdet/README.md)"


def test_info_at_another_size_and_number_of_classes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "efficientdet_d0", "--image-size", "256,512", "--num-classes", "3"]) == 0
    said = facts(capsys)
    assert said["anchors"].startswith("24,552") and said["classes"] == "3"
    assert said["counted at"] == "256 x 512 px (height x width)"


def test_info_of_encoders(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "efficientnet_b3"]) == 0
    said = facts(capsys)
    assert said["channels"] == "24, 32, 48, 136, 384" and said["strides"] == "2, 4, 8, 16, 32"
    assert said["parameters"].startswith("12,233,232 (with the ImageNet head of 1000 classes; 10,103,336 as built")
    assert main(["info", "efficientnetv2_phi1.5"]) == 0
    said = facts(capsys)
    assert said["published"] == "no score" and said["input"] == "276 px" and said["trained at"] == "220 px"


def test_info_of_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint(tmp_path)
    for name in (path, tmp_path):  # a run folder stands for its best.pth
        assert main(["info", str(name)]) == 0
        said = facts(capsys)
        assert said["format"] == "effdense/1" and said["model"] == "efficientdet_d0"
        assert "fpn_channels=16" in said["model options"] and said["classes"] == "2: a, b"
        assert said["can resume"] == "no (weights only)"


def test_info_of_bare_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"layer.weight": torch.zeros(2, 3), "layer.bias": torch.zeros(2)}, tmp_path / "bare.pth")
    assert main(["info", str(tmp_path / "bare.pth")]) == 0
    said = facts(capsys)
    assert said["format"] == "bare weights, no metadata of ours" and said["weights"] == "2 tensors, 8 values"
    assert "no layout that effdense knows" in said["layout"]


def test_info_of_foreign_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.save({"model": torchvision.models.efficientnet_b0().state_dict(), "epoch": 1}, tmp_path / "theirs.pth")
    assert main(["info", str(tmp_path / "theirs.pth")]) == 0
    said = facts(capsys)
    assert said["weights"].startswith("360 tensors") and said["layout"] == "torchvision"
    assert said["belongs to"] == "They look like efficientnet_b0: create_encoder('efficientnet_b0')."
    assert said["convention"] == "padding symmetric, batch-norm epsilon 1e-05"


def test_fit_prints_what_it_measured_and_marks_the_largest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--family", "efficientnet_lite", "--max-gmacs", "1", "--max-params", "6M"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:20] for line in lines[1:6]] == [
        f"{mark} efficientnet_lite{size}" for size, mark in enumerate("  ---")
    ]
    assert lines[-1].startswith("* efficientnet_lite1 ") and "5.42" in lines[-1]


def test_fit_by_latency_says_where_it_measured(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--family", "efficientnet_lite", "--image-size", "64", "--max-latency-ms", "100000", "--device", "cpu"]
    assert main(["fit", *arguments, "--max-params", "5M", "--threads", "1", "--batch", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("timed on cpu (threads: 1), batch 2, float32; counted with the ImageNet head")
    assert lines[1].endswith("median ms") and float(lines[2].split()[-1]) > 0 and lines[3].endswith("not timed")
    assert lines[-1].startswith("* efficientnet_lite0 ")
