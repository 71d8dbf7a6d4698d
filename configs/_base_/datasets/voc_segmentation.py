# PASCAL VOC 2012 with the masks of SBD ("aug", 10 582 training pictures; 1449 of validation) under
# $EFFDENSE_DATA/VOCdevkit/VOC2012. Training sees crops of the picture scaled by .5 to 2, of which no class fills more
# than three quarters, and flips; evaluation a letterbox, scored at the original size.
_files = dict(type="VOCSegmentation", root="VOCdevkit/VOC2012")

train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    dataset=dict(
        **_files,
        split="train",
        augmented=True,
        transforms=[
            dict(type="ScaleJitterCrop", scale=(0.5, 2.0), class_ratio_cap=0.75),
            dict(type="HorizontalFlip", prob=0.5),
        ],
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=4,
    dataset=dict(**_files, split="val", transforms=[dict(type="ResizePad")]),
)
val_evaluator = dict(type="SegmentationMetric", classwise=True)
