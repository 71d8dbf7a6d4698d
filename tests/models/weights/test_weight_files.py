"""Reading weight files: what is no checkpoint is refused with its reason, and no code in a file ever runs."""

from __future__ import annotations

import argparse
import os
import pickle
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from effdense.errors import WeightsError
from effdense.models.encoders import create_encoder
from effdense.models.weights import load_weights
from effdense.models.weights.load import read_checkpoint, read_state_dict
from effdense.models.weights.read import read_source


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A readable file of one tensor."""
    path = tmp_path / "small.pth"
    torch.save({"weight": torch.arange(200.0)}, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_missing_and_empty_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    with pytest.raises(WeightsError, match=rf"no weight file at .*weights{suffix}"):
        read_checkpoint(path)
    path.touch()
    with pytest.raises(WeightsError, match=r"is empty \(0 bytes\)"):
        read_checkpoint(path)
    with pytest.raises(WeightsError, match="is a folder, expected a weight file"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "text", ["hello world\n", "<!DOCTYPE html><html>404</html>", "version https://git-lfs.github.com/spec/v1\noid x\n"]
)
def test_text_files_are_not_taken_for_pickles(tmp_path: Path, text: str) -> None:
    # What a failed download, an error page and an unfetched LFS pointer leave behind.
    for name in ("weights.pth", "weights.safetensors"):
        (tmp_path / name).write_text(text)
        with pytest.raises(WeightsError, match=r"cannot be read|not a readable") as caught:
            read_checkpoint(tmp_path / name)
        assert "could run code" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files(tmp_path: Path, share: float, zipped: bool) -> None:
    path = tmp_path / "cut.pth"
    torch.save({"weight": torch.arange(200.0)}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(WeightsError, match=r"cut\.pth cannot be read as a torch checkpoint") as caught:
        read_checkpoint(path)
    assert "likelihood" not in str(caught.value)  # torch's advice, which would be cut off in a word


def test_a_truncated_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    save_file({"weight": torch.arange(200.0)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="is not a readable safetensors file"):
        read_checkpoint(path)


class Intruder:
    """Unpickling it runs a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path: Path, zipped: bool) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"
    content = {"state_dict": {"weight": torch.zeros(1)}, "extra": Intruder(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"Python objects .*\(posix\.system\).* refused and nothing in it ran"):
        load_weights(create_encoder("efficientnet_b0", out_strides=(2,)), path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Intruder(marker)))  # the trap itself works
    assert marker.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_plain_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path, protocol: int) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Intruder(marker), protocol))
    with pytest.raises(WeightsError):
        read_checkpoint(path)
    assert not marker.exists()


def test_harmless_objects_are_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "args": argparse.Namespace(lr=1)}, tmp_path / "timm.pth")
    with pytest.raises(WeightsError, match=r"\(argparse\.Namespace\).* save only its state_dict"):
        read_checkpoint(tmp_path / "timm.pth")


def test_ordered_dicts_are_plain(tmp_path: Path, small: Path) -> None:
    torch.save(OrderedDict(weight=torch.ones(2)), tmp_path / "ordered.pth")
    assert read_state_dict(tmp_path / "ordered.pth")["weight"].tolist() == [1, 1]
    assert read_state_dict(small)["weight"].shape == (200,)


@pytest.mark.parametrize(
    "entries", [("state_dict",), ("model",), ("ema",), ("model_ema",), ("net",), ("params",), ("model", "state_dict")]
)
def test_tensors_are_found_where_checkpoints_keep_them(tmp_path: Path, entries: tuple[str, ...]) -> None:
    content: dict[str, Any] = {"module.weight": torch.ones(2)}
    for entry in reversed(entries):
        content = {entry: content, "epoch": 3, "optimizer": {"state": {0: torch.zeros(1)}}}
    torch.save(content, tmp_path / "nested.pth")
    source = read_source(tmp_path / "nested.pth")
    assert list(source.state) == ["weight"] and source.notes == ()


def test_files_are_told_by_content_not_by_name(tmp_path: Path, small: Path) -> None:
    save_file({"weight": torch.ones(3)}, tmp_path / "w.safetensors", metadata={"effdense_weights": '{"bn_eps": 0.5}'})
    for name in ("renamed.pth", "UPPER.SAFETENSORS"):
        (tmp_path / name).write_bytes((tmp_path / "w.safetensors").read_bytes())
        source = read_source(tmp_path / name)
        assert source.state["weight"].tolist() == [1, 1, 1] and source.bn_eps == 0.5
    (tmp_path / "torch.safetensors").write_bytes(small.read_bytes())
    assert read_state_dict(tmp_path / "torch.safetensors")["weight"].shape == (200,)


def test_web_addresses_are_not_taken_for_paths() -> None:
    with pytest.raises(WeightsError, match=r"https://host/b0\.pth is a web address; download the file first"):
        read_source("https://host/b0.pth")


def test_a_choice_between_two_is_told() -> None:
    content = {"model_ema": {"weight": torch.ones(1)}, "model": {"weight": torch.zeros(1)}}
    source = read_source(content)
    assert source.state["weight"] == 0
    assert source.notes == ("took 'model' of the checkpoint; it also holds 'model_ema'",)


@pytest.mark.parametrize("content", [{"epoch": 1}, {"encoder": {"weight": torch.ones(1)}}, {}])
def test_no_tensors_where_they_are_looked_for(content: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match=r"holds no tensors.* pass the state dict in it"):
        read_source(content)


@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_only_ever_raise_weights_errors(tmp_path: Path) -> None:
    generator, path = random.Random(0), tmp_path / "damaged.pth"
    originals = [pickle.dumps({"a": [1, 2, (3, 4)], "b": OrderedDict(x=1)}, 2)]
    for zipped in (True, False):
        torch.save({"weight": torch.arange(30.0)}, path, _use_new_zipfile_serialization=zipped)
        originals.append(path.read_bytes())
    refused = 0
    for round_ in range(300):
        data = bytearray(originals[round_ % 3])
        for _ in range(generator.randint(1, 6)):
            data[generator.randrange(min(len(data), 400))] = generator.randrange(256)
        path.write_bytes(bytes(data[: generator.randrange(1, len(data))]) if round_ % 4 == 0 else bytes(data))
        try:
            read_checkpoint(path)
        except WeightsError:
            refused += 1
    assert refused > 200
