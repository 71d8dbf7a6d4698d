"""EfficientUNet-B0 on CamVid street scenes (367/101/233 images of 480x360, 11 classes).

Run:      EFFDENSE_DATA=DIR python tools/train.py configs/effunet_b0_camvid.py
          with a trained encoder: --cfg-options model.encoder_weights=PATH
Expects:  $EFFDENSE_DATA/camvid/{train,trainannot,val,valannot,test,testannot}, or
          $EFFDENSE_DATA/camvid/{images,masks,splits/{train,val,test}.txt}
Hardware: a GPU; on a CPU use effunet_b0_camvid_cpu.py
Score:    this schedule (360x480 px, 80 epochs) was not run yet; effunet_b0_camvid_cpu.py (192x256 px, 12 epochs, from a
          trained encoder) reaches val mIoU .483
"""

_base_ = ["_base_/default_runtime.py", "_base_/schedules/adamw_short.py"]

image_size = (360, 480)  # the pictures' own
# Dice counts every class alike: without it poles and signs, under 2 % of the pixels, are learned last.
model = dict(type="SegmentationModel", name="efficientunet_b0", dice_weight=1.0, photometric=dict())

train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    dataset=dict(
        type="CamVid",
        split="train",
        transforms=[
            dict(type="ScaleJitterCrop", scale=(0.5, 2.0), class_ratio_cap=0.75),
            dict(type="HorizontalFlip", prob=0.5),
        ],
    ),
)
val_dataloader = dict(
    batch_size=8, num_workers=2, dataset=dict(type="CamVid", split="val", transforms=[dict(type="ResizePad")])
)
test_dataloader = dict(
    batch_size=8, num_workers=2, dataset=dict(type="CamVid", split="test", transforms=[dict(type="ResizePad")])
)
val_evaluator = dict(type="SegmentationMetric", classwise=True)

train_cfg = dict(max_epochs=80, val_interval=5)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.01))
default_hooks = dict(
    runtime_info=dict(interval=10),
    logger=dict(interval=10),
    ema=dict(decay=0.99),
    precise_bn=dict(type="PreciseBNHook", num_batches=20),
)
