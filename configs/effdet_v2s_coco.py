"""EfficientNetV2-S under EfficientDet-D3's BiFPN (896 px) on COCO 2017.

Run:      bash tools/dist_train.sh configs/effdet_v2s_coco.py 8 --amp
Expects:  $EFFDENSE_DATA/coco/{annotations,train2017,val2017}
Batch:    8 per process; the LR follows the global batch (.08 per 64)
Schedule: 300 epochs, SGD, EMA .9998
Score:    none published for this pairing; not trained here yet
"""

_base_ = ["_base_/default_runtime.py", "_base_/datasets/coco_detection.py", "_base_/schedules/effdet_300e.py"]

image_size = 896
model = dict(type="DetectionModel", name="efficientdet_v2s")
train_dataloader = dict(batch_size=8)
