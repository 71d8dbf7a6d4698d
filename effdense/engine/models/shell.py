"""What the shells of all tasks share: device-side normalisation, starting weights, frozen parts, the moving average."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from effdense.data.transforms.multi_scale import MultiScale
from effdense.data.transforms.photometric import PhotometricJitter
from effdense.engine.compiled import CompiledCore, CompileOptions, Losses
from effdense.engine.models.parts import train_whole_or_in_parts
from effdense.engine.registry import MODELS
from effdense.errors import ConfigError, did_you_mean
from effdense.models.activation_checkpointing import check_where, set_activation_checkpointing
from effdense.models.drop_path import set_drop_path_rate
from effdense.models.freezing import FrozenStages, batch_norms, encoder_of, freeze_stages, keep_in_eval
from effdense.models.weights import LoadReport, load_weights

# Arguments of every shell, beside the fields of its network's config.
COMMON_ARGUMENTS = frozenset(
    {
        "name",
        "num_classes",
        "weights",
        "encoder_weights",
        "frozen_stages",
        "frozen_batch_norm",
        "channels_last",
        "photometric",
        "multi_scale",
        "activation_checkpointing",
        "compile",
    }
)


# Read as Python numbers: from the device each would wait for all work before it.
_ON_HOST = frozenset({"matrices", "indices", "original_sizes", "input_sizes", "image_ids"})


@MODELS.register_module()
class Normalize(nn.Module):
    """uint8 batches to normalised float tensors, on the device the model is on.

    Args:
        mean, std: per channel, in units of the full range (0..1), RGB.
        channels_last: memory format of what comes out.
        photometric: options of ``effdense.data.PhotometricJitter``, in training only; None for no jitter.
        multi_scale: options of ``MultiScale``, in training only; None for one size.

    In (a collated batch): ``inputs`` (B, C, H, W) uint8; out: the same mapping with ``inputs`` float32 normalised and
    every tensor on the device but those that are read as numbers (sizes, indices, matrices). Letterbox padding was
    filled with the rounded mean, so it comes out near zero.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        channels_last: bool = True,
        photometric: Mapping[str, Any] | None = None,
        multi_scale: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.multi_scale = None if multi_scale is None else _multi_scale(multi_scale)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.jitter = None if photometric is None else _photometric_jitter(photometric, len(mean))
        self.register_buffer("mean", torch.zeros(1, len(mean), 1, 1), persistent=False)
        self.register_buffer("std", torch.ones(1, len(std), 1, 1), persistent=False)
        self.set_statistics(mean, std)

    def set_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Normalise with others from now on."""
        self.mean.copy_(torch.tensor(mean).view(1, -1, 1, 1) * 255.0)
        self.std.copy_(torch.tensor(std).view(1, -1, 1, 1) * 255.0)

    def forward(self, batch: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        device = self.mean.device
        moved = {
            key: value.to(device, non_blocking=True) if isinstance(value, Tensor) and key not in _ON_HOST else value
            for key, value in batch.items()
        }
        inputs = moved["inputs"].float().contiguous(memory_format=self.memory_format)
        if training and self.multi_scale is not None:
            moved = self.multi_scale({**moved, "inputs": inputs})
            inputs = moved["inputs"].contiguous(memory_format=self.memory_format)
        if training and self.jitter is not None:
            inputs = self.jitter(inputs)
        moved["inputs"] = (inputs - self.mean) / self.std
        return moved


def _multi_scale(options: Mapping[str, Any]) -> MultiScale:
    if not isinstance(options, Mapping):
        raise ConfigError(
            f"model.multi_scale must be dict(low=..., high=..., step=..., interval=...) or None, got {options!r}."
        )
    known = [name for name in inspect.signature(MultiScale).parameters if name != "seed"]
    for key in options:
        if key not in known:
            raise ConfigError(
                f"unknown key model.multi_scale.{key}.{did_you_mean(str(key), known)} Known here: {', '.join(known)}."
            )
    return MultiScale(**options)


def _photometric_jitter(options: Mapping[str, Any], channels: int) -> PhotometricJitter:
    if not isinstance(options, Mapping):
        raise ConfigError(f"model.photometric must be dict(...) of PhotometricJitter's options, got {options!r}.")
    known = list(inspect.signature(PhotometricJitter).parameters)
    for key in options:
        if key not in known:
            raise ConfigError(
                f"unknown key model.photometric.{key}.{did_you_mean(str(key), known)} Known here: {', '.join(known)}."
            )
    if channels != 3:
        raise ConfigError(f"model.photometric turns colours and needs RGB pictures; the model has {channels} channels.")
    return PhotometricJitter(**options)


class NetworkModel(BaseModel):
    """Base of the shells: one network, its moving average, and what a checkpoint says of it.

    Args:
        network: the plain-torch network.
        build_arguments: JSON-plain arguments that build it again.
        image_size: (height, width) px of its input.
        weights: weights of the whole network to start from (path, ``timm:NAME``, ``hf:REPO``).
        encoder_weights: weights of its encoder to start from.
        frozen_stages: stem and first stages of the encoder that are not trained: a number, or "all".
        frozen_batch_norm: layers whose running statistics are used and kept: False, "encoder" or True.
        channels_last: memory format of network and batches; about 1.3x faster on CPU and tensor cores.
        photometric: options of ``PhotometricJitter`` for training batches, ``{}`` for its defaults, None for none.
        multi_scale: options of ``MultiScale`` for training batches (``step`` defaults to the stride of the network's
            coarsest level), None for one size.
        activation_checkpointing: what keeps its inputs only and is computed again in the backward pass: False,
            "encoder" or True, see ``effdense.models.activation_checkpointing``.
        compile: True, or options of ``CompileOptions``, to train through torch.compile; None for not.

    The checkpointed weights are those of ``network``; ``evaluation_network`` is its exponential moving average once
    the EMA hook has made one.
    """

    task: ClassVar[str]
    # ``forward`` in mode "loss" also gives "count": its losses are sums divided by (count + count_offset).
    count_offset: ClassVar[float] = 0.0

    def __init__(
        self,
        network: Any,
        build_arguments: dict[str, Any],
        *,
        image_size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        weights: str | None = None,
        encoder_weights: str | None = None,
        frozen_stages: FrozenStages = 0,
        frozen_batch_norm: bool | str = False,
        channels_last: bool = True,
        photometric: Mapping[str, Any] | None = None,
        multi_scale: Mapping[str, Any] | None = None,
        activation_checkpointing: bool | str = False,
        compile: bool | Mapping[str, Any] | None = None,
    ) -> None:
        compile_options = CompileOptions.of(compile)
        if isinstance(multi_scale, Mapping):
            stride = 2 ** getattr(network.config, "max_level", 5)
            multi_scale = {"step": stride, **multi_scale}
        super().__init__(
            data_preprocessor=Normalize(
                mean, std, channels_last=channels_last, photometric=photometric, multi_scale=multi_scale
            )
        )
        if self.data_preprocessor.multi_scale is not None:
            self.data_preprocessor.multi_scale.check(image_size)
        self.network = network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        self.build_arguments = build_arguments
        self.image_size = image_size
        self.mean, self.std = mean, std
        self._starting = {"encoder_weights": encoder_weights, "weights": weights}
        self.reports: list[LoadReport] = []
        # Lists hide what is in them from parameters(), state_dict() and DDP.
        self._ema: list[Any] = []
        self.checkpointing = check_where(activation_checkpointing)
        checkpointed = set_activation_checkpointing(network, self.checkpointing) > 0
        self.compiled = None if compile_options is None else CompiledCore(compile_options, checkpointed=checkpointed)
        self._standing: list[nn.Module] = freeze_stages(network, frozen_stages)
        self._standing += batch_norms(network, frozen_batch_norm)  # type: ignore[arg-type]
        self.train()

    def load_starting_weights(self, class_names: Sequence[str] | None = None) -> None:
        """Read ``encoder_weights`` and ``weights``; prediction rows of classes with equal names are kept.

        Raises: WeightsError for weights that do not fit.
        """
        if self._starting["encoder_weights"] is not None:
            self.reports.append(load_weights(encoder_of(self.network), self._starting["encoder_weights"]))
        if self._starting["weights"] is not None:
            self.start_from(self._starting["weights"], class_names)
        self.note_convention()

    def start_from(self, weights: str, class_names: Sequence[str] | None = None) -> None:
        """Load weights of the whole network; prediction rows of classes with equal names are kept.

        Raises: WeightsError for weights that do not fit.
        """
        self.reports.append(load_weights(self.network, weights, class_names=class_names))
        self.note_convention()

    def note_convention(self) -> None:
        """Let the checkpoint say what loaded weights have changed: padding and BatchNorm epsilon."""
        self.build_arguments.update(getattr(self.network, "weight_options", {}))

    @property
    def frozen_modules(self) -> list[nn.Module]:
        """Modules that stay in evaluation mode while the rest trains."""
        return self._standing

    @property
    def standing_names(self) -> frozenset[str]:
        """Names, inside the network, of every module whose statistics stay as they are."""
        standing = {module for root in self._standing for module in root.modules()}
        return frozenset(name for name, module in self.network.named_modules() if module in standing)

    def train(self, mode: bool = True) -> NetworkModel:
        super().train(mode)
        keep_in_eval(self._standing)
        return self

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """One iteration. A batch that does not fit into memory is halved, and so is every one after it."""
        return train_whole_or_in_parts(self, data, optim_wrapper)

    def run_core(self, function: Callable[..., Losses], *tensors: Tensor, **constants: Any) -> Losses:
        """``function(*tensors, **constants)``, compiled where the config asks for it."""
        call = function if self.compiled is None else functools.partial(self.compiled, function)
        return call(*tensors, **constants)

    @property
    def evaluation_network(self) -> Any:
        """What validation runs and ``state_dict`` of a checkpoint holds: the moving average, else the network
        itself.
        """
        return self._ema[0] if self._ema else self.network

    def start_ema(self) -> Any:
        """Create (or return) the moving average as a detached copy of the network, in evaluation mode."""
        if not self._ema:
            average = copy.deepcopy(self.network)
            average.requires_grad_(False).eval()
            self._ema.append(average)
        return self._ema[0]

    def init_weights(self) -> None:
        """Nothing to do: networks initialise themselves, and loaded weights must not be drawn again."""

    def describe(self) -> str:
        """One line for the head of a log."""
        params = sum(p.numel() for p in self.network.parameters())
        trained = sum(p.numel() for p in self.network.parameters() if p.requires_grad)
        frozen = "" if trained == params else f" ({trained / 1e6:.2f} M of them trained)"
        encoder = encoder_of(self.network).name
        name = self.network.config.name
        return (
            f"model {name}{'' if name == encoder else f' ({encoder})'}, {params / 1e6:.2f} M parameters{frozen}, "
            f"{self.network.num_classes} classes, input {self.image_size[0]}x{self.image_size[1]}"
        )

    def describe_training(self) -> str:
        """What training does differently from a plain pass, beginning with a comma; empty where there is nothing."""
        said = []
        if self.checkpointing:
            said.append(f"{'encoder ' if self.checkpointing == 'encoder' else ''}activations computed again")
        if self.compiled is not None:
            said.append(self.compiled.options.describe())
        return "".join(f", {one}" for one in said)

    def regularisers(self) -> dict[str, Callable[[float], None]]:
        """Strengths that a schedule may change between epochs, by name."""
        settings: dict[str, Callable[[float], None]] = {"drop_path": lambda r: set_drop_path_rate(self.network, r)}
        if hasattr(self.network, "set_dropout"):
            settings["dropout"] = self.network.set_dropout
        return settings


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of ``NetworkModel`` and those of the network, whose lists become tuples as its dataclass has them."""
    common = {key: value for key, value in options.items() if key in COMMON_ARGUMENTS}
    return common, {key: _tuples(value) for key, value in options.items() if key not in common}


def size_hw(image_size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) from one side or a pair.

    Raises: ConfigError unless whole and positive.
    """
    pair = tuple(image_size) if isinstance(image_size, (list, tuple)) else (image_size, image_size)
    if len(pair) != 2 or any(type(side) is not int or side < 1 for side in pair):
        raise ConfigError(f"image_size must be a positive whole number of px or (height, width), got {image_size!r}.")
    return pair


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value
