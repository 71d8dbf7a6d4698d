"""The console script ``effdense``; ``tools/train.py`` and ``tools/test.py`` are doors to the same two verbs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effdense.errors import ConfigError, EffdenseError, did_you_mean
from effdense.verbs import analyze, browse, check, convert, curves, debug

_VERBS = {"check": check, "convert": convert, "browse": browse, "analyze": analyze, "curves": curves, "debug": debug}


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    from effdense.engine.config import OptionsAction

    parser.add_argument(
        "--work-dir", help="folder for checkpoints, logs and pictures (default work_dirs/<config name>)"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=OptionsAction,
        metavar="KEY=VALUE",
        help="override config entries, e.g. train_cfg.max_epochs=10 optim_wrapper.optimizer.lr=0.01",
    )
    parser.add_argument("--launcher", choices=("none", "pytorch", "slurm"), default="none", help="job launcher")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def _train(arguments: argparse.Namespace) -> None:
    from effdense.engine.run import train

    train(
        arguments.config,
        work_dir=arguments.work_dir,
        resume=arguments.resume,
        amp=arguments.amp,
        auto_scale_lr=arguments.auto_scale_lr,
        options=arguments.cfg_options,
        launcher=arguments.launcher,
    )


def _test(arguments: argparse.Namespace) -> None:
    from effdense.engine.run import test

    test(
        arguments.config,
        arguments.checkpoint,
        work_dir=arguments.work_dir,
        split=arguments.split,
        out=arguments.out,
        show_dir=arguments.show_dir,
        inference=_inference(arguments),
        options=arguments.cfg_options,
        launcher=arguments.launcher,
    )


def _add_inference_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how a segmentor looks at a picture (default: as the config or checkpoint says)")
    group.add_argument("--slide", action="store_true", help="slide a window over the picture at its original size")
    group.add_argument(
        "--window", metavar="N|H,W", help="of --slide: px of the window (default the model's image_size)"
    )
    group.add_argument(
        "--stride", metavar="N|H,W", help="of --slide: px from one window to the next (default 2/3 of the window)"
    )
    group.add_argument(
        "--tta", action="store_true",
        help="average over scales 0.5 to 1.75 and mirrored copies: 12 passes or more, slower and a little better",
    )  # fmt: skip


def _inference(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the flags change of ``InferenceOptions``."""
    from effdense.models.segmentation.inference import TTA_SCALES

    changes: dict[str, Any] = {"mode": "slide"} if arguments.slide else {}
    for name in ("window", "stride"):
        if getattr(arguments, name) is not None:
            changes[name] = _image_size(getattr(arguments, name), f"--{name}")
    return {**changes, "scales": TTA_SCALES, "flip": True} if arguments.tta else changes


def _list(arguments: argparse.Namespace) -> None:
    from effdense import list_models

    names = list_models(arguments.pattern)
    if not names:
        near = did_you_mean(arguments.pattern, list_models())
        raise ConfigError(f"no model matches {arguments.pattern!r}; effdense list shows all.{near}")
    if not arguments.long:
        print("\n".join(names))
        return
    from effdense import cli_tables
    from effdense.models.costs import model_cost

    print(cli_tables.list_header())
    for name in names:
        print(cli_tables.cost_line(name, model_cost(name)), flush=True)


def _info(arguments: argparse.Namespace) -> None:
    from effdense import cli_tables

    if cli_tables.is_checkpoint(arguments.model):
        facts = cli_tables.describe_checkpoint(arguments.model)
    else:
        size = _image_size(arguments.image_size)
        facts = cli_tables.describe_model(arguments.model, size, arguments.num_classes)
    print(cli_tables.aligned(list(facts)))


def _fit(arguments: argparse.Namespace) -> None:
    from effdense import cli_tables
    from effdense.models.search import Budget, Timing, fit, known_family, parse_amount

    gmacs, params = arguments.max_gmacs, arguments.max_params
    budget = Budget(
        macs=None if gmacs is None else parse_amount(gmacs, unit=1e9),
        params=None if params is None else parse_amount(params),
        latency_ms=arguments.max_latency_ms,
    )
    size = _image_size(arguments.image_size)
    if isinstance(size, tuple):
        raise ConfigError(f"fit compares models at a square size, got --image-size {arguments.image_size}.")
    timed = budget.latency_ms is not None
    timing = Timing(arguments.device, arguments.batch, arguments.threads)
    family = known_family(arguments.family)
    if timed:
        head = "; counted with the ImageNet head, timed without it" if family.startswith("efficientnet") else ""
        print(f"timed on {timing}{head}")
    print(cli_tables.fit_header(timed))
    found = fit(
        family, budget, image_size=size, any_phi=arguments.any_phi, timing=timing,
        report=lambda one: print(cli_tables.fit_line(one, with_latency=timed), flush=True),
    )  # fmt: skip
    print(f"\nthe largest under the budget:\n{cli_tables.fit_line(found.best, best=True, with_latency=timed)}")


def _image_size(text: str | None, flag: str = "--image-size") -> int | tuple[int, int] | None:
    """``512`` or ``384,640`` (height, width)."""
    if text is None:
        return None
    sides = text.split(",")
    if len(sides) > 2 or not all(side.strip().isdigit() for side in sides):
        raise ConfigError(f"{flag} is px or HEIGHT,WIDTH, for example 512 or 384,640; got {text!r}.")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def _predict(arguments: argparse.Namespace) -> None:
    from effdense import load

    model = load(arguments.checkpoint)
    inference = _inference(arguments)
    if inference and model.task != "segmentation":
        raise ConfigError(f"--slide, --window, --stride and --tta are for segmentors, this is a {model.task} model.")
    written: set[Path] = set()
    for result in model.stream(arguments.source, score_threshold=arguments.score_threshold, **inference):
        print(f"{result.path}: {result!r}")
        if arguments.out_dir:
            source = Path(str(result.path))
            target = Path(arguments.out_dir) / f"{source.stem}.jpg"
            if target in written:  # a.png beside a.jpg, or pictures of several folders
                target = target.with_name(f"{source.name}.{len(written)}.jpg")
            if target.resolve() == source.resolve():
                raise ConfigError(f"--out-dir would overwrite the input picture {source}; name another folder.")
            written.add(result.save(target))


def _add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-gmacs", metavar="G", help="multiply-adds of one image, in G (or 400M)")
    parser.add_argument("--max-params", metavar="N", help="parameters, for example 10M")
    parser.add_argument("--max-latency-ms", type=float, metavar="MS", help="median time of one batch")
    parser.add_argument(
        "--family", default="efficientnet", metavar="F",
        help="efficientnet (default), efficientnet_lite, efficientnetv2, efficientdet or efficientdet_lite",
    )  # fmt: skip
    parser.add_argument("--image-size", metavar="N", help="px, the same for all (default each model's own)")
    parser.add_argument("--any-phi", action="store_true", help="search compound-scaled members between the published")
    parser.add_argument("--batch", type=int, default=1, help="images at once, for the latency (default 1)")
    parser.add_argument("--threads", type=int, help="CPU threads, for the latency (default torch's)")
    parser.add_argument("--device", help="for the latency (default the GPU if there is one)")
    parser.set_defaults(run=_fit)


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The argument parser. The run options are only built for the verb that is called, since they import the engine."""
    parser = argparse.ArgumentParser(
        prog="effdense", description="Efficient dense prediction: train, evaluate, predict."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)

    train = verbs.add_parser("train", help="train a model as a config says")
    train.add_argument("config", help="config file (Python code that is run: use files you trust)")
    train.add_argument(
        "--resume", nargs="?", const=True, default=False, metavar="PATH",
        help="go on with the newest checkpoint of the work dir, or with PATH",
    )  # fmt: skip
    train.add_argument("--amp", action="store_true", help="mixed precision (bfloat16, or float16 on older GPUs)")
    train.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the LR by batch / auto_scale_lr.base_batch_size"
    )
    train.set_defaults(run=_train)

    test = verbs.add_parser("test", help="evaluate a checkpoint")
    test.add_argument("config", help="config file (Python code that is run: use files you trust)")
    test.add_argument("checkpoint", help="checkpoint or weight file")
    test.add_argument("--split", choices=("val", "test", "train"), default="val", help="which split to score")
    test.add_argument(
        "--out",
        metavar="JSON",
        help="write the predictions: COCO result JSON, a folder of masks with scores.json, or the best classes",
    )
    test.add_argument("--show-dir", metavar="DIR", help="write a truth-beside-prediction picture of every image")
    _add_inference_options(test)
    test.set_defaults(run=_test)

    predict = verbs.add_parser("predict", help="detect, segment or classify images")
    predict.add_argument("checkpoint", help="checkpoint or run folder")
    predict.add_argument("source", help="image, folder or pattern")
    predict.add_argument("--out-dir", metavar="DIR", help="write pictures here")
    predict.add_argument("--score-threshold", type=float, default=0.3, help="of detectors: leave weaker boxes out")
    _add_inference_options(predict)
    predict.set_defaults(run=_predict)

    names = verbs.add_parser("list", help="list model names")
    names.add_argument("pattern", nargs="?", default="*", help="shell-style pattern")
    names.add_argument("--long", action="store_true", help="with parameters, MACs and input size")
    names.set_defaults(run=_list)

    info = verbs.add_parser("info", help="what a model costs and is made of, or what a checkpoint says of itself")
    info.add_argument("model", help="model name (also efficientnet_phi2.5 and the like), checkpoint or run folder")
    info.add_argument("--image-size", metavar="N|H,W", help="px to count at (default the model's own)")
    info.add_argument("--num-classes", type=int, metavar="K", help="default 90 for detectors, 1000 for encoders")
    info.set_defaults(run=_info)

    _add_fit(verbs.add_parser("fit", help="find the largest model of a family under a budget, by measuring"))

    for name, module in _VERBS.items():
        one = verbs.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add(one)
        one.set_defaults(run=module.run)

    if verb in ("train", "test"):
        _add_run_options({"train": train, "test": test}[verb])
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; an error a user can act on is one paragraph on stderr and exit code 2, not a traceback."""
    arguments: Any = list(sys.argv[1:] if argv is None else argv)
    parsed = build_parser(arguments[0] if arguments else None).parse_args(arguments)
    try:
        code = parsed.run(parsed)
        sys.stdout.flush()
        return int(code or 0)
    except EffdenseError as error:
        if not error.said_by_another_rank:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:  # Ctrl-C: what the verb says of it, and the exit code that shells expect
        print(f"\n{' '.join(map(str, error.args)) or 'interrupted.'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has left: the interpreter's own flush at exit must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
