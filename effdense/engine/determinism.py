"""``randomness=dict(deterministic=True)``: the same bits from the same seed, on a GPU, too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

_SWITCHED_ON = False


def set_determinism(randomness: Mapping[str, Any] | None) -> bool:
    """Switch torch, cuDNN and cuBLAS as a config says; before anything touches a GPU.

    Args: randomness: section of the config. ``deterministic="warn"`` goes on, with a warning, where torch has no
        deterministic implementation; True ends the run there.

    Returns: whether the mode is on. A run after one with it, in the same process, is without again.
    """
    global _SWITCHED_ON
    mode = (randomness or {}).get("deterministic") or False
    if mode:
        # cuBLAS reads it when it is first used; torch refuses matrix products without.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if mode or _SWITCHED_ON:
        torch.use_deterministic_algorithms(bool(mode), warn_only=mode == "warn")
        torch.backends.cudnn.deterministic = bool(mode)
        torch.backends.cudnn.benchmark = False  # it chooses kernels by their time, which no seed repeats
    _SWITCHED_ON = bool(mode)
    return _SWITCHED_ON


def for_mmengine(randomness: Mapping[str, Any], env: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``randomness`` and ``env_cfg`` for mmengine's runner, with what :func:`set_determinism` has decided left out."""
    env = {key: value for key, value in env.items() if not (_SWITCHED_ON and key == "cudnn_benchmark")}
    return {key: value for key, value in randomness.items() if key != "deterministic"}, env


def without_deterministic_form(error: BaseException) -> str | None:
    """What to tell of torch's refusal to run something that it cannot repeat; None for other errors."""
    text = str(error)
    if "does not have a deterministic implementation" in text:
        what = text.split(" does not have a deterministic implementation")[0].split()[-1].strip("'\"`")
        return (
            f"randomness.deterministic=True, and torch has no deterministic form of {what} on this device. "
            "randomness.deterministic=warn goes on with a warning, and runs may differ in their last digits; "
            "docs/training.md, Repeatable runs, says which options need it."
        )
    if "CUBLAS_WORKSPACE_CONFIG" in text:
        return (
            "randomness.deterministic=True needs CUBLAS_WORKSPACE_CONFIG=:4096:8 or :16:8 in the environment, which "
            f"says {os.environ.get('CUBLAS_WORKSPACE_CONFIG')!r}. Unset it; the engine sets it then."
        )
    return None
