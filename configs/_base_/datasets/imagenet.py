# ImageNet-1k under $EFFDENSE_DATA/imagenet: train/<synset>/*.JPEG and val/<synset>/*.JPEG.
# Training sees random resized crops, flips, RandAugment and random erasing; evaluation the centre crop.
_root = "imagenet"

train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    dataset=dict(
        type="ImageFolder",
        root=_root,
        split="train",
        transforms=[
            dict(type="RandomResizedCrop"),
            dict(type="HorizontalFlip", prob=0.5),
            dict(type="RandAugment", num_ops=2, magnitude=9),
            dict(type="RandomErasing", prob=0.2),
        ],
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    dataset=dict(type="ImageFolder", root=_root, split="val", transforms=[dict(type="CenterCrop")]),
)
val_evaluator = dict(type="TopKMetric")
