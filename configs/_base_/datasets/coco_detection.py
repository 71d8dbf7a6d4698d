# COCO 2017 under $EFFDENSE_DATA/coco: annotations/instances_{train,val}2017.json, train2017/, val2017/.
# Training sees EfficientDet's scale jitter .1-2.0 with a random crop, and flips; evaluation an aspect-keeping
# letterbox.
_root = "coco"

train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    dataset=dict(
        type="CocoDetection",
        root=_root,
        ann_file="annotations/instances_train2017.json",
        image_dir="train2017",
        transforms=[dict(type="ScaleJitterCrop", scale=(0.1, 2.0)), dict(type="HorizontalFlip", prob=0.5)],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=4,
    dataset=dict(
        type="CocoDetection",
        root=_root,
        ann_file="annotations/instances_val2017.json",
        image_dir="val2017",
        transforms=[dict(type="ResizePad")],
    ),
)
val_evaluator = dict(type="CocoMetric")
