"""EfficientUNet-B0 on pictures and masks of your own: a base to inherit from, with the lines that name your set.

Run:      copy the five lines of docs/segmentation.md into configs/NAME.py, then python tools/train.py configs/NAME.py;
          a set of exactly this layout: python tools/train.py configs/effunet_b0_masks.py
Expects:  $EFFDENSE_DATA/masks/{images,masks,splits/{train,val}.txt,classes.json}
Hardware: a GPU, or a CPU with a small image_size
Score:    depends on the set
"""

_base_ = ["_base_/default_runtime.py", "_base_/schedules/adamw_short.py"]

image_size = 512
model = dict(type="SegmentationModel", name="efficientunet_b0", dice_weight=1.0, photometric=dict())

_files = dict(type="MaskFolder", root="masks", images="images", masks="masks")
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    dataset=dict(
        **_files,
        split_file="splits/train.txt",
        transforms=[dict(type="ScaleJitterCrop", scale=(0.5, 2.0)), dict(type="HorizontalFlip", prob=0.5)],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    dataset=dict(**_files, split_file="splits/val.txt", transforms=[dict(type="ResizePad")]),
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
