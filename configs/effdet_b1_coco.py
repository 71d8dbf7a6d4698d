"""EfficientDet-D1 (EfficientNet-B1, 640 px) on COCO 2017 by the published recipe.

Run:      bash tools/dist_train.sh configs/effdet_b1_coco.py 8 --amp
Expects:  $EFFDENSE_DATA/coco/{annotations,train2017,val2017}
Batch:    16 per process; the LR follows the global batch (.08 per 64)
Schedule: 300 epochs, SGD, EMA .9998
Score:    Google publishes val AP 40.2 (Gaussian soft-NMS); not re-trained here yet
"""

_base_ = ["_base_/default_runtime.py", "_base_/datasets/coco_detection.py", "_base_/schedules/effdet_300e.py"]

image_size = 640
model = dict(type="DetectionModel", name="efficientdet_d1")
train_dataloader = dict(batch_size=16)
