"""EfficientDet-Lite3x (640 px; ReLU6, no squeeze-and-excitation, plain-sum fusion) on COCO 2017 by the published
recipe.

Run:      bash tools/dist_train.sh configs/effdet_lite3x_coco.py 8 --amp
Expects:  $EFFDENSE_DATA/coco/{annotations,train2017,val2017}
Batch:    8 per process; the LR follows the global batch (.08 per 64)
Schedule: 300 epochs, SGD, EMA .9998
Score:    Google publishes float AP 42.64; not re-trained here yet
"""

_base_ = ["_base_/default_runtime.py", "_base_/datasets/coco_detection.py", "_base_/schedules/effdet_300e.py"]

image_size = 640
model = dict(type="DetectionModel", name="efficientdet_lite3x")
train_dataloader = dict(batch_size=8)
