"""Numbers as a person reads them: what the console says of a step and of a validation."""

from __future__ import annotations

import datetime
import math
import sys
from collections.abc import Mapping

import torch


def short(value: float) -> str:
    """``.412`` below 1, as scores are written; four digits of anything else."""
    text = f"{value:.3f}" if abs(value) <= 1 else f"{value:.4g}"
    return text.replace("0.", ".", 1) if abs(value) < 1 and "0." in text else text


def change(value: float, best: tuple[float, int] | None, sign: float = 1.0) -> str:
    """``+.013, best`` or ``-.004, best .416 at epoch 2``; ``first`` where there is no other.

    Args:
        best: best value before, and its epoch. sign: -1 where less is better.
    """
    if best is None:
        return "first"
    difference = value - best[0]
    signed = ("-" if difference < 0 else "+") + short(abs(difference))
    if math.isnan(value):
        signed = "nan"
    return f"{signed}, best" if sign * difference > 0 else f"{signed}, best {short(best[0])} at epoch {best[1]}"


def describe_step(
    values: Mapping[str, float], rate: float, memory_mb: float | None, eta: float | None, *, brief: bool = False
) -> str:
    """Losses, learning rate, images a second, the time left and memory, in one line; ``brief`` fits 80 columns."""
    line = []
    if "loss" in values:
        parts = [f"{key[5:]} {number:.4g}" for key, number in values.items() if key.startswith("loss_")]
        line.append(f"loss {values['loss']:.4g}" + (f" ({', '.join(parts)})" if parts and not brief else ""))
    if "lr" in values:
        line.append(f"lr {values['lr']:.2e}")
    line.append(f"{rate:.3g} images/s")
    if eta is not None and math.isfinite(eta):
        line.append(f"eta {datetime.timedelta(seconds=int(eta))}")
    if not brief and (used := memory_mb or _resident_mb()) is not None:
        line.append(f"{used / 1024:.1f} GB")
    if "grad_norm" in values and not brief:
        line.append(f"grad {values['grad_norm']:.3g}")
    if values.get("time") and values.get("data_time", 0.0) / values["time"] > 0.2:
        line.append(f"waits for data {100 * values['data_time'] / values['time']:.0f} %")
    return "  ".join(line)


def _resident_mb() -> float | None:
    """Most memory that this process has held, where no GPU is in use and the system tells."""
    if torch.cuda.is_available():
        return None
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
