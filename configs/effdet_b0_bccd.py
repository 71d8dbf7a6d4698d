"""EfficientDet-D0 on BCCD blood cells (205/87/72 images, 3 classes): a small real dataset, trainable on a CPU.

Run:      EFFDENSE_DATA=DIR python tools/train.py configs/effdet_b0_bccd.py
Expects:  $EFFDENSE_DATA/bccd/{annotations/instances_{train,val,test}.json,images}
Hardware: 4 CPU cores, 15 minutes
Score:    val AP .405, AP50 .606 (one run, seed 0, from random weights); trained encoder weights go in with
          --cfg-options model.encoder_weights=PATH
"""

_base_ = ["_base_/default_runtime.py", "_base_/schedules/adamw_short.py"]

_root = "bccd"
image_size = 320
model = dict(type="DetectionModel", name="efficientdet_d0", bn_momentum=0.1, encoder_bn_momentum=0.1)

train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    dataset=dict(
        type="CocoDetection",
        root=_root,
        ann_file="annotations/instances_train.json",
        image_dir="images",
        transforms=[dict(type="ScaleJitterCrop", scale=(0.7, 1.5)), dict(type="HorizontalFlip", prob=0.5)],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    dataset=dict(
        type="CocoDetection",
        root=_root,
        ann_file="annotations/instances_val.json",
        image_dir="images",
        transforms=[dict(type="ResizePad")],
    ),
)
test_dataloader = dict(
    batch_size=8,
    num_workers=2,
    dataset=dict(
        type="CocoDetection",
        root=_root,
        ann_file="annotations/instances_test.json",
        image_dir="images",
        transforms=[dict(type="ResizePad")],
    ),
)
val_evaluator = dict(type="CocoMetric", classwise=True)

train_cfg = dict(max_epochs=24, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=2e-3, weight_decay=0.05))
default_hooks = dict(
    runtime_info=dict(interval=10),
    logger=dict(interval=10),
    ema=dict(decay=0.99),
    precise_bn=dict(type="PreciseBNHook", num_batches=25, freeze_from=16),
)
