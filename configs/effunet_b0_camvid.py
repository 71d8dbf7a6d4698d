"""EfficientUNet-B0 on CamVid street scenes (367/101/233 images of 480x360, 11 classes).

Run:      EFFDENSE_DATA=DIR python tools/train.py configs/effunet_b0_camvid.py
Expects:  $EFFDENSE_DATA/camvid/{images,masks,splits/{train,val,test}.txt,classes.json}
Score:    this schedule (384x480 px, 40 epochs) was not run yet; at 192x256 px and 3 epochs val mIoU is .39 from a
          trained encoder (model.encoder_weights=PATH), .24 from random weights, 3 seeds each (docs/transfer.md)
"""

_base_ = ["_base_/default_runtime.py", "_base_/schedules/adamw_short.py"]

_root = "camvid"
_files = dict(type="MaskFolder", root=_root, images="images", masks="masks")
image_size = (384, 480)
model = dict(type="SegmentationModel", name="efficientunet_b0")

train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    dataset=dict(
        **_files,
        split_file="splits/train.txt",
        transforms=[dict(type="ScaleJitterCrop", scale=(0.75, 1.5)), dict(type="HorizontalFlip", prob=0.5)],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    dataset=dict(**_files, split_file="splits/val.txt", transforms=[dict(type="ResizePad")]),
)
test_dataloader = dict(
    batch_size=8,
    num_workers=2,
    dataset=dict(**_files, split_file="splits/test.txt", transforms=[dict(type="ResizePad")]),
)
val_evaluator = dict(type="SegmentationMetric", classwise=True)

train_cfg = dict(max_epochs=40, val_interval=5)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.01))
default_hooks = dict(
    runtime_info=dict(interval=10),
    logger=dict(interval=10),
    ema=dict(decay=0.99),
    precise_bn=dict(type="PreciseBNHook", num_batches=20),
)
