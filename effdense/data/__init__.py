"""Data: readers, records, dataset, geometry, samplers, batches and checks. NumPy, OpenCV and torch only.

The way of one sample: ``read_coco`` -> :class:`DetectionRecords` -> :class:`DetectionDataset` (decode, geometry) ->
``collate_detection`` -> the device, where it is normalised.
"""

from effdense.data.check import DataReport, Finding, check_images
from effdense.data.coco import read_coco
from effdense.data.collate import DetectionBatch, collate_detection
from effdense.data.dataset import DetectionDataset, Sample, init_worker
from effdense.data.geometry import HorizontalFlip, ResizePad, ScaleJitterCrop, invert_boxes, transform_boxes
from effdense.data.image_io import read_image, write_jpeg, write_png
from effdense.data.paths import data_root, resolve
from effdense.data.records import ClassMap, DetectionRecords, ImageRecord
from effdense.data.sampler import EvalSampler, SampleIndex, TrainSampler
from effdense.data.shapes import shapes_root, write_shapes

__all__ = [
    "ClassMap",
    "DataReport",
    "DetectionBatch",
    "DetectionDataset",
    "DetectionRecords",
    "EvalSampler",
    "Finding",
    "HorizontalFlip",
    "ImageRecord",
    "ResizePad",
    "Sample",
    "SampleIndex",
    "ScaleJitterCrop",
    "TrainSampler",
    "check_images",
    "collate_detection",
    "data_root",
    "init_worker",
    "invert_boxes",
    "read_coco",
    "read_image",
    "resolve",
    "shapes_root",
    "transform_boxes",
    "write_jpeg",
    "write_png",
    "write_shapes",
]
