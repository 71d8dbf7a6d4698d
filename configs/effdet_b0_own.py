"""EfficientDet-D0 on a set of your own in any format (COCO, YOLO, Pascal VOC, masks): a base to inherit from.

Run:      python tools/train.py configs/effdet_b0_own.py --cfg-options train_dataloader.dataset.root=DIR
          val_dataloader.dataset.root=DIR; DIR absolute, or under EFFDENSE_DATA
Expects:  $EFFDENSE_DATA/own with the splits train and val, in a layout of docs/datasets.md
Hardware: a GPU, or a CPU with a small image_size
Score:    depends on the set
"""

_base_ = ["_base_/default_runtime.py", "_base_/schedules/adamw_short.py"]

image_size = 512
model = dict(type="DetectionModel", name="efficientdet_d0", bn_momentum=0.1, encoder_bn_momentum=0.1)

train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    dataset=dict(
        type="DetectionData",
        root="own",
        split="train",
        transforms=[dict(type="ScaleJitterCrop", scale=(0.7, 1.5)), dict(type="HorizontalFlip", prob=0.5)],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    dataset=dict(type="DetectionData", root="own", split="val", transforms=[dict(type="ResizePad")]),
)
val_evaluator = dict(type="CocoMetric", classwise=True)

train_cfg = dict(max_epochs=40, val_interval=5)
optim_wrapper = dict(optimizer=dict(lr=2e-3, weight_decay=0.05))
default_hooks = dict(
    runtime_info=dict(interval=10),
    logger=dict(interval=10),
    ema=dict(decay=0.99),
    precise_bn=dict(type="PreciseBNHook", num_batches=20),
)
