"""The segmentor of effunet_b0_camvid.py in minutes on a CPU: 192x256 px, 12 epochs, from a trained encoder.

Run:      EFFDENSE_DATA=DIR python tools/train.py configs/effunet_b0_camvid_cpu.py \
              --cfg-options model.encoder_weights=PATH
Hardware: 2 CPU cores, 5 to 10 minutes
Score:    not measured; 3 epochs of 45 batches reach val mIoU .39 at this size (docs/transfer.md)
"""

_base_ = ["effunet_b0_camvid.py"]

image_size = (192, 256)
model = dict(photometric=None)  # 540 batches: too few to wear the pictures out
train_cfg = dict(max_epochs=12, val_interval=3)
