"""EfficientNetV2-S on ImageNet-1k with progressive learning, by the paper's recipe.

Run:      bash tools/dist_train.sh configs/effnetv2_s_imagenet.py 8 --amp
Expects:  $EFFDENSE_DATA/imagenet/{train,val}/<synset>/*.JPEG
Batch:    128 per process; the LR follows the global batch (.256 per 4096)
Schedule: 350 epochs in 4 stages: 128 to 300 px, dropout .1 to .3, RandAugment 5 to 15 (EfficientNetV2 Table 6)
Score:    the paper publishes top-1 83.9 at 384 px; not re-trained here
"""

_base_ = ["_base_/default_runtime.py", "_base_/datasets/imagenet.py", "_base_/schedules/effnet_350e.py"]

image_size = 384
model = dict(
    type="ClassificationModel",
    name="efficientnetv2_s",
    dropout=0.3,
    drop_path_rate=0.2,
    bn_momentum=0.01,
    label_smoothing=0.1,
)
default_hooks = dict(
    ema=dict(decay=0.9999),
    progressive=dict(
        type="ProgressiveLearningHook",
        stages=4,
        image_size=(128, 300),
        dropout=(0.1, 0.3),
        randaugment=(5, 15),
        # Table 6: no mixup for S; 0 to .2 for M, 0 to .5 for L.
    ),
)
