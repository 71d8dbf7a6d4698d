"""What training each model of the family keeps in memory: does anything need sharded training (FSDP)?

    python tools/benchmarks/training_memory.py ["efficientdet_d*" ...] [--check efficientdet_d0 ...] [--json out.json]

Counted, without memory or time for the arithmetic: weights, gradients, optimizer state and moving average in float32,
and what autograd keeps of one picture at the model's own size for the backward pass, in float32 and under bfloat16
autocast. The training step's forward pass, losses included, runs on tensors that have shapes but no values
(``FakeTensorMode``, as on a GPU), with hooks on every tensor that is kept; two that share memory count once.
``--check`` runs the same pass with real values on the CPU and compares. Not counted: workspaces of kernels, gradients
of maps during the backward pass, and the allocator's rounding; what a GPU needs is more than the sum.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

sys.path.insert(0, str(Path(__file__).parent))
from training_parts import command_of

import effdense
from effdense.models.classification import EfficientNetClassifier
from effdense.models.costs import COCO_CLASSES, IMAGENET_CLASSES, VOC_CLASSES, model_cost

FAMILY = (
    "efficientdet_*", "efficientdetv2_*", "efficientnet_b*", "efficientnet_l2", "efficientnet_lite4",
    "efficientnetv2_*", "efficientunet_b*", "efficientunet_l2", "efficientunet_v2xl", "bifpnseg_b0", "bifpnseg_b4",
    "bifpnseg_b7", "bifpnseg_l2",
)  # fmt: skip
FLOAT = 4  # bytes
# Bytes of optimizer state per byte of weights.
STATE = {"SGD": 1, "AdamW": 2}
BOXES = 100  # of a picture; their share of the memory is small


def build(name: str) -> Any:
    """The network that trains under this name, with the usual number of classes."""
    if name.startswith("efficientdet"):
        return effdense.create_detector(name, COCO_CLASSES)
    if name.startswith("efficientnet"):
        return effdense.create_classifier(name, IMAGENET_CLASSES)
    return effdense.create_segmentor(name, VOC_CLASSES)


def losses(network: Any, size: tuple[int, int], batch: int = 1) -> Tensor:
    """A training step's forward pass on pictures of zeros."""
    images = torch.zeros(batch, 3, *size).contiguous(memory_format=torch.channels_last)
    if hasattr(network, "padded_loss"):
        boxes = torch.zeros(batch, BOXES, 4) + torch.cat((torch.zeros(2), torch.full((2,), size[0] / 2.0)))
        labels, valid = torch.zeros(batch, BOXES, dtype=torch.int64), torch.ones(batch, BOXES, dtype=torch.bool)
        found = network.padded_loss(images, boxes, labels, valid)
    elif isinstance(network, EfficientNetClassifier):
        found = network.loss(images, torch.zeros(batch, IMAGENET_CLASSES))
    else:
        found = network.loss(images, torch.zeros(batch, *size, dtype=torch.uint8))
    return torch.stack(list(found.values())).sum()


@contextlib.contextmanager
def autocast_of_a_gpu(dtype: torch.dtype | None) -> Iterator[None]:
    """``torch.autocast("cuda")``, which switches itself off where there is no GPU; tensors without values need none."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", dtype is not None)
    torch.set_autocast_dtype("cuda", dtype or before[1])
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


def _onto_gpu(network: nn.Module) -> None:
    """Shapes on the meta device become tensors without values on a GPU that need not be there."""
    for module in network.modules():
        for kind in (module._parameters, module._buffers):
            for key, value in kind.items():
                if value is not None:
                    moved = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
                    kind[key] = nn.Parameter(moved) if isinstance(value, nn.Parameter) else moved


def kept_bytes(name: str, size: tuple[int, int], *, dtype: torch.dtype | None = None, real: bool = False) -> int:
    """Bytes that autograd keeps of one picture, weights and statistics not counted.

    Args: dtype: of autocast, None for float32. real: run it with values on the CPU, instead of counting.
    """
    kept: dict[int, tuple[int, Any]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = (storage.nbytes(), storage)  # held, so that its id is not given again
        return tensor

    with torch.device("cpu" if real else "meta"):
        network = build(name).train()
    with contextlib.nullcontext() if real else FakeTensorMode(), torch.device("cpu" if real else "cuda"):
        if not real:
            _onto_gpu(network)
        own = {value.untyped_storage()._cdata for value in [*network.parameters(), *network.buffers()]}
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            autocast_of_a_gpu(dtype),
        ):
            loss = losses(network, size)
        total = sum(count for key, (count, _) in kept.items() if key not in own)
    del loss
    return total


def row(name: str) -> dict[str, Any]:
    """Bytes of everything for one model at batch 1."""
    with torch.device("meta"):
        network = build(name)
    size = model_cost(name).image_size
    weights = sum(p.numel() for p in network.parameters()) * FLOAT
    statistics = sum(b.numel() * b.element_size() for b in network.buffers())
    found: dict[str, Any] = {
        "model": name,
        "image_size": list(size),
        "weights": weights + statistics,
        "gradients": weights,
        **{f"optimizer_{kind}": factor * weights for kind, factor in STATE.items()},
        "moving_average": weights + statistics,
        "activations_float32": kept_bytes(name, size),
        "activations_bfloat16": kept_bytes(name, size, dtype=torch.bfloat16),
    }
    found["states_AdamW"] = sum(found[key] for key in ("weights", "gradients", "optimizer_AdamW", "moving_average"))
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, in MiB and GiB."""
    lines = [
        "| model | px | weights | gradients | SGD / AdamW state | average | **sum, AdamW** | a picture, float32 "
        "| bfloat16 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        mib = {key: value / 2**20 for key, value in one.items() if isinstance(value, int)}
        height, width = one["image_size"]
        px = f"{height}" if height == width else f"{height}x{width}"
        lines.append(
            f"| `{one['model']}` | {px} | {mib['weights']:.0f} | {mib['gradients']:.0f} | {mib['optimizer_SGD']:.0f} / "
            f"{mib['optimizer_AdamW']:.0f} | {mib['moving_average']:.0f} | **{mib['states_AdamW']:.0f} MiB** | "
            f"{mib['activations_float32'] / 1024:.2f} GiB | {mib['activations_bfloat16'] / 1024:.2f} GiB |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=FAMILY, help="names; default the ends and middle of the family")
    parser.add_argument("--check", nargs="*", default=(), help="models to run with real values, too")
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = [n for n in effdense.list_models() if any(fnmatch.fnmatch(n, p) for p in options.patterns or FAMILY)]
    if not names:
        raise SystemExit(f"no model matches {' '.join(options.patterns)}; `effdense list` shows all.")
    rows, checks = [], []
    for name in names:
        rows.append(row(name))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    for name in options.check:
        size = model_cost(name).image_size
        counted, measured = kept_bytes(name, size), kept_bytes(name, size, real=True)
        checks.append({"model": name, "counted": counted, "measured": measured})
        print(f"{name}: {counted / 2**20:.1f} MiB counted, {measured / 2**20:.1f} MiB with values")
    if options.json:
        command = command_of(sys.argv[1:])
        content = {"torch": str(torch.__version__), "command": command, "rows": rows, "checks": checks}
        Path(options.json).write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
