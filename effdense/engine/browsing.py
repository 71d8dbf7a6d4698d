"""What a model will really be fed, stage by stage: a config in, the views of some samples out.

The parts are those of a run: its data set, sampler, transforms, collate function, and the model's preprocessor and
batch mixing; only the network itself is left out (it is made without memory). Every transform is wrapped to note what
it gave, so that a sample takes the very way that it takes in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from effdense.data.sampler import SampleIndex
from effdense.engine import datasets
from effdense.engine.browse_views import fetched, file_of, label_text, number_of, steps_of, view_of, watched
from effdense.engine.combined_datasets import is_combined
from effdense.engine.early import build_hooks
from effdense.engine.hooks.progressive import ProgressiveLearningHook
from effdense.engine.models.shell import Normalize, size_hw
from effdense.engine.registry import MODELS, resolve
from effdense.errors import ConfigError, did_you_mean
from effdense.visualize.browse import Classes, View

RAW, FINAL = "raw", "network input"


@dataclass(frozen=True, eq=False)
class Seen:
    """One sample: its views in order, and a line that says what became of it."""

    views: list[View]
    line: str


@dataclass(frozen=True, eq=False)
class Browser:
    """A split with everything that turns its samples into a network's input; made by :func:`open_browser`.

    Attributes:
        task, split, classes: as the config says. epoch: counted from 1.
        batches: indices of the batches that the epoch starts with. per_epoch: how many it has.
    """

    task: str
    split: datasets.Split
    classes: Classes
    epoch: int
    seed: int
    batches: Iterator[list[Any]]
    per_epoch: int
    normalize: Normalize
    mixer: Any
    stages: tuple[str, ...]

    def samples(self, count: int, stages: Sequence[str] | None) -> Iterator[Seen]:
        """The first ``count`` samples of the epoch, in order.

        Args: stages: which views to make, from ``self.stages``; None for all.
        """
        left = count
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 * self.seed + self.epoch)
            for number, batch in enumerate(self.batches):
                if self.normalize.multi_scale is not None:
                    chooser = self.normalize.multi_scale
                    chooser.seed, chooser.iteration = self.seed, (self.epoch - 1) * self.per_epoch + number
                yield from self._batch(batch, min(left, len(batch)), stages)
                left -= len(batch)
                if left <= 0:
                    return

    def _batch(self, batch: Sequence[Any], shown: int, stages: Sequence[str] | None) -> Iterator[Seen]:
        """Views of the first ``shown`` samples of a batch; all of it is loaded, since pictures of a batch may depend on
        each other (mixing, padding).
        """
        dataset = self.split.dataset
        traces: list[list[tuple[str, Any]]] = []
        samples = []
        for place, index in enumerate(batch):
            source, log = watched(dataset, self.epoch - 1) if place < shown else (dataset, [])
            samples += fetched(source, index)
            traces.append(log)
        starts = [dataset.load(int(index)) for index in batch[:shown]]
        collated = self.split.collate(samples)
        training = self.split.name == "train"
        prepared = self.normalize(collated, training)
        inputs, targets = prepared["inputs"], prepared.get("labels")
        if training and self.mixer is not None:
            inputs, targets = self.mixer(inputs, targets)
        pixels = (inputs * self.normalize.std + self.normalize.mean).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        for place in range(shown):
            raw = view_of(self.task, starts[place], RAW, self.classes)
            raw = replace(raw, title=f"{file_of(starts[place])} {raw.title.removeprefix(f'{RAW} ')}")
            end = self._end(prepared, place, pixels[place].numpy(), targets)
            final = view_of(self.task, end, FINAL, self.classes)
            final = replace(final, title=", ".join([final.title, *self._on_device()]))
            views = {RAW: [raw], FINAL: [final]}
            ordered = [raw, *(view_of(self.task, sample, name, self.classes) for name, sample in traces[place]), final]
            for name, view in zip((name for name, _ in traces[place]), ordered[1:-1], strict=True):
                views.setdefault(name, []).append(view)
            chosen = ordered if stages is None else [view for name in stages for view in views.get(name, [])]
            if stages is not None and len(stages) == 1 and stages[0] != RAW:  # the page says which stage it is
                file = file_of(starts[place])
                chosen = [
                    replace(view, title=f"{file} {view.title.removeprefix(stages[0]).strip()}") for view in chosen
                ]
            yield Seen(chosen, f"{int(batch[place])} {self._line(starts[place], end, raw, final, inputs[place])}")

    def _on_device(self) -> list[str]:
        """What a training batch goes through after it was collated."""
        steps = {"resized": self.normalize.multi_scale, "jittered": self.normalize.jitter}
        return [name for name, step in steps.items() if self.split.name == "train" and step is not None]

    def _end(self, batch: Mapping[str, Any], place: int, image: np.ndarray, targets: Any) -> dict[str, Any]:
        """What the network gets, as a sample."""
        sample: dict[str, Any] = {"image": np.ascontiguousarray(image)}
        if self.task == "detection":
            valid = batch["valid"][place]
            sample |= {"boxes": batch["boxes"][place][valid].numpy(), "labels": batch["labels"][place][valid].numpy()}
        elif self.task == "segmentation":
            sample["mask"] = batch["masks"][place].numpy()
        elif targets.ndim == 1:
            sample["label"] = int(targets[place])
        else:
            sample["shares"] = targets[place].numpy()
        return sample

    def _line(
        self, start: Mapping[str, Any], end: Mapping[str, Any], raw: View, final: View, normalised: torch.Tensor
    ) -> str:
        """``path: 640x480 -> 320x320, 14 objects -> 11 (3 dropped)``."""
        sizes = " -> ".join(f"{view.image.shape[1]}x{view.image.shape[0]}" for view in (raw, final))
        if self.task == "detection":
            before, after = len(raw.labels), len(final.labels)
            change = f"{before - after} dropped" if after < before else f"{after - before} added"
            text = f"{number_of(before, 'object')} -> {after}" + (f" ({change})" if after != before else "")
            crowds = int(self.split.records[int(start["index"])].is_crowd.sum()) if self.split.dataset.training else 0
            text += f", {crowds} crowd regions left out" if crowds else ""
        elif self.task == "segmentation":
            shares = [100 * float((view.mask == 255).mean()) for view in (raw, final) if view.mask is not None]
            kinds = [len(view.counts()) for view in (raw, final)]
            text = f"{kinds[0]} classes -> {kinds[1]}, ignored {shares[0]:.1f} % -> {shares[1]:.1f} %"
        else:
            text = f"{label_text(start, self.classes)} -> {label_text(end, self.classes)}"
        low, high = float(normalised.min()), float(normalised.max())
        return f"{start['path']}: {sizes}, {text}, normalised {low:.2f}..{high:.2f}"


def open_browser(
    cfg: Any, split: str, *, epoch: int = 1, indices: Sequence[int] | None = None, seed: int | None = None
) -> Browser:
    """Everything of a run up to the network, from a loaded config.

    Args:
        split: "train", "val" or "test".
        epoch: of training, as the log counts, from 1; says which samples come first and what is drawn for each.
        indices: positions in the data set to show, in place of those the epoch starts with.
        seed: in place of the config's.

    Raises: ConfigError, DataError as a run would; and for an epoch or an index that there is not.
    """
    if "image_size" not in cfg:
        raise ConfigError("the config needs image_size (an int, or (height, width)).")
    size_hw(cfg["image_size"])
    seed = int((cfg.get("randomness") or {}).get("seed") or 0) if seed is None else seed
    epochs = (cfg.get("train_cfg") or {}).get("max_epochs")
    if epoch < 1 or (split == "train" and epochs is not None and epoch > epochs):
        raise ConfigError(f"--epoch counts from 1 as the log does{f', to {epochs}' if epochs else ''}; got {epoch}.")
    cfg["data_check"] = {"enable": False}  # a fault of a file shown is still found
    class_map = None
    if split != "train" and is_combined((cfg.get("train_dataloader") or {}).get("dataset")):
        class_map = datasets.build_split(cfg, "train", seed=seed).records.class_map
    chosen = datasets.build_split(cfg, split, seed=seed, class_map=class_map)
    model = _model(cfg, chosen)
    if split == "train":
        _progress(cfg, chosen.dataset, model, epoch)
    loader = datasets.build_loader(chosen, seed=seed, training=split == "train")
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch - 1)
    batches: Iterator[list[Any]] = iter(loader.batch_sampler)  # type: ignore[arg-type]
    if indices is not None:
        wrong = [index for index in indices if not 0 <= index < len(chosen.dataset)]
        if wrong or not indices:
            raise ConfigError(f"--index must lie in 0..{len(chosen.dataset) - 1} ({split} split), got {wrong}.")
        batches = iter([[SampleIndex(i, seed, epoch - 1) if split == "train" else i for i in indices]])
    # Made without memory like all of the model; its two small buffers get theirs.
    normalize = model.data_preprocessor.to_empty(device="cpu")
    normalize.set_statistics(model.mean, model.std)
    palette = chosen.records.class_map.palette if model.task == "segmentation" else None
    names = [RAW, *(type(step).__name__ for step in steps_of(chosen.dataset, epoch - 1)), FINAL]
    return Browser(
        task=model.task,
        split=chosen,
        classes=Classes(chosen.records.class_map.names, palette),
        epoch=epoch,
        seed=seed,
        batches=batches,
        per_epoch=len(loader),
        normalize=normalize,
        mixer=getattr(model, "mixer", None),
        stages=tuple(dict.fromkeys(names)),
    )


def chosen_stages(browser: Browser, text: str) -> list[str] | None:
    """Stages from ``all``, ``raw``, ``final`` or names of transforms with commas; None for all.

    Raises: ConfigError for one that there is not.
    """
    if text == "all":
        return None
    known = {"final": FINAL, **{name: name for name in browser.stages}}
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            shown = ["all", RAW, *(s for s in browser.stages if s not in (RAW, FINAL)), "final"]
            raise ConfigError(f"--stage: there is no {name!r}.{did_you_mean(name, shown)} Stages: {', '.join(shown)}.")
    return [known[name] for name in names]


def _model(cfg: Any, split: datasets.Split) -> Any:
    """The model's shell without any memory: its normalisation, mixing and regularisers are what is asked for."""
    options = dict(cfg["model"])
    options.setdefault("image_size", cfg["image_size"])
    target = resolve(MODELS, options.pop("type"), "model")
    options["num_classes"] = datasets.check_class_count(
        options.get("num_classes"), split.records.class_map, split.source, task=target.task
    )
    for key in ("weights", "encoder_weights"):
        options.pop(key, None)
    with torch.device("meta"):
        return target(**options)


def _progress(cfg: Any, dataset: Any, model: Any, epoch: int) -> None:
    """What a ProgressiveLearningHook of the config makes of this epoch."""
    named, more = build_hooks(cfg.get("default_hooks"), cfg.get("custom_hooks"))
    epochs = (cfg.get("train_cfg") or {}).get("max_epochs", 1)
    for hook in [*named.values(), *more]:
        if isinstance(hook, ProgressiveLearningHook):
            loop = SimpleNamespace(max_epochs=epochs)
            hook.before_train(SimpleNamespace(train_loop=loop, train_dataloader=SimpleNamespace(dataset=dataset)))
            settings = hook.settings(sum(start <= epoch - 1 for start in hook.starts) - 1)
            for name in ("mixup", "cutmix"):
                if name in settings:
                    setattr(model.mixer, name, settings[name])
