"""Hub sources against a cache folder built here, in the hub's own arrangement; the network is never asked."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from effdense.errors import MissingExtra, WeightsError
from effdense.models.encoders import create_encoder
from effdense.models.weights import load_weights
from effdense.models.weights.hub import HubFile, parse

hub = pytest.importorskip("huggingface_hub")
OLD, NEW = "1" * 40, "2" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a hub that cannot be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    real = hub.hf_hub_download

    def offline(*args: Any, local_files_only: bool = False, **options: Any) -> str:
        if not local_files_only:
            raise hub.errors.LocalEntryNotFoundError("the test has no network")
        return real(*args, local_files_only=True, **options)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    return tmp_path / "hub"


def put(cache: Path, repo: str, file: str = "model.safetensors", *, commit: str = NEW, seed: int = 0) -> Path:
    """Store a B0 encoder of stride 2 as the hub's client would; returns the file."""
    torch.manual_seed(seed)
    state = create_encoder("efficientnet_b0", out_strides=(2,)).state_dict()
    folder = cache / f"models--{repo.replace('/', '--')}"
    path = folder / "snapshots" / commit / file
    path.parent.mkdir(parents=True, exist_ok=True)
    (folder / "blobs").mkdir(exist_ok=True)
    blob = folder / "blobs" / f"{commit}-{path.name}"
    save_file(state, blob) if file.endswith(".safetensors") else torch.save(state, blob)
    path.symlink_to(os.path.relpath(blob, path.parent))
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    return path


def encoder(padding: str = "same") -> Any:
    return create_encoder("efficientnet_b0", out_strides=(2,), padding=padding)


def test_parts_of_a_source() -> None:
    assert parse("hf:me/net") == HubFile("me/net")
    assert parse("hf:me/net.b0@v1.0:sub/best.pth") == HubFile("me/net.b0", "v1.0", "sub/best.pth")
    assert parse(f"hf:me/net@{OLD}#sha256={'A' * 64}") == HubFile("me/net", OLD, None, "A" * 64)


@pytest.mark.parametrize(
    "source",
    [
        "hf:net", "hf:me/net/more", "hf:../net", "hf:me/..", "hf:me/net:../../etc/passwd", "hf:me/net:/etc/passwd",
        "hf:me/net:a\\..\\b", "hf:me/net@../x", "hf:me/net#sha256=12", "hf:me/net#md5=12", "hf:", "hf:me/net:",
        "hf:me/net:a//b",
    ],
)  # fmt: skip
def test_malformed_sources_and_paths_that_escape(source: str, cache: Path) -> None:
    with pytest.raises(WeightsError, match="is no hub source; expected hf:OWNER/NAME"):
        load_weights(encoder(), source)


def test_an_unpinned_source_reports_its_commit(cache: Path) -> None:
    put(cache, "me/net")
    report = load_weights(encoder(), "hf:me/net")
    assert f"me/net at commit {NEW} (not pinned: add @{NEW})" in report.notes


def test_a_pinned_commit_is_the_one_that_is_read(cache: Path) -> None:
    put(cache, "me/net", commit=OLD, seed=1)
    put(cache, "me/net", commit=NEW, seed=2)
    old, new = encoder(), encoder()
    report = load_weights(old, f"hf:me/net@{OLD}")
    assert not any("pinned" in note for note in report.notes)
    load_weights(new, "hf:me/net")
    torch.manual_seed(1)
    wanted = encoder()
    assert torch.equal(old.conv_stem.weight, wanted.conv_stem.weight)
    assert not torch.equal(new.conv_stem.weight, wanted.conv_stem.weight)


def test_safetensors_go_before_pickles_and_a_file_can_be_named(cache: Path) -> None:
    put(cache, "me/net", "pytorch_model.bin", seed=1)
    only_bin = encoder()
    load_weights(only_bin, "hf:me/net")
    put(cache, "me/net", "model.safetensors", seed=2)
    put(cache, "me/net", "runs/best.pth", seed=3)
    both, named = encoder(), encoder()
    load_weights(both, "hf:me/net")
    load_weights(named, f"hf:me/net@{NEW}:runs/best.pth")
    weights = [model.conv_stem.weight for model in (only_bin, both, named)]
    for seed, weight in enumerate(weights, start=1):
        torch.manual_seed(seed)
        assert torch.equal(weight, encoder().conv_stem.weight)


def test_the_hash_decides(cache: Path) -> None:
    path = put(cache, "me/net")
    good = hashlib.sha256(path.read_bytes()).hexdigest()
    report = load_weights(encoder(), f"hf:me/net#sha256={good.upper()}")
    assert not any("pinned" in note for note in report.notes)
    model = encoder()
    before = model.conv_stem.weight.clone()
    with pytest.raises(WeightsError, match=rf"model\.safetensors of me/net has sha256 {good}, expected 0000"):
        load_weights(model, f"hf:me/net#sha256={'0' * 64}")
    assert torch.equal(model.conv_stem.weight, before)


def test_offline_and_not_cached(cache: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        load_weights(encoder(), f"hf:me/net@{OLD}")
    text = str(caught.value)
    assert "model.safetensors or pytorch_model.bin of me/net at revision 1111" in text
    assert str(cache) in text and f"hf download me/net model.safetensors --revision {OLD}" in text


def test_an_existing_file_of_that_name_is_a_file(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf:me").mkdir()
    torch.save(encoder().state_dict(), "hf:me/net.pth")
    assert len(load_weights(encoder(), "hf:me/net.pth").notes) == 1  # of the padding only: no commit


def test_timm_names_tell_the_convention(cache: Path) -> None:
    pytest.importorskip("timm")
    put(cache, "timm/tf_efficientnet_b0.aa_in1k")
    put(cache, "timm/efficientnet_b0.ra_in1k")
    google, native = encoder("symmetric"), encoder("same")
    report = load_weights(google, "timm:tf_efficientnet_b0.aa_in1k")
    assert report.adapted == ["padding symmetric -> same", "BN eps 1e-05 -> 0.001"]
    assert load_weights(native, "timm:efficientnet_b0.ra_in1k").adapted == [
        "padding same -> symmetric", "BN eps 0.001 -> 1e-05",
    ]  # fmt: skip
    assert load_weights(encoder("same"), f"hf:timm/efficientnet_b0.ra_in1k@{NEW}").adapted


def test_the_default_tag_is_timms(cache: Path) -> None:
    timm = pytest.importorskip("timm")
    tag = timm.get_pretrained_cfg("tf_efficientnet_b0").tag
    put(cache, f"timm/tf_efficientnet_b0.{tag}")
    assert load_weights(encoder(), "timm:tf_efficientnet_b0").loaded


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("timm:tf_eficientnet_b0", "timm has no model 'tf_eficientnet_b0'.*Did you mean 'tf_efficientnet_b0'"),
        ("timm:tf_efficientnet_b0.no_tag", "timm has no weights .* it has .*tf_efficientnet_b0.aa_in1k"),
        ("timm:../x", "is no timm source"),
        ("timm:efficientnet_lite1", "timm has no pretrained weights of 'efficientnet_lite1'"),
    ],
)
def test_timm_names_that_lead_nowhere(source: str, message: str, cache: Path) -> None:
    pytest.importorskip("timm")
    with pytest.raises(WeightsError, match=message):
        load_weights(encoder(), source)


def test_without_timm_the_tag_must_be_written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    put(cache, "timm/tf_efficientnet_b0.aa_in1k")
    model = encoder("symmetric")
    load_weights(model, "timm:tf_efficientnet_b0.aa_in1k")
    assert (model.padding, model.bn_eps) == ("same", 1e-3)
    with pytest.raises(MissingExtra, match=r"names no pretrained tag, and timm, .* is not installed"):
        load_weights(model, "timm:tf_efficientnet_b0")
