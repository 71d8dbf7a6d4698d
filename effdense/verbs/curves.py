"""``effdense curves``: draw the curves of one run, or of several together, from what they have logged."""

from __future__ import annotations

import argparse
from pathlib import Path

from effdense.errors import ConfigError

HELP = "draw losses, scores and learning rate of one or several runs"


def add(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a training run, also of one that goes on")
    parser.add_argument(
        "--out", metavar="PNG", help="file to write (default RUN/pictures/curves.png, of several ./curves.png)"
    )
    parser.add_argument("--metric", metavar="NAME", help="score to compare by (default the first of the validations)")
    parser.add_argument("--lowest", action="store_true", help="the lowest value of the metric is the best")


def run(arguments: argparse.Namespace) -> int | None:
    """Draw; the exit code."""
    out = _target(arguments)
    from effdense.engine.hooks.metrics_file import METRICS
    from effdense.visualize.curves import draw_run, draw_runs
    from effdense.visualize.picture import write_whole
    from effdense.visualize.run_numbers import read_curves

    folders = [Path(given).expanduser() for given in arguments.runs]
    for folder in folders:
        if not (folder / METRICS).is_file():
            what = f"{folder} holds no {METRICS}" if folder.is_dir() else f"no run folder at {folder.absolute()}"
            raise ConfigError(
                f"{what}; curves takes the work dirs of training runs, such as work_dirs/effdet_b0_shapes."
            )
    found = [
        read_curves(folder / METRICS, name, metric=arguments.metric, greater_is_better=not arguments.lowest)
        for folder, name in zip(folders, _names(folders), strict=True)
    ]
    content = draw_run(found[0]) if len(found) == 1 else draw_runs(found)
    try:
        write_whole(out, content)
    except OSError as error:
        raise ConfigError(
            f"the curves cannot be written to {out.absolute()}: {error}; name another file with --out."
        ) from error
    for one in found:
        if one.metric is not None and one.best is not None:
            best, epoch = one.scores[one.metric][one.best], one.validated[one.best]
            print(f"{one.name}: best {one.metric} {best:.4f} at epoch {epoch:.4g}")
        else:
            print(f"{one.name}: no score yet")
    print(f"curves: {out}")
    return 0


def _target(arguments: argparse.Namespace) -> Path:
    if arguments.out is None:
        alone = len(arguments.runs) == 1
        return Path(arguments.runs[0]).expanduser() / "pictures" / "curves.png" if alone else Path("curves.png")
    out = Path(arguments.out).expanduser()
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out is a .png file, got {arguments.out!r}.")
    return out


def _names(folders: list[Path]) -> list[str]:
    """The last part of each path, with as many before it as make them different."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names
