# Cityscapes, 2975 + 500 pictures of 2048x1024 px with fine masks, under $EFFDENSE_DATA/cityscapes/{leftImg8bit,gtFine}.
# Training sees crops of 512x1024 of the picture scaled by .5 to 2 (1 to 4 times what fits the crop), of which no class
# fills more than three quarters, and flips; evaluation the picture as it is (image_size of the config: (1024, 2048)).
_files = dict(type="Cityscapes", root="cityscapes")

train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    persistent_workers=True,
    dataset=dict(
        **_files,
        split="train",
        transforms=[
            dict(type="ScaleJitterCrop", size=(512, 1024), scale=(1.0, 4.0), class_ratio_cap=0.75),
            dict(type="HorizontalFlip", prob=0.5),
        ],
    ),
)
val_dataloader = dict(
    batch_size=2,
    num_workers=4,
    dataset=dict(**_files, split="val", transforms=[dict(type="ResizePad")]),
)
val_evaluator = dict(type="SegmentationMetric", classwise=True)
