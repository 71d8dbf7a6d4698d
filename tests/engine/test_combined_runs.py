"""Combined data sets and samplers through the engine: trained, evaluated, tested, and configs that cannot be meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from effdense.engine.config import load_config
from effdense.engine.data_report import read_config_splits
from effdense.engine.datasets import build_loader, build_split
from effdense.engine.run import test as evaluate
from effdense.engine.run import train
from effdense.errors import ConfigError, DataError
from tests.engine.conftest import Run, WriteConfig, validations

PARTS = """
_train = dict(type="CocoDetection", root="shapes", ann_file="annotations/instances_train.json", image_dir="train")
_val = dict(type="CocoDetection", root="shapes", ann_file="annotations/instances_val.json", image_dir="val")
_mapping = dict(ellipse="round", rectangle="angular", triangle="angular")
"""
# Twice the same pictures: once under two new names and once, a third of them, under the old ones.
COMBINED = (
    PARTS
    + """
train_dataloader = dict(batch_size=4, num_workers=0, sampler=dict(type="RepeatFactor", threshold=0.9), dataset=dict(
    _delete_=True, type="ConcatDetection", transforms=[dict(type="ScaleJitterCrop")], datasets=[
        dict(type="MappedDetection", dataset=_train, mapping=_mapping, unmapped="keep"),
        dict(**_train, take=0.34)]))
val_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(
    _delete_=True, type="ConcatDetection", transforms=[dict(type="ResizePad")], datasets=[
        dict(type="MappedDetection", dataset=_val, mapping=_mapping, unmapped="keep"), dict(**_val, repeat=2)]))
train_cfg = dict(max_epochs=1, val_interval=1)
"""
)


def write(tiny_config: WriteConfig, more: str, name: str = "combined") -> Path:
    """The tiny config with sections changed by a child config."""
    base = tiny_config(f"{name}_base")
    path = base.with_name(f"{name}.py")
    path.write_text(f"_base_ = [{base.name!r}]\n{more}")
    return path


def splits(config: Path, **options: Any) -> tuple[Any, Any]:
    cfg = load_config(config, options)
    one = build_split(cfg, "train", seed=0)
    return one, build_split(cfg, "val", seed=0, class_map=one.records.class_map)


def test_train_evaluate_and_test_a_combined_set(tiny_config: WriteConfig, tmp_path: Path) -> None:
    config = write(tiny_config, COMBINED)
    folder = train(config, work_dir=str(tmp_path / "run"))
    scores = validations(folder)
    assert len(scores) == 1 and 0 <= scores[0]["AP"] <= 1
    again = evaluate(
        config, str(folder / "best.pth"), work_dir=str(tmp_path / "test"), out=str(tmp_path / "found.json")
    )
    assert again.to_dict()["AP"] == pytest.approx(scores[0]["AP"], abs=1e-9)
    found = json.loads((tmp_path / "found.json").read_text())
    ids = set(splits(config)[1].records.image_ids.tolist())
    assert len(ids) == 3 * 13 and found and {entry["image_id"] for entry in found} <= ids


def test_classes_and_counts_of_a_combined_split(tiny_config: WriteConfig) -> None:
    one, val = splits(write(tiny_config, COMBINED))
    plain, _ = splits(tiny_config("plain"))
    old = plain.records.class_map.names
    names = one.records.class_map.names
    assert names[:2] == ("round", "angular") and set(names) == {"round", "angular", *old}
    assert one.records.class_map.category_ids == tuple(range(1, len(names) + 1))
    assert val.records.class_map == one.records.class_map
    assert len(one.records) == 24 + 8 and len(val.records) == 3 * 13
    before = dict(zip(old, plain.records.subset(range(24)).class_counts(), strict=True))
    mapped = dict(zip(names, one.records.subset(range(24)).class_counts(), strict=True))
    assert mapped["angular"] == before["rectangle"] + before["triangle"] and mapped["round"] == before["ellipse"]
    assert one.records.source_of(0) == one.records.source_of(31) == str(plain.records.annotation_file)
    assert "instances_train.json" in one.describe()


def test_a_plain_validation_split_follows_a_combined_training_split(tiny_config: WriteConfig) -> None:
    config = write(
        tiny_config,
        PARTS
        + "train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDetection', datasets=[_train, _train], "
        "classes=['triangle', 'ellipse'], transforms=[dict(type='ResizePad')]))\nclasses = ['triangle', 'ellipse']",
    )
    one, val = splits(config)
    assert one.records.class_map.names == val.records.class_map.names == ("triangle", "ellipse")
    assert len(val.records) == 13


def test_a_validation_class_that_is_not_trained_is_named(tiny_config: WriteConfig) -> None:
    config = write(
        tiny_config,
        PARTS + "train_dataloader = dict(dataset=dict(_delete_=True, type='MappedDetection', dataset=_train, "
        "mapping=_mapping, unmapped='drop', transforms=[dict(type='ResizePad')]))",
    )
    with pytest.raises(
        DataError, match=r"not among those trained: .*ellipse.*Trained are \['round', 'angular'\]. Map them"
    ):
        splits(config)


def test_an_epoch_with_a_sampler(tiny_config: WriteConfig) -> None:
    config = write(tiny_config, "train_dataloader = dict(sampler=dict(type='ClassBalanced', power=0.5))")
    one, _ = splits(config)
    loader = build_loader(one, seed=0, training=True)
    assert len(loader.sampler) == 24
    drawn = [(int(i), i.repeat) for i in loader.sampler]
    assert len(set(drawn)) == 24 and max(repeat for _, repeat in drawn) > 0


SHAPES = "type='CocoDetection', root='shapes', ann_file='a.json', image_dir='train'"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("train_dataloader = dict(sampler=dict(type='RepeatFacto'))", "unknown .* Did you mean 'RepeatFactor'"),
        ("train_dataloader = dict(sampler=dict(type='RepeatFactor', treshold=1))", "sampler.treshold.*'threshold'"),
        ("train_dataloader = dict(sampler=dict(type='RepeatFactor', threshold=2))", "in .0, 1., got 2"),
        ("train_dataloader = dict(sampler='RepeatFactor')", "sampler must be dict"),
        ("train_dataloader = dict(sampler=dict(type='DefaultSampler'))", "unknown effdense sampler"),
        ("train_dataloader = dict(shuffle=False, sampler=dict(type='RepeatFactor'))", "remove shuffle=False"),
        ("val_dataloader = dict(sampler=dict(type='RepeatFactor'))", "unknown key val_dataloader.sampler"),
        (
            "train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDetection', "
            f"datasets=[dict({SHAPES}, rot='x')]))",
            r"train_dataloader.dataset.datasets.0.rot. Did you mean 'root'",
        ),
        (
            f"train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDetection', datasets=[dict({SHAPES}, "
            "transforms=[dict(type='ResizePad')])]))",
            "transforms belong to the outer data set",
        ),
        (
            "train_dataloader = dict(dataset=dict(_delete_=True, type='MappedDetection', mapping=dict(a='b'), "
            "dataset=dict(type='CocoDetektion')))",
            "dataset.dataset.type: unknown dataset 'CocoDetektion'. Did you mean 'CocoDetection'",
        ),
        (
            "train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDetection', datasets=['coco']))",
            "must be a list, of a dict each, got",
        ),
        (
            PARTS + "train_dataloader = dict(dataset=dict(_delete_=True, type='MappedDetection', dataset=_train, "
            "mapping=dict(elipse='round'), unmapped='keep'))",
            "Did you mean 'ellipse'",
        ),
        (
            PARTS + "train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDetection', "
            "datasets=[dict(**_train, repeat=0)]))",
            "datasets.0.repeat must be a whole number",
        ),
    ],
)  # fmt: skip
def test_configs_that_cannot_be_meant(tiny_config: WriteConfig, more: str, message: str) -> None:
    config = write(tiny_config, more)
    with pytest.raises(ConfigError, match=message):
        build_loader(splits(config)[0], seed=0, training=True)


SEGMENTATION = """
image_size = 64
model = dict(_delete_=True, type="SegmentationModel", name="efficientunet_lite0", decoder_channels=(32, 24, 16, 8, 8))
_files = dict(type="ShapesSegmentation", splits=dict(train=24, val=13), image_size=(64, 96), max_objects=4)
_mapping = dict(ellipse="shape", rectangle="shape", triangle="shape")
train_dataloader = dict(_delete_=True, batch_size=4, num_workers=0, sampler=dict(type="ClassBalanced"), dataset=dict(
    type="ConcatSegmentation", transforms=[dict(type="ScaleJitterCrop")], datasets=[
        dict(type="MappedSegmentation", dataset=dict(**_files, split="train"), mapping=_mapping, unmapped="keep"),
        dict(type="MappedSegmentation", dataset=dict(**_files, split="val"), mapping=_mapping, unmapped="keep")]))
val_dataloader = dict(_delete_=True, batch_size=4, num_workers=0, dataset=dict(
    type="MappedSegmentation", dataset=dict(**_files, split="val"), mapping=_mapping, unmapped="keep",
    transforms=[dict(type="ResizePad")]))
val_evaluator = dict(_delete_=True, type="SegmentationMetric")
train_cfg = dict(max_epochs=1, val_interval=1)
"""


def test_train_on_joined_and_mapped_masks(tiny_config: WriteConfig, tmp_path: Path) -> None:
    config = write(tiny_config, SEGMENTATION, "masks")
    folder = train(config, work_dir=str(tmp_path / "run"))
    scores = evaluate(config, str(folder / "best.pth"), work_dir=str(tmp_path / "test"))
    assert "\nshape " in scores.table() and "ellipse" not in scores.table()
    one, _ = splits(config)
    assert len(one.records) == 24 + 13


def test_a_combined_split_has_the_score_of_its_parts(trained: Run, tiny_config: WriteConfig, tmp_path: Path) -> None:
    """One checkpoint, the same 13 pictures: from their annotation file, and from the records of a combined set."""
    both = [evaluate(trained.config, str(trained.work_dir / "best.pth"), work_dir=str(tmp_path / "plain"))]
    more = "val_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDetection', datasets=[{}], "
    more += "transforms=[dict(type='ResizePad')]))"
    for name, part in (("joined", "_val"), ("mapped", "dict(type='MappedDetection', dataset=_val, mapping=_same)")):
        same = "_same = {name: name for name in ('ellipse', 'rectangle', 'triangle', 'star', 'ring')}\n"
        config = write(tiny_config, PARTS + same + more.format(part), name)
        both.append(evaluate(config, str(trained.work_dir / "best.pth"), work_dir=str(tmp_path / name)))
    plain, joined, mapped = (scores.to_dict() for scores in both)
    assert plain == joined == mapped
    assert plain["AP"] == max(score["AP"] for score in trained.scores)


def test_the_check_of_a_config_sees_one_class_map(tiny_config: WriteConfig) -> None:
    train_first, val = read_config_splits(write(tiny_config, COMBINED)).splits
    assert train_first.records.class_map == val.records.class_map
