"""EfficientUNet-B0 on Cityscapes (2975/500 pictures of 2048x1024, 19 classes), 512x1024 crops.

Run:      bash tools/dist_train.sh configs/effunet_b0_cityscapes.py GPUS --amp
          with model.encoder_weights=timm:tf_efficientnet_b0.ns_jft_in1k (or a file) behind --cfg-options
Expects:  $EFFDENSE_DATA/cityscapes/{leftImg8bit,gtFine}/{train,val}/CITY/*.png, label ids as released
Batch:    8 per process; the LR follows the global batch (.01 per 16)
Schedule: 215 epochs, 80k iterations of 8, SGD, polynomial decay
Scores:   whole pictures of 1024x2048; with less memory model.inference="{'mode': 'slide', 'window': (512, 1024)}"
Hardware: one GPU; not timed here
Score:    not trained here; nobody publishes a figure for this network
"""

_base_ = [
    "_base_/default_runtime.py",
    "_base_/datasets/cityscapes.py",
    "_base_/schedules/sgd_poly.py",
]

image_size = (1024, 2048)  # of evaluation and of whoever opens the checkpoint; training crops are 512x1024
model = dict(type="SegmentationModel", name="efficientunet_b0", photometric=dict())
train_cfg = dict(max_epochs=215, val_interval=10)
default_hooks = dict(ema=dict(decay=0.999))
