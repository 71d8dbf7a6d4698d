"""Write a split as tar shards with an index, for object stores and slow disks; see docs/loading.md.

    python tools/make_shards.py SRC OUT --split train [--shard-mb 256] [--shuffle SEED | --keep-order]

SRC is a data set in any of the four formats (its format is detected), a folder of classes, or a config file, whose
data set of that split is taken. OUT gets SPLIT-000000.tar, ... and SPLIT.index.npz; nothing is overwritten.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from effdense.errors import EffdenseError


def read(source: str, split: str, task: str | None, segments: bool) -> Any:
    """Records of a split. Raises: DataError listing what is wrong with it."""
    if source.endswith(".py"):
        from effdense.engine.config import load_config
        from effdense.engine.datasets import build_split

        return build_split(load_config(source), split, seed=0).records
    from effdense.data.readers import formats

    found = formats.detect(source)
    if found.format == "folder":
        records, report = formats.read_classification_split(found, split)
    elif found.format == "masks" and task != "detection":
        records, report = formats.read_segmentation_split(found, split)
    else:
        records, report = formats.read_split(found, split, segments=segments)
    report.raise_for_errors()
    return records


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SRC")
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("--split", required=True, help="train, val, ... of the source; the shards are called so, too")
    parser.add_argument("--shard-mb", type=float, default=256, help="content of a shard in MB (default 256)")
    order = parser.add_mutually_exclusive_group()
    order.add_argument("--shuffle", type=int, default=0, metavar="SEED", help="of the order in the shards (default 0)")
    order.add_argument("--keep-order", action="store_true", help="write the pictures as the source has them")
    parser.add_argument("--task", choices=("detection", "segmentation"), help="of a source of masks")
    parser.add_argument("--no-segments", action="store_true", help="leave the outlines of objects out")
    options = parser.parse_args(arguments)
    try:
        from effdense.data.storage.shard_writer import write_shards

        records = read(options.source, options.split, options.task, not options.no_segments)
        done = write_shards(
            records,
            options.out,
            split=options.split,
            shard_mb=options.shard_mb,
            shuffle=None if options.keep_order else options.shuffle,
            progress=_show if sys.stderr.isatty() else None,
        )
    except EffdenseError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"wrote {done.samples} pictures, {done.bytes / 1e6:.1f} MB in {done.shards} shards; index: {done.index}")
    return 0


def _show(done: int, of: int) -> None:
    if done % 100 == 0 or done == of:
        print(f"\r{done}/{of}", end="\n" if done == of else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
