"""EfficientDet-D0 on the built-in shapes dataset: no download, a few minutes on a CPU. `make demo` runs this.

Run:      python tools/train.py configs/effdet_b0_shapes.py
Hardware: 4 CPU cores, 4 to 7 minutes
Score:    val AP .459, AP50 .685 (one run, seed 0)
"""

_base_ = ["_base_/default_runtime.py", "_base_/schedules/adamw_short.py"]

image_size = 128
# D0 with two BiFPN cells and two head layers instead of three: a tenth cheaper and quicker to train from scratch.
model = dict(
    type="DetectionModel",
    name="efficientdet_d0",
    fpn_cells=2,
    head_repeats=2,
    anchor_scale=3.0,
    bn_momentum=0.1,
    encoder_bn_momentum=0.1,
)

_splits = dict(train=2400, val=101)
_size = (128, 160)
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    dataset=dict(
        type="ShapesDetection",
        split="train",
        splits=_splits,
        image_size=_size,
        max_objects=5,
        transforms=[dict(type="ScaleJitterCrop", scale=(0.8, 1.25)), dict(type="HorizontalFlip", prob=0.5)],
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=2,
    dataset=dict(
        type="ShapesDetection",
        split="val",
        splits=_splits,
        image_size=_size,
        max_objects=5,
        transforms=[dict(type="ResizePad")],
    ),
)
val_evaluator = dict(type="CocoMetric", classwise=True)

train_cfg = dict(max_epochs=5, val_interval=1)
optim_wrapper = dict(optimizer=dict(lr=3e-3, weight_decay=0.05))
default_hooks = dict(
    runtime_info=dict(interval=10),
    logger=dict(interval=10),
    ema=dict(decay=0.98),
    precise_bn=dict(type="PreciseBNHook", num_batches=20, freeze_from=3),
)
