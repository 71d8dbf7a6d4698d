"""``effdense debug``: look into what ended a run.

``replay FILE`` runs the batch again whose loss or gradient was not finite (``non_finite/iter_N.pth`` of a work dir),
with the weights and random numbers of then, and says where it begins. The exit code is 1 where it happens again, 0
where it does not, 2 for a command that cannot be carried out.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from effdense.errors import ConfigError

if TYPE_CHECKING:
    from effdense.engine.evidence import Replay

HELP = "look into what ended a run"
_SHOWN = 5


def add(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verbs = parser.add_subparsers(dest="debug_verb", required=True)
    one = verbs.add_parser("replay", help="run a batch again whose loss or gradient was not finite")
    one.add_argument("file", metavar="FILE", help="non_finite/iter_N.pth of a work dir")
    one.add_argument(
        "--config", help="build the model as this config says (Python code that is run), not as the run's did"
    )
    one.add_argument(
        "--checkpoint", metavar="PTH",
        help="with the training weights of this checkpoint of the run, not those of FILE",
    )  # fmt: skip
    one.add_argument("--device", help="default the GPU if there is one; random numbers of a GPU need one")


def run(arguments: argparse.Namespace) -> int | None:
    """Run the batch and print; the exit code."""
    import torch

    from effdense.engine import checkpoint
    from effdense.engine.config import load_config
    from effdense.engine.evidence import non_finite_rows, read_evidence, replay
    from effdense.engine.registry import MODELS, resolve

    content = read_evidence(arguments.file)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = dict(content["model"])
    if arguments.config is not None:
        cfg = load_config(arguments.config)
        model = {"image_size": cfg.image_size, **cfg.model}
        for key in ("weights", "encoder_weights"):
            model.pop(key, None)
    if arguments.checkpoint is not None:
        other = checkpoint.load(arguments.checkpoint)
        content["state_dict"] = other.get("train_state_dict", other["state_dict"])
    model["num_classes"] = len(content["meta"]["classes"])
    kind: Any = resolve(MODELS, model.pop("type"), "model")
    shell = kind(**{**model, **content["meta"]["model"]}) if arguments.config is None else kind(**model)
    try:
        result = replay(content, shell, device)
    except RuntimeError as error:
        if "state_dict" not in str(error):
            raise
        raise ConfigError(f"the weights do not fit the model: {str(error).splitlines()[-1].strip()}") from error
    _show(content, result, device, non_finite_rows(content["batch"]))
    return 1 if result.reproduced else 0


def _show(content: Mapping[str, Any], result: Replay, device: str, rows: list[str]) -> None:
    place = f"iteration {content['iteration']} (epoch {content['epoch'] + 1}, batch {content['batch_idx'] + 1})"
    print(f"{place}, {content['dtype'] or 'float32'}, on {device}")
    for path in content["batch"].get("paths", ()):
        print(f"  {path}")
    if "cuda" in content["random"] and not device.startswith("cuda"):
        print("the run's random numbers on the GPU cannot be drawn here: dropout and jitter differ")
    if result.bad_weights:
        print(
            f"the weights themselves are not finite before the batch: {_few(result.bad_weights)}; with --checkpoint "
            "give the newest checkpoint of the run"
        )
    print("\nthen and now")
    for name in dict.fromkeys([*content["values"], *result.losses]):
        then, now = content["values"].get(name), result.losses.get(name)
        print(f"  {name:<12} {_number(then):>14} {_number(now):>14}")
    print("\nvalues of the batch")
    for name, (low, high, count) in result.ranges.items():
        print(f"  {name:<16} {low:g} to {high:g}" + (f", {count} not finite" if count else ""))
    for row in rows[:_SHOWN]:
        print(f"  not finite: {row}")
    print()
    if result.first_module is not None:
        print(f"first output that is not finite: {result.first_module}")
    if result.gradients:
        print(f"gradients that are not finite: {_few(result.gradients)}")
    print("it happens again" if result.reproduced else "it does not happen again: all losses and gradients are finite")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _few(words: list[str]) -> str:
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more
