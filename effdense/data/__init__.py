"""Data: readers, records, dataset, geometry, samplers, batches and checks. NumPy, OpenCV and torch only.

The way of one sample: ``read_coco`` -> :class:`DetectionRecords` -> :class:`DetectionDataset` (decode, geometry) ->
``collate_detection`` -> the device, where it is normalised.
"""

from effdense.data.checks.check import DataReport, Finding, check_images
from effdense.data.checks.image_file_check import check_image_files
from effdense.data.checks.mask_check import check_masks
from effdense.data.classification import ClassificationDataset, collate_classification
from effdense.data.collate import DetectionBatch, collate_detection
from effdense.data.combining.combine import concatenate, map_classes
from effdense.data.dataset import DetectionDataset, Sample, init_worker
from effdense.data.generated.shapes import shapes_root, write_shapes
from effdense.data.generated.shapes_folder import write_shapes_folder
from effdense.data.image_io import read_image, write_jpeg, write_png
from effdense.data.paths import data_root, resolve
from effdense.data.readers.ade20k import read_ade20k
from effdense.data.readers.camvid import read_camvid
from effdense.data.readers.cityscapes import read_cityscapes
from effdense.data.readers.coco import read_coco
from effdense.data.readers.coco_semantic import read_coco_panoptic, read_coco_stuff
from effdense.data.readers.formats import (
    FORMATS,
    DataSource,
    detect,
    read_classification_split,
    read_segmentation_split,
    read_split,
)
from effdense.data.readers.image_folder import ClassificationRecords, read_image_folder
from effdense.data.readers.mask_folder import SegmentationRecords, read_mask_folder
from effdense.data.readers.mask_objects import read_mask_objects
from effdense.data.readers.voc_detection import read_voc_detection
from effdense.data.readers.voc_segmentation import read_voc
from effdense.data.readers.yolo import read_yolo
from effdense.data.records import ClassMap, DetectionRecords, ImageRecord
from effdense.data.sampler import EvalSampler, SampleIndex, TrainSampler
from effdense.data.segmentation import SegmentationDataset, collate_segmentation
from effdense.data.transforms.augment import CenterCrop, ColorJitter, RandAugment, RandomErasing, RandomResizedCrop
from effdense.data.transforms.geometry import (
    HorizontalFlip,
    ResizePad,
    ScaleJitterCrop,
    VerticalFlip,
    invert_boxes,
    transform_boxes,
)
from effdense.data.transforms.mixing import BatchMixer
from effdense.data.transforms.photometric import PhotometricJitter
from effdense.data.transforms.staged import StagedTransforms
from effdense.data.writing.convert import Conversion, convert_dataset
from effdense.data.writing.writers import write_dataset

__all__ = [
    "FORMATS",
    "BatchMixer",
    "CenterCrop",
    "ClassMap",
    "ClassificationDataset",
    "ClassificationRecords",
    "ColorJitter",
    "Conversion",
    "DataReport",
    "DataSource",
    "DetectionBatch",
    "DetectionDataset",
    "DetectionRecords",
    "EvalSampler",
    "Finding",
    "HorizontalFlip",
    "ImageRecord",
    "PhotometricJitter",
    "RandAugment",
    "RandomErasing",
    "RandomResizedCrop",
    "ResizePad",
    "Sample",
    "SampleIndex",
    "ScaleJitterCrop",
    "SegmentationDataset",
    "SegmentationRecords",
    "StagedTransforms",
    "TrainSampler",
    "VerticalFlip",
    "check_image_files",
    "check_images",
    "check_masks",
    "collate_classification",
    "collate_detection",
    "collate_segmentation",
    "concatenate",
    "convert_dataset",
    "data_root",
    "detect",
    "init_worker",
    "invert_boxes",
    "map_classes",
    "read_ade20k",
    "read_camvid",
    "read_cityscapes",
    "read_classification_split",
    "read_coco",
    "read_coco_panoptic",
    "read_coco_stuff",
    "read_image",
    "read_image_folder",
    "read_mask_folder",
    "read_mask_objects",
    "read_segmentation_split",
    "read_split",
    "read_voc",
    "read_voc_detection",
    "read_yolo",
    "resolve",
    "shapes_root",
    "transform_boxes",
    "write_dataset",
    "write_jpeg",
    "write_png",
    "write_shapes",
    "write_shapes_folder",
]
