"""EfficientNet-B4 under a BiFPN of P2-P7 on PASCAL VOC 2012: the segmentor of the EfficientDet paper (section 5.2).

Run:      bash tools/dist_train.sh configs/bifpnseg_b4_voc.py GPUS --amp
          with model.encoder_weights=timm:tf_efficientnet_b4.aa_in1k (or a file) behind --cfg-options
Expects:  $EFFDENSE_DATA/VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,SegmentationClassAug,ImageSets/Segmentation}
          with trainaug.txt (docs/datasets.md)
Batch:    16 per process; the LR follows the global batch (.01 per 16)
Schedule: 60 epochs, 40k iterations of 16, SGD, polynomial decay: ours, the paper does not give its own
Hardware: one GPU; not timed here
Score:    the paper's Table 3: 81.74 mIoU, 17 M parameters, 18 B FLOPs, from ImageNet weights, without test-time
          augmentation; not re-trained here
"""

_base_ = [
    "_base_/default_runtime.py",
    "_base_/datasets/voc_segmentation.py",
    "_base_/schedules/sgd_poly.py",
]

image_size = 512
model = dict(type="SegmentationModel", name="bifpnseg_b4", photometric=dict())
default_hooks = dict(ema=dict(decay=0.999))
