"""Data: readers, records, dataset, geometry, samplers, batches and checks. NumPy, OpenCV and torch only.

The way of one sample: ``read_coco`` -> :class:`DetectionRecords` -> :class:`DetectionDataset` (decode, geometry) ->
``collate_detection`` -> the device, where it is normalised.
"""

from effdense.data.augment import CenterCrop, ColorJitter, RandAugment, RandomErasing, RandomResizedCrop
from effdense.data.check import DataReport, Finding, check_images
from effdense.data.classification import ClassificationDataset, collate_classification
from effdense.data.coco import read_coco
from effdense.data.collate import DetectionBatch, collate_detection
from effdense.data.dataset import DetectionDataset, Sample, init_worker
from effdense.data.geometry import HorizontalFlip, ResizePad, ScaleJitterCrop, invert_boxes, transform_boxes
from effdense.data.image_file_check import check_image_files
from effdense.data.image_folder import ClassificationRecords, read_image_folder
from effdense.data.image_io import read_image, write_jpeg, write_png
from effdense.data.mask_check import check_masks
from effdense.data.mask_folder import SegmentationRecords, read_mask_folder
from effdense.data.mixing import BatchMixer
from effdense.data.paths import data_root, resolve
from effdense.data.records import ClassMap, DetectionRecords, ImageRecord
from effdense.data.sampler import EvalSampler, SampleIndex, TrainSampler
from effdense.data.segmentation import SegmentationDataset, collate_segmentation
from effdense.data.shapes import shapes_root, write_shapes
from effdense.data.shapes_folder import write_shapes_folder
from effdense.data.staged import StagedTransforms

__all__ = [
    "BatchMixer",
    "CenterCrop",
    "ClassMap",
    "ClassificationDataset",
    "ClassificationRecords",
    "ColorJitter",
    "DataReport",
    "DetectionBatch",
    "DetectionDataset",
    "DetectionRecords",
    "EvalSampler",
    "Finding",
    "HorizontalFlip",
    "ImageRecord",
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
    "check_image_files",
    "check_images",
    "check_masks",
    "collate_classification",
    "collate_detection",
    "collate_segmentation",
    "data_root",
    "init_worker",
    "invert_boxes",
    "read_coco",
    "read_image",
    "read_image_folder",
    "read_mask_folder",
    "resolve",
    "shapes_root",
    "transform_boxes",
    "write_jpeg",
    "write_png",
    "write_shapes",
    "write_shapes_folder",
]
