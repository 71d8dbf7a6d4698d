"""``effdense browse``: draw what the model will really see, after every stage.

Each row is a sample of the config's loader: the picture with its truth, the same after every transform, and the input
of the network after collating, mixing, colour jitter and normalisation, turned back into a picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from effdense.errors import ConfigError

HELP = "draw what the model will really see, after every stage"
SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_SAMPLES = 2000


def add(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("config", help="config file (Python code that is run: use files you trust)")
    parser.add_argument(
        "--split", choices=("train", "val", "test"), default="train", help="which split (default train)"
    )
    parser.add_argument("-n", "--num", type=int, default=16, metavar="N", help="how many samples (default 16)")
    parser.add_argument(
        "--stage", default="all",
        help="all (default), raw, final, or the name of a transform; several with commas",
    )  # fmt: skip
    parser.add_argument(
        "--epoch", type=int, default=1,
        help="of training, counted from 1 as the log does: its first samples and what is drawn for them (default 1)",
    )  # fmt: skip
    parser.add_argument("--index", metavar="I,J", help="show these positions of the data set (from 0) instead")
    parser.add_argument("--seed", type=int, help="default the config's randomness.seed, else 0")
    parser.add_argument("--columns", type=int, help="cells in a row (default one per stage; 4 for a single stage)")
    parser.add_argument("--cell", type=int, default=320, metavar="PX", help="width of a cell (default 320)")
    parser.add_argument(
        "--out", metavar="FILE",
        help=".png or .jpg; more pages get _2, _3, ... (default work_dirs/CONFIG/browse/SPLIT_epochE.png)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="write over an --out that exists")
    parser.add_argument(
        "--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override config entries"
    )


def run(arguments: argparse.Namespace) -> int | None:
    """Draw and write the pages; the exit code."""
    from effdense.engine.browsing import chosen_stages, open_browser
    from effdense.engine.config import load_config, parse_option
    from effdense.visualize.browse import pages
    from effdense.visualize.picture import save_picture

    indices = _indices(arguments.index)
    _check_numbers(arguments)
    target = _target(arguments)
    cfg = load_config(arguments.config, dict(parse_option(text) for text in arguments.cfg_options))
    browser = open_browser(cfg, arguments.split, epoch=arguments.epoch, indices=indices, seed=arguments.seed)
    stages = chosen_stages(browser, arguments.stage)
    each = len(browser.stages) if stages is None else len(stages)
    columns = arguments.columns or (4 if each == 1 else each)
    count = arguments.num if indices is None else len(indices)
    written: list[Path] = []

    def said() -> Iterator[Any]:
        for seen in browser.samples(count, stages):
            print(seen.line, flush=True)
            yield seen.views

    epoch = f", epoch {browser.epoch}" if arguments.split == "train" else ""
    only = f", {stages[0]}" if stages is not None and len(stages) == 1 else ""
    heading = f"{Path(arguments.config).stem}: {arguments.split}{epoch}, seed {browser.seed}{only}"
    for page in pages(said(), browser.classes, columns=columns, side=arguments.cell, heading=heading):
        file = target if not written else target.with_name(f"{target.stem}_{len(written) + 1}{target.suffix}")
        _refuse_existing(file, arguments)
        written.append(save_picture(page, file))
    for file in written:
        print(f"written: {file}")
    return None


def _check_numbers(arguments: argparse.Namespace) -> None:
    if not 1 <= arguments.num <= MAX_SAMPLES:
        raise ConfigError(f"-n must lie in 1..{MAX_SAMPLES}, got {arguments.num}.")
    if arguments.columns is not None and not 1 <= arguments.columns <= 32:
        raise ConfigError(f"--columns must lie in 1..32, got {arguments.columns}.")
    if not 64 <= arguments.cell <= 2048:
        raise ConfigError(f"--cell must lie in 64..2048 px, got {arguments.cell}.")
    if arguments.seed is not None and arguments.seed < 0:
        raise ConfigError(f"--seed must not be negative, got {arguments.seed}.")


def _indices(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts) or len(parts) > MAX_SAMPLES:
        raise ConfigError(f"--index takes positions in the data set with commas, for example 0,17,23; got {text!r}.")
    return [int(part) for part in parts]


def _target(arguments: argparse.Namespace) -> Path:
    """Where the first page goes. Raises: ConfigError before any work is done."""
    if arguments.out is None:
        name = (
            f"{arguments.split}_epoch{arguments.epoch}.png" if arguments.split == "train" else f"{arguments.split}.png"
        )
        return Path("work_dirs") / Path(arguments.config).stem / "browse" / name
    target = Path(arguments.out)
    if target.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out is a picture file ending in {', '.join(SUFFIXES)}; got {arguments.out!r}.")
    _refuse_existing(target, arguments)
    return target


def _refuse_existing(file: Path, arguments: argparse.Namespace) -> None:
    if arguments.out is not None and file.exists() and not arguments.overwrite:
        raise ConfigError(f"{file} exists; name another --out, or say --overwrite.")
