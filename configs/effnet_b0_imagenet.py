"""EfficientNet-B0 (224 px) on ImageNet-1k, so that encoders can be pretrained and verified.

Run:      bash tools/dist_train.sh configs/effnet_b0_imagenet.py 8 --amp
Expects:  $EFFDENSE_DATA/imagenet/{train,val}/<synset>/*.JPEG
Batch:    128 per process; the LR follows the global batch (.256 per 4096)
Schedule: 350 epochs, RMSProp, EMA .9999
Score:    the paper publishes top-1 77.1 (AutoAugment); not re-trained here. Published weights are verified with
          python tools/test.py configs/effnet_b0_imagenet.py WEIGHTS.pth
"""

_base_ = ["_base_/default_runtime.py", "_base_/datasets/imagenet.py", "_base_/schedules/effnet_350e.py"]

image_size = 224
model = dict(
    type="ClassificationModel",
    name="efficientnet_b0",
    dropout=0.2,
    drop_path_rate=0.2,
    bn_momentum=0.01,
    label_smoothing=0.1,
)
default_hooks = dict(ema=dict(decay=0.9999))
