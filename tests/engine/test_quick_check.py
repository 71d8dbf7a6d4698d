"""The quick check at every training start: splits compared, files sampled, warnings only."""

import pytest

from effdense.engine.config import load_config
from effdense.engine.datasets import build_split, compare_splits
from effdense.errors import ConfigError, DataError
from tests.data import planted_sets as sets

CONFIG = """
image_size = 64
model = dict(type="DetectionModel", name="efficientdet_d0")
def _split(name):
    return dict(batch_size=2, dataset=dict(type="CocoDetection", root={root!r},
                ann_file=f"annotations/instances_{{name}}.json", image_dir=name))
train_dataloader = _split("train")
val_dataloader = _split("val")
data_check = dict({check})
"""


@pytest.fixture
def coco(tmp_path):
    return sets.write_coco(tmp_path / "mine")


def splits(coco, check=""):
    config = coco.parent / "config.py"
    config.write_text(CONFIG.format(root=str(coco), check=check))
    cfg = load_config(config)
    train = build_split(cfg, "train", seed=0)
    val = build_split(cfg, "val", seed=0, class_map=train.records.class_map)
    compare_splits(train, val)
    return train, val


def test_clean_splits_have_no_word(coco):
    train, val = splits(coco)
    assert train.report.findings == val.report.findings == []


def test_a_picture_of_both_splits_warns_and_does_not_stop(coco):
    (coco / "val" / "03.jpg").write_bytes((coco / "train" / "03.jpg").read_bytes())
    _, val = splits(coco)
    (finding,) = val.report.findings
    assert (finding.severity, finding.code, finding.examples) == ("warning", "also-in-training", ("03.jpg",))


def test_a_class_that_only_validation_has(coco):
    def drop(content):
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 2]

    sets.edit("train")(drop)(coco)
    train, val = splits(coco)
    assert [f.code for f in train.report.findings] == ["class-without-objects"]
    assert [(f.code, f.examples) for f in val.report.findings] == [("class-not-in-training", ("dog (12 here)",))]


def test_files_says_how_many_are_opened(coco):
    sets.cut(coco / "train" / "07.jpg", 0.5)
    with pytest.raises(DataError, match=r"(?s)train split.*truncated-image"):
        splits(coco)
    assert splits(coco, "files=2")[0].report.findings == []  # the first and the last
    assert splits(coco, "files=0")[0].report.findings == []
    with pytest.raises(DataError, match="truncated-image"):
        splits(coco, "files='all'")
    with pytest.raises(ConfigError, match=r"data_check\.files must be at least 0, got -1"):
        splits(coco, "files=-1")
