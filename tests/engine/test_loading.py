"""The loader's ``cache`` option, its workers' defaults, and sharded data sets, from configs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from effdense.data.storage.ram_cache import RamCache
from effdense.data.storage.shards import TarStore
from effdense.engine.config import load_config
from effdense.engine.datasets import build_loader, build_split
from effdense.engine.run import train
from effdense.errors import ConfigError, DataError
from tests.engine.conftest import validations

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def make_shards() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_shards", ROOT / "tools" / "make_shards.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def options(config, **loader):
    return load_config(config, {f"train_dataloader.{key}": value for key, value in loader.items()})


def batches(cfg, **build):
    split = build_split(cfg, "train", seed=0, **build)
    loader = build_loader(split, seed=0, training=True)
    return split, loader, [batch["inputs"].clone() for batch in loader]


def test_workers_persist_unless_told_otherwise(tiny_config, monkeypatch):
    config = tiny_config(more="\ntrain_dataloader.pop('persistent_workers')\n")
    split = build_split(load_config(config), "train", seed=0)
    loader = build_loader(split, seed=0, training=True)
    assert loader.persistent_workers and loader.num_workers == 2 and loader.pin_memory is torch.cuda.is_available()
    split = build_split(options(config, persistent_workers=False), "train", seed=0)
    assert not build_loader(split, seed=0, training=True).persistent_workers
    split = build_split(options(config, num_workers=0, prefetch_factor=4), "train", seed=0)
    assert not build_loader(split, seed=0, training=True).persistent_workers  # torch would refuse both
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    split = build_split(options(config, num_workers=0), "train", seed=0)
    assert build_loader(split, seed=0, training=True).pin_memory


@pytest.mark.parametrize("cache", ["ram", {"type": "ram", "decoded": True}, "disk"])
def test_a_cache_changes_no_batch(tiny_config, tmp_path, monkeypatch, cache):
    monkeypatch.setenv("EFFDENSE_CACHE", str(tmp_path / "cache"))
    config = tiny_config()
    _, _, plain = batches(load_config(config))
    split, loader, first = batches(options(config, cache=cache))
    second = [batch["inputs"].clone() for batch in loader]
    assert len(plain) == len(first) == 6
    for a, b, c in zip(plain, first, second, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    assert ("disk cache" if cache == "disk" else "RAM cache") in split.describe()
    if cache != "disk":
        assert isinstance(split.dataset.store, RamCache) and split.dataset.store.held[0] == 24
        assert loader.multiprocessing_context.get_start_method() == "fork"
    else:
        assert len(list((tmp_path / "cache" / "pictures").glob("??/*"))) == 24


def test_a_cache_that_is_too_small_is_a_warning_of_the_split(tiny_config):
    split = build_split(options(tiny_config(), cache={"type": "ram", "gigabytes": 1e-5}), "train", seed=0)
    assert "cache-too-small" in [finding.code for finding in split.report.warnings]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cache": "rma"}, r"train_dataloader\.cache must be one of 'ram'"),
        ({"cache": {"type": "ram", "gigabyte": 2}}, "Did you mean 'gigabytes'"),
        ({"sampler": {"type": "ShardShuffle"}}, "pictures in folders are shuffled without it"),
    ],
)
def test_what_cannot_be_is_said(tiny_config, change, message):
    with pytest.raises(ConfigError, match=message):
        batches(options(tiny_config(), num_workers=0, **change))
    with pytest.raises(ConfigError, match="buffer_shards"):
        options(tiny_config(), sampler={"type": "ShardShuffle", "buffer": 2})


@pytest.fixture
def shard_config(tiny_config, data, tmp_path, make_shards, capsys):
    """The tiny config, its data set read from shards of a few pictures each."""
    for split in ("train", "val"):
        arguments = [
            str(tiny_config()),
            str(tmp_path / "shards"),
            "--split",
            split,
            "--shard-mb",
            "0.02",
            "--keep-order",
        ]
        assert make_shards.main(arguments) == 0
        assert "in 1 shards" not in capsys.readouterr().out
    more = ""
    for split in ("train", "val"):
        more += f"""
{split}_dataloader['dataset'] = dict(type="ShardedDetection", root={str(tmp_path / "shards")!r}, split="{split}",
    transforms={split}_dataloader['dataset']['transforms'])
"""
    return tiny_config("sharded", more)


def test_shards_give_the_batches_of_the_files(tiny_config, shard_config):
    _, _, plain = batches(load_config(tiny_config()))
    split, _, sharded = batches(load_config(shard_config))
    assert isinstance(split.dataset.store, TarStore) and "train.index.npz; shards" in split.describe()
    for a, b in zip(plain, sharded, strict=True):
        assert torch.equal(a, b)
    cached, _, again = batches(options(shard_config, cache="ram"))
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True)) and cached.dataset.store.held[0] == 24


def test_a_shard_aware_order_from_a_config(shard_config):
    cfg = options(shard_config, sampler={"type": "ShardShuffle", "buffer_shards": 2}, num_workers=0)
    split = build_split(cfg, "train", seed=0)
    loader = build_loader(split, seed=0, training=True)
    indices = [int(i) for batch in loader for i in batch["indices"]]
    assert sorted(indices) == list(range(24)) != indices
    loader.sampler.set_epoch(1)
    assert [int(i) for batch in loader for i in batch["indices"]] != indices
    with pytest.raises(ConfigError, match="buffer_shards"):
        batches(options(shard_config, sampler={"type": "ShardShuffle", "buffer_shards": 0}, num_workers=0))


def test_training_and_evaluation_from_shards_is_that_from_files(shard_config, trained, tmp_path):
    work_dir = train(shard_config, work_dir=str(tmp_path / "run"))
    ours = validations(work_dir)
    assert len(ours) == 3
    for a, b in zip(ours, trained.scores, strict=True):
        assert a == pytest.approx(b, nan_ok=True)


def test_a_shard_that_is_cut_stops_the_run_at_once(shard_config, tmp_path):
    shard = tmp_path / "shards" / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-1024])
    with pytest.raises(DataError, match=r"(?s)train split.*shard-size.*train-000001\.tar") as caught:
        build_split(load_config(shard_config), "train", seed=0)
    assert "Copy them again" in str(caught.value)


def test_the_door(make_shards, tiny_config, data, tmp_path, capsys):
    out = tmp_path / "x"
    assert make_shards.main([str(data / "nowhere"), str(out), "--split", "train"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert make_shards.main([str(data / "shapes"), str(out), "--split", "train", "--shuffle", "3"]) == 0
    assert "wrote 24 pictures" in capsys.readouterr().out
    assert make_shards.main([str(data / "shapes"), str(out), "--split", "train"]) == 2
    assert "exists already" in capsys.readouterr().err
    index = np.load(out / "train.index.npz")
    assert len(index["shard_of"]) == 24 and "annotation_boxes" in index.files
