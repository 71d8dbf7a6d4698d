"""EfficientDet-D7 (EfficientNet-B6, 1536 px) on COCO 2017 by the published recipe.

Run:      bash tools/dist_train.sh configs/effdet_d7_coco.py 8 --amp
Expects:  $EFFDENSE_DATA/coco/{annotations,train2017,val2017}
Batch:    2 per process; the LR follows the global batch (.08 per 64)
Schedule: 600 epochs, SGD, EMA .9998
Score:    Google publishes val AP 53.4 (Gaussian soft-NMS); not re-trained here yet
"""

_base_ = ["_base_/default_runtime.py", "_base_/datasets/coco_detection.py", "_base_/schedules/effdet_300e.py"]

image_size = 1536
model = dict(type="DetectionModel", name="efficientdet_d7")
train_dataloader = dict(batch_size=2)
train_cfg = dict(max_epochs=600)
