"""EfficientUNet-B0 on the label maps of the built-in generated shapes: no download, minutes on a CPU.

Run:      python tools/train.py configs/effunet_b0_shapes.py
Hardware: 2 CPU cores, 10 to 15 minutes
Score:    val mIoU .27 after four of the five epochs (one run, seed 0): the shapes are found, their kinds not yet told
          apart; B0 from random weights needs a longer schedule or model.encoder_weights
"""

_base_ = ["_base_/default_runtime.py", "_base_/schedules/adamw_short.py"]

image_size = 128
model = dict(type="SegmentationModel", name="efficientunet_b0")

_splits = dict(train=2400, val=101)
_size = (128, 160)
_files = dict(type="ShapesSegmentation", splits=_splits, image_size=_size, max_objects=5)
train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    dataset=dict(
        **_files,
        split="train",
        transforms=[dict(type="ScaleJitterCrop", scale=(0.8, 1.25)), dict(type="HorizontalFlip", prob=0.5)],
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=2,
    dataset=dict(**_files, split="val", transforms=[dict(type="ResizePad")]),
)
val_evaluator = dict(type="SegmentationMetric", classwise=True)

train_cfg = dict(max_epochs=5, val_interval=1)
optim_wrapper = dict(optimizer=dict(lr=2e-3, weight_decay=0.01))
default_hooks = dict(
    runtime_info=dict(interval=10),
    logger=dict(interval=10),
    ema=dict(decay=0.98),
    precise_bn=dict(type="PreciseBNHook", num_batches=20),
)
