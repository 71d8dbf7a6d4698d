# ADE20K's scene parsing benchmark, 20 210 + 2000 pictures, under
# $EFFDENSE_DATA/ADEChallengeData2016/{images,annotations}. Training sees crops of the picture scaled by .5 to 2 of a
# short side of 512 px (for 4:3 pictures 2/3 to 8/3 of what fits the crop), of which no class fills more than three
# quarters, and flips; evaluation a letterbox, scored at the original size.
_files = dict(type="ADE20K", root="ADEChallengeData2016")

train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    dataset=dict(
        **_files,
        split="train",
        transforms=[
            dict(type="ScaleJitterCrop", scale=(0.67, 2.67), class_ratio_cap=0.75),
            dict(type="HorizontalFlip", prob=0.5),
        ],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=4,
    dataset=dict(**_files, split="val", transforms=[dict(type="ResizePad")]),
)
val_evaluator = dict(type="SegmentationMetric")
