"""EfficientUNet-B3 on PASCAL VOC 2012 with the masks of SBD (10 582 pictures, 21 classes), 512 px crops.

Run:      bash tools/dist_train.sh configs/effunet_b3_voc.py GPUS --amp
          with model.encoder_weights=timm:tf_efficientnet_b3.ns_jft_in1k (or a file) behind --cfg-options
Expects:  $EFFDENSE_DATA/VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,SegmentationClassAug,ImageSets/Segmentation}
          with trainaug.txt (docs/datasets.md); with VOC's own 1464 pictures train_dataloader.dataset.augmented=False
Batch:    16 per process; the LR follows the global batch (.01 per 16)
Schedule: 60 epochs, 40k iterations of 16, SGD, polynomial decay
Hardware: one GPU; not timed here
Score:    not trained here; nobody publishes a figure for this network
"""

_base_ = [
    "_base_/default_runtime.py",
    "_base_/datasets/voc_segmentation.py",
    "_base_/schedules/sgd_poly.py",
]

image_size = 512
model = dict(type="SegmentationModel", name="efficientunet_b3", photometric=dict())
default_hooks = dict(ema=dict(decay=0.999))
