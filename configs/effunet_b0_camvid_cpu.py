"""The segmentor of effunet_b0_camvid.py in minutes on a CPU: 192x256 px, 12 epochs, from a trained encoder.

Run:      EFFDENSE_DATA=DIR python tools/train.py configs/effunet_b0_camvid_cpu.py \
              --cfg-options model.encoder_weights=PATH
Hardware: one thread of 2 shared CPU cores, 12 minutes
Score:    val mIoU .483 (.411, .447, .471, .483 at epochs 3, 6, 9, 12), test mIoU .478, from an encoder trained on
          salient objects (TRACER TE-0); one run, seed 0
"""

_base_ = ["effunet_b0_camvid.py"]

image_size = (192, 256)
model = dict(photometric=None)  # 540 batches: too few to wear the pictures out
train_cfg = dict(max_epochs=12, val_interval=3)
