"""What a run was made with, for ``environment.json``: versions, hardware, source, command line.

Neither the machine's name nor the user's, nor keys: paths in the home directory are written with ``~``,
what looks like a password or key with ``***``.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import mmengine
import torch

import effdense

# Distributions whose version may change a result or a time.
PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "opencv-python",
    "opencv-python-headless",
    "pycocotools",
    "faster-coco-eval",
    "timm",
    "segmentation-models-pytorch",
    "safetensors",
    "tensorboard",
)
# What nobody wants in a file that goes along with a question: api_key=..., "token": "...", http://me:password@host.
_SECRET = re.compile(
    r"""((?:api[_-]?key|token|secret|passw(?:or)?d|credentials?)["']?\s*[=:]\s*["']?)[^\s"',;)}\]]+""", re.IGNORECASE
)
_LOGIN = re.compile(r"://[^/\s@\"']+@")
_VARIABLES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "PYTORCH_CUDA_ALLOC_CONF")


def describe_environment() -> dict[str, Any]:
    """Versions, device, source and command, as plain data."""
    return {
        "effdense": effdense.__version__,
        "torch": str(torch.__version__),
        "mmengine": mmengine.__version__,
        "mmengine_distribution": mmengine_distribution(),
        "source": source_version(Path(__file__).parents[2]),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "driver": _driver() if torch.cuda.is_available() else None,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "command": [without_home(argument) for argument in sys.argv],
    }


def mmengine_distribution() -> str | None:
    """Name and version of the distribution that the imported mmengine came with; None for one that was not installed.

    Several are published under this one import name (mmengine, mmengine-lite, onedl-mmengine). Two in one folder have
    overwritten each other's files: then both are named.
    """
    folder = Path(mmengine.__file__).parents[1]  # those elsewhere on the path are installed too, and not imported
    found = {
        f"{one.metadata['Name']} {one.version}"
        for one in metadata.distributions(path=[str(folder)])
        if "\nmmengine/__init__.py," in "\n" + (one.read_text("RECORD") or "")
    }
    return " and ".join(sorted(found)) or None


def without_home(text: str) -> str:
    """The text with the home directory as ``~``, and ``***`` for passwords and keys."""
    home = os.path.expanduser("~").rstrip("/")
    text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text) if home else text
    return _SECRET.sub(r"\1***", _LOGIN.sub("://***@", text))


def source_version(folder: Path) -> str | None:
    """Commit of the checkout that effdense is imported from, ``+`` behind it where tracked files differ; None for an
    installed package, or without git.
    """
    if not (folder / ".git").exists():
        return None
    commit = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    changed = _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return None if commit is None else commit + ("+" if changed else "")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    lines = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return lines.splitlines()[0] if lines else None


def _output(*command: str) -> str | None:
    """What a program prints; None where it is absent, fails or takes long."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
