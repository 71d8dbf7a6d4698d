"""``effdense analyze``: write a report of what a detector, segmentor or classifier gets wrong."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from effdense.errors import ConfigError, DataError

HELP = "write a report of what a model gets wrong, as HTML that opens offline"


def add(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument(
        "source", nargs="?", metavar="RUN",
        help="folder of a training run (its config is Python code that is run: use runs you trust), or a checkpoint",
    )  # fmt: skip
    parser.add_argument("--out", metavar="DIR", help="folder of the report (default RUN/analysis_<split>)")
    parser.add_argument("--gallery", type=int, default=24, metavar="N", help="worst pictures to show (default 24)")
    group = parser.add_argument_group("a run")
    group.add_argument("--split", choices=("val", "test", "train"), default="val", help="which split (default val)")
    group.add_argument("--config", metavar="FILE", help="config, where it is not the only .py in RUN")
    group.add_argument("--checkpoint", metavar="FILE", help="checkpoint (default RUN/best.pth, else the newest)")
    group.add_argument(
        "--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="override config entries, e.g. val_dataloader.batch_size=4",
    )  # fmt: skip
    group = parser.add_argument_group("detections that are there already, instead of a run")
    group.add_argument("--annotations", metavar="JSON", help="COCO annotation file")
    group.add_argument("--predictions", metavar="JSON", help="COCO results: image_id, category_id, bbox, score")
    group.add_argument("--images", metavar="DIR", help="folder of the pictures, for the galleries")
    group.add_argument("--iou-type", choices=("bbox", "segm"), default="bbox", help="compare boxes or masks")
    group = parser.add_argument_group("of detectors")
    group.add_argument(
        "--score-threshold", type=float, metavar="S",
        help="detections shown and counted in the confusion matrix (default where F1 is best)",
    )  # fmt: skip
    group.add_argument("--iou", type=float, default=0.5, help="IoU from which a detection is right (default 0.5)")


def run(arguments: argparse.Namespace) -> int | None:
    """Do it; the exit code."""
    if arguments.gallery < 0:
        raise ConfigError(f"--gallery must be at least 0, got {arguments.gallery}.")
    if (arguments.source is None) == (arguments.predictions is None and arguments.annotations is None):
        raise ConfigError(
            "analyze takes the folder of a run, or --annotations JSON and --predictions JSON"
            + (", not both." if arguments.source is not None else ".")
        )
    from effdense.report.predictions import check_iou

    check_iou(arguments.iou)  # before minutes of evaluation
    if arguments.score_threshold is not None and not arguments.score_threshold >= 0:
        raise ConfigError(f"--score-threshold must be at least 0, as scores are, got {arguments.score_threshold:g}.")
    document, numbers, lines, out = _of_files(arguments) if arguments.source is None else _of_run(arguments)
    from effdense.report import write_report

    path = write_report(document, numbers, out)
    print("\n".join([*lines, "", f"report: {path}"]))
    return 0


def _facts(**named: str) -> list[tuple[str, str]]:
    import effdense

    facts = [(name.replace("_", " "), value) for name, value in named.items() if value]
    return [*facts, ("written", time.strftime("%Y-%m-%d %H:%M")), ("effdense", effdense.__version__)]


def _of_files(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any], list[str], Path]:
    """Annotation file and result file to a report."""
    for name in ("annotations", "predictions"):
        if getattr(arguments, name) is None:
            raise ConfigError(f"--{name} JSON is missing: --annotations and --predictions go together.")
    for name in ("config", "checkpoint", "cfg_options"):
        if getattr(arguments, name):
            raise ConfigError(f"--{name.replace('_', '-')} is for a run; with --predictions no model is built.")
    from effdense.evaluation.columns import Found, Truth
    from effdense.report.images import from_folder
    from effdense.report.predictions import detection_result
    from effdense.report.write import check_folder

    annotations, predictions = Path(arguments.annotations).expanduser(), Path(arguments.predictions).expanduser()
    out = Path(arguments.out).expanduser() if arguments.out else predictions.with_name(f"{predictions.stem}_analysis")
    check_folder(out)
    folder = None if arguments.images is None else Path(arguments.images).expanduser()
    if folder is not None and not folder.is_dir():
        raise DataError(f"--images: there is no folder at {folder.absolute()}.")
    masks = arguments.iou_type == "segm"
    truth = Truth.from_coco(annotations, masks=masks)
    found = Found.of(predictions, truth, masks=masks)
    names = truth.file_names or tuple(f"image {image_id}" for image_id in truth.image_ids.tolist())
    result = detection_result(
        truth, found, from_folder(folder, truth.file_names), names,
        iou_type=arguments.iou_type, iou=arguments.iou, threshold=arguments.score_threshold,
    )  # fmt: skip
    facts = _facts(annotations=str(annotations), predictions=str(predictions), images=str(folder or ""))
    return (*_detection_report(f"{predictions.stem} on {annotations.stem}", facts, result, arguments.gallery), out)


def _of_run(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any], list[str], Path]:
    """A run folder to a report: its split is evaluated once."""
    for name in ("images", "annotations", "predictions"):
        if getattr(arguments, name) is not None:
            raise ConfigError(f"--{name} is for detections that are there already; a run knows its data.")
    if arguments.iou_type != "bbox":
        raise ConfigError("--iou-type segm is for --predictions: the detectors of a run give boxes.")
    from effdense.engine.analysis import predict_split, run_files
    from effdense.engine.config import parse_option
    from effdense.report.write import check_folder

    files = run_files(arguments.source, config=arguments.config, checkpoint=arguments.checkpoint)
    split = arguments.split
    out = Path(arguments.out).expanduser() if arguments.out else files.folder / f"analysis_{split}"
    check_folder(out)
    options = dict(parse_option(text) for text in arguments.cfg_options)
    with tempfile.TemporaryDirectory(prefix="effdense-analyze-") as scratch:
        done = predict_split(files.config, files.checkpoint, split, Path(scratch), options)
        records = done.dataset.records
        source = getattr(records, "annotation_file", None) or getattr(records, "source", None)
        facts = _facts(
            run=str(files.folder), checkpoint=done.checkpoint_note, split=f"{split}, {len(records)} images",
            data=str(source or ""), classes=f"{len(done.classes)}",
        )  # fmt: skip
        title = f"{files.folder.resolve().name}: {split}"
        if done.task == "detection":
            return (*_detection_of_run(done, title, facts, arguments), out)
        if done.task == "segmentation":
            return (*_segmentation_of_run(done, title, facts, arguments), out)
        return (*_classification_of_run(done, title, facts, arguments), out)


def _detection_report(
    title: str, facts: list[tuple[str, str]], result: Any, gallery: int
) -> tuple[Any, dict[str, Any], list[str]]:
    from effdense.report.detection import detection_report

    document, numbers = detection_report(title, facts, result, gallery=gallery)
    lines = [result.scores.table(), "", result.errors.table(), "", *result.mistakes, result.errors.advice()]
    return document, {"title": title, "facts": dict(facts), **numbers}, lines


def _detection_of_run(
    done: Any, title: str, facts: list[tuple[str, str]], arguments: argparse.Namespace
) -> tuple[Any, dict[str, Any], list[str]]:
    from effdense.evaluation.columns import Found
    from effdense.report.predictions import detection_result, record_loader, truth_of

    truth = truth_of(done.dataset.records)
    load, names = record_loader(done.dataset.records, truth)
    result = detection_result(
        truth, Found.of(done.predictions, truth), load, names, iou=arguments.iou, threshold=arguments.score_threshold
    )
    return _detection_report(title, facts, result, arguments.gallery)


def _segmentation_of_run(
    done: Any, title: str, facts: list[tuple[str, str]], arguments: argparse.Namespace
) -> tuple[Any, dict[str, Any], list[str]]:
    from effdense.report.predictions import masked_images
    from effdense.report.segmentation import segmentation_report

    images = masked_images(done.dataset, done.predictions)
    document, numbers = segmentation_report(
        title, facts, done.scores, images, palette=done.palette, gallery=arguments.gallery
    )
    return document, {"title": title, "facts": dict(facts), **numbers}, [done.scores.table()]


def _classification_of_run(
    done: Any, title: str, facts: list[tuple[str, str]], arguments: argparse.Namespace
) -> tuple[Any, dict[str, Any], list[str]]:
    from effdense.report.classification import classification_report
    from effdense.report.predictions import answers_of, path_loader

    document, numbers = classification_report(
        title, facts, done.scores, answers_of(done.predictions), path_loader(), gallery=arguments.gallery
    )
    return document, {"title": title, "facts": dict(facts), **numbers}, [done.scores.table()]
