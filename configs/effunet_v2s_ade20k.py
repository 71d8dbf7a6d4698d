"""EfficientUNet-V2-S on ADE20K's scene parsing benchmark (20 210/2000 pictures, 150 classes), 512 px crops.

Run:      bash tools/dist_train.sh configs/effunet_v2s_ade20k.py GPUS --amp
          with model.encoder_weights=timm:tf_efficientnetv2_s.in21k_ft_in1k (or a file) behind --cfg-options
Expects:  $EFFDENSE_DATA/ADEChallengeData2016/{images,annotations}/{training,validation}
Batch:    16 per process
Schedule: 127 epochs, 160k iterations of 16, AdamW 6e-4 (encoder 6e-5), linear decay
Hardware: one GPU of 24 GB or more; not timed here
Score:    not trained here; nobody publishes a figure for this network
"""

_base_ = [
    "_base_/default_runtime.py",
    "_base_/datasets/ade20k.py",
    "_base_/schedules/adamw_poly.py",
]

image_size = 512
model = dict(type="SegmentationModel", name="efficientunet_v2s", photometric=dict())
train_cfg = dict(max_epochs=127, val_interval=8)
default_hooks = dict(ema=dict(decay=0.999))
