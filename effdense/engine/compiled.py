"""torch.compile around the part of a training step that is tensors only: pictures and padded targets in, losses out.

A detector's boxes are padded to the next of a few counts (``pad_boxes``), so that the shapes of a run are few; each
gets one graph, whole and static. Shapes that come once in a while run uncompiled: a graph costs more than it would
save. Validation runs uncompiled, too.

The rest of a step (loading, preprocessing, backward hooks, optimizer, logging) is Python and stays outside.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from mmengine.logging import MMLogger
from torch import Tensor
from torch.nn import functional as F

from effdense.engine.distributed import rank_and_world
from effdense.errors import ConfigError, RunError, did_you_mean

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
_WITH_CUDA_GRAPHS = frozenset({"reduce-overhead", "max-autotune"})
MOST_GRAPHS = 64  # torch's own limit of 8 is for graphs that differ by mistake
_WINDOW, _OFTEN = 64, 3  # a shape that came so often in the last so many steps gets a graph
_FEWEST_BOXES = 16  # assignment goes through boxes in blocks of 16

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class CompileOptions:
    """How to compile.

    Attributes:
        mode: "default"; "reduce-overhead" replays CUDA graphs, which saves launches; "max-autotune" also times kernels
            against each other; "max-autotune-no-cudagraphs" only that.
        backend: "inductor", or another of ``torch.compiler.list_backends()``.
        dynamic: False; paddings and anchors follow from sizes, so a graph is for one size.
    """

    mode: str = "default"
    backend: str = "inductor"
    dynamic: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(
                f"model.compile.mode must be one of {', '.join(map(repr, MODES))}; got {self.mode!r}."
                f"{did_you_mean(str(self.mode), MODES)}"
            )
        known = torch.compiler.list_backends(exclude_tags=())  # type: ignore[no-untyped-call]
        if self.backend not in known:
            raise ConfigError(
                f"model.compile.backend must be one of {', '.join(map(repr, known))}; got {self.backend!r}."
                f"{did_you_mean(str(self.backend), known)}"
            )
        if self.mode != "default" and self.backend != "inductor":
            raise ConfigError(
                f"model.compile.mode={self.mode!r} is for the inductor; backend {self.backend!r} has none. Remove one."
            )
        if self.dynamic is not False:
            raise ConfigError(
                f"model.compile.dynamic must be False, got {self.dynamic!r}: paddings and anchors follow from sizes, "
                "so there is a graph for each size."
            )

    def check(self, *, checkpointed: bool) -> None:
        """Raise ConfigError where the backend cannot compute activations again."""
        if checkpointed and self.backend == "eager":
            raise ConfigError(
                "model.compile.backend='eager' does not go with model.activation_checkpointing: it runs the graph as "
                "written and counts BatchNorm statistics twice. Use 'aot_eager' or 'inductor', which repeat values "
                "only."
            )

    @classmethod
    def of(cls, value: Any) -> CompileOptions | None:
        """Options from what a config says: None or False for no compiling, True for the defaults, or a dict.

        Raises: ConfigError for anything else, with the nearest names.
        """
        if value is None or value is False:
            return None
        if value is True:
            return cls()
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"model.compile must be True, None or a dict such as dict(mode='reduce-overhead'), got {value!r}."
            )
        known = [field.name for field in fields(cls)]
        for key in value:
            if key not in known:
                raise ConfigError(
                    f"unknown key model.compile.{key}.{did_you_mean(str(key), known)} Known here: {', '.join(known)}."
                )
        return cls(**value)

    def describe(self) -> str:
        """A few words for the head of a log."""
        said = [self.mode] * (self.mode != "default") + [self.backend] * (self.backend != "inductor")
        return f"compiled ({', '.join(said)})" if said else "compiled"


def pad_boxes(boxes: Tensor, labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Targets padded to 16, 32, 64, ... boxes an image, so that batches come in few shapes; losses do not change.

    Args: boxes (B, G, 4); labels (B, G), -1 on padding; valid (B, G), False on padding.
    """
    count = labels.shape[1]
    more = max(_FEWEST_BOXES, 1 << max(0, count - 1).bit_length()) - count
    if more == 0:
        return boxes, labels, valid
    return F.pad(boxes, (0, 0, 0, more)), F.pad(labels, (0, more), value=-1), F.pad(valid, (0, more), value=False)


class CompiledCore:
    """Calls a function of tensors through torch.compile: ``core(function, *tensors, **constants)`` gives what
    ``function(*tensors, **constants)`` does, a dict of tensors.

    Args:
        options: how to compile.
        checkpointed: whether the network behind the functions computes activations again in the backward pass.

    A shape gets a graph when it is the first of a run or has come 3 times in the last 64 steps, and until there are
    ``MOST_GRAPHS``. At once it gets one with CUDA graphs, whose memory an uncompiled step could not use, and in torch's
    deterministic mode, so that a resumed run computes as one that was not stopped. Copies and pickles of the core come
    without graphs.
    """

    def __init__(self, options: CompileOptions, *, checkpointed: bool = False) -> None:
        options.check(checkpointed=checkpointed)
        self.options = options
        self.checkpointed = checkpointed
        self._forget()

    def _forget(self) -> None:
        self._functions: dict[Callable[..., Losses], Callable[..., Losses]] = {}
        self._known: set[Any] = set()
        self._recent: deque[Any] = deque(maxlen=_WINDOW)
        self._said: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {"options": self.options, "checkpointed": self.checkpointed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def graphs(self) -> int:
        """How many shapes have a graph."""
        return len(self._known)

    def __call__(self, function: Callable[..., Losses], *tensors: Tensor, **constants: Any) -> Losses:
        """Losses, compiled where that pays.

        Raises: RunError where the function cannot be compiled.
        """
        shape = tuple((tuple(t.shape), t.dtype) for t in tensors)
        if not torch.is_grad_enabled() or not self._pays(shape):
            return function(*tensors, **constants)
        if function not in self._functions:
            self._functions[function] = self._compile(function)
        new, begun = shape not in self._known, time.monotonic()
        replayed = self.options.mode in _WITH_CUDA_GRAPHS
        if replayed:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            _own_gradients(function)
        with self._settings(), _explained(lambda: function(*tensors, **constants)):
            losses = self._functions[function](*tensors, **constants)
        if new:
            self._known.add(shape)
            self._tell(
                f"torch.compile: graph {self.graphs}, {_text(shape)}, forward pass in "
                f"{time.monotonic() - begun:.0f} s; the first backward pass compiles, too."
            )
        # The next replay writes over the outputs of this one.
        return {name: value.clone() for name, value in losses.items()} if replayed else dict(losses)

    def _compile(self, function: Callable[..., Losses]) -> Callable[..., Losses]:
        mode = None if self.options.mode == "default" else self.options.mode
        return torch.compile(function, fullgraph=True, dynamic=False, backend=self.options.backend, mode=mode)

    def _pays(self, shape: Any) -> bool:
        """Whether inputs of this shape have a graph or should get one."""
        self._recent.append(shape)
        if shape in self._known:
            return True
        if self.graphs >= MOST_GRAPHS:
            self._tell_once(
                "many",
                f"torch.compile: there are {MOST_GRAPHS} graphs; inputs of other shapes run uncompiled. Transforms "
                "that give all pictures one size need one graph.",
            )
            return False
        at_once = self.options.mode in _WITH_CUDA_GRAPHS or torch.are_deterministic_algorithms_enabled()
        if not self._known or at_once or self._recent.count(shape) >= _OFTEN:
            return True
        self._tell_once(
            "rare",
            f"torch.compile: {_text(shape)} runs uncompiled, as all shapes do until they have come {_OFTEN} times in "
            f"{_WINDOW} steps.",
        )
        return False

    @contextmanager
    def _settings(self) -> Iterator[None]:
        """Room for all graphs; DDP's splitting of them is off where they hold activations to compute again, which it
        does not support.
        """
        from torch._dynamo import config

        limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # before torch 2.7
        changes: dict[str, Any] = {limit: max(getattr(config, limit), 4 * MOST_GRAPHS)}
        if self.checkpointed:
            changes["optimize_ddp"] = False
        with config.patch(changes):  # type: ignore[attr-defined]
            yield

    def _tell(self, text: str) -> None:
        if rank_and_world()[0] == 0:
            MMLogger.get_current_instance().info(text)

    def _tell_once(self, key: str, text: str) -> None:
        if key not in self._said:
            self._said.add(key)
            self._tell(text)


def refuse_synced_statistics(shell: Any, sync_bn: Any) -> None:
    """Raise ConfigError where BatchNorm would wait for other processes in the middle of a graph."""
    if sync_bn and rank_and_world()[1] > 1 and getattr(shell, "compiled", None) is not None:
        raise ConfigError(
            "model.compile and sync_bn=True do not go together: a compiled graph cannot wait for the statistics of "
            "other processes. Say sync_bn=False (each process normalises its own batch), or model.compile=None."
        )


@contextmanager
def _explained(uncompiled: Callable[[], Any]) -> Iterator[None]:
    """Errors of the compiler in a sentence; those of the inputs or of memory as they would be without it."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        inner = getattr(error, "inner_exception", None)
        if isinstance(inner, torch.OutOfMemoryError):
            raise inner from error
        uncompiled()  # inputs that do not fit are told by their own error
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RunError(
            f"torch.compile failed: {said.strip()} Train without it (model.compile=None), or find out whether the code "
            "generator is at fault with model.compile.backend='aot_eager'."
        ) from error


def _own_gradients(function: Any) -> None:
    """Give every weight a gradient of its own to add to: one that is the output of a CUDA graph would be written over
    by the next batch of an accumulation window.
    """
    network = getattr(function, "__self__", None)
    if network is None or rank_and_world()[1] > 1:  # DDP's buckets hold them
        return
    for parameter in network.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _text(shape: Any) -> str:
    """For example "inputs 8x3x512x512, 8x16x4, 8x16, 8x16"."""
    return "inputs " + ", ".join("x".join(map(str, sizes)) for sizes, _ in shape)
