"""EfficientUNet-B0 against smp.Unet("efficientnet-b0") on CamVid: the same budget for both, several seeds each.

    EFFDENSE_DATA=DIR python tools/benchmarks/camvid_against_smp.py --encoder-weights ENCODER.pth --epochs 3 \
        --seeds 0 1 2 [--size 192 256] [--threads 2] [--json camvid_against_smp.json]

Equal for both: pictures, their order and augmentation, size, batches, iterations, loss, optimiser with its groups and
schedule, encoder weights, and the evaluation: every validation picture at its original size, one confusion matrix, the
weights of the last step with their running BatchNorm statistics (no averaging). What differs is the model as its users
get it. Features of the two encoders are compared before anything is trained; the script stops where they differ.

A plain torch loop, no runner. Which of the two goes first changes from seed to seed. With ``--json`` the file grows by
one run at a time, and runs that it holds already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import effdense
from effdense.data import HorizontalFlip, ResizePad, ScaleJitterCrop, TrainSampler, read_mask_folder, resolve
from effdense.data.dataset import init_worker
from effdense.data.segmentation import SegmentationDataset, collate_segmentation
from effdense.evaluation.segmentation_scores import SegmentationScores, confusion_matrix
from effdense.models.batch_norm import recalibrate_batch_norm
from effdense.models.segmentation.families import segmentor_config
from effdense.models.segmentation.losses import segmentation_loss
from effdense.models.segmentation.postprocess import class_map_at
from effdense.models.weights import lukemelas, to_timm

OURS, PEER = "effdense", "smp"
WARMUP_FACTOR, MAX_NORM, PARITY = 0.05, 10.0, 1e-4
NOTE = (
    "mIoU: running BatchNorm statistics as trained; mIoU*: for reference, the same weights with the statistics of both "
    "measured anew on training batches"
)


# The two models ------------------------------------------------------------------------------------------------------


def build(side: str, classes: int, encoder_weights: str, seed: int) -> nn.Module:
    """The model as its users get it; what is not loaded is drawn by its own rules from `seed`."""
    torch.manual_seed(seed)
    if side == OURS:
        return our_model(classes, encoder_weights)
    import segmentation_models_pytorch as smp

    peer = smp.Unet("efficientnet-b0", encoder_weights=None, classes=classes)
    if encoder_weights != "random":
        fill_peer_encoder(peer, our_model(classes, encoder_weights))
    return peer


def our_model(classes: int, encoder_weights: str) -> nn.Module:
    ours = effdense.create_segmentor("efficientunet_b0", classes)
    if encoder_weights != "random":
        effdense.load_weights(ours.encoder, encoder_weights)
    return ours


def fill_peer_encoder(peer: Any, ours: nn.Module) -> None:
    """Our encoder's tensors into smp's; the ImageNet head, which smp keeps but a segmentor never runs, stays."""
    state, own = to_timm(ours), peer.encoder.state_dict()
    names = dict(zip(own, lukemelas.rename(own), strict=True))  # smp's name -> timm's, which is ours
    left = [key for key, name in names.items() if name not in state]
    if wrong := [key for key in left if not key.startswith(("_conv_head.", "_bn1."))]:
        raise SystemExit(f"smp's encoder has {len(wrong)} tensors that ours has not, first {wrong[:3]}")
    if extra := set(state) - set(names.values()):
        raise SystemExit(f"our encoder has {len(extra)} tensors that smp's has not, first {sorted(extra)[:3]}")
    with torch.no_grad():
        for key, name in names.items():
            if name in state:
                own[key].copy_(state[name])


def batch_norm_momenta(model: Any) -> dict[str, list[float]]:
    """Share of a new batch in the running statistics, by part: the one default of the two that differs."""
    parts = {"encoder": model.encoder, "decoder": model.decoder}
    return {
        name: sorted({m.momentum or 0.0 for m in part.modules() if isinstance(m, nn.BatchNorm2d)})
        for name, part in parts.items()
    }


def decoder_input(model: Any, images: Tensor) -> list[Tensor]:
    """The features that the encoder hands to the decoder, fine to coarse, in evaluation mode."""
    seen: list[Any] = []
    handle = model.decoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        model.eval()(images)
    handle.remove()
    return [feature for feature in seen[0] if feature.shape[-2:] != images.shape[-2:]]  # smp's begin with the images


def encoder_difference(classes: int, encoder_weights: str, size: tuple[int, int]) -> float:
    """Largest difference of a feature with equal encoder weights, relative to the largest value of its level."""
    ours, peer = build(OURS, classes, encoder_weights, 0), build(PEER, classes, encoder_weights, 0)
    if encoder_weights == "random":
        fill_peer_encoder(peer, ours)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    mine, theirs = decoder_input(ours, images), decoder_input(peer, images)
    if [f.shape for f in mine] != [f.shape for f in theirs]:
        raise SystemExit(f"features differ in shape: {[f.shape for f in mine]} and {[f.shape for f in theirs]}")
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(mine, theirs, strict=True))


# Data ----------------------------------------------------------------------------------------------------------------


def camvid(root: str, split: str, transforms: list[Any], *, training: bool) -> SegmentationDataset:
    folder = resolve(root)
    records, report = read_mask_folder(
        folder / "images",
        folder / "masks",
        classes=folder / "classes.json",
        split_file=folder / "splits" / f"{split}.txt",
        training=training,
    )
    report.raise_for_errors()
    return SegmentationDataset(records, transforms, training=training)


class Normalise:
    """uint8 (B, 3, H, W) to normalised floats on the device, in a memory format."""

    def __init__(self, device: torch.device, memory_format: torch.memory_format) -> None:
        stated = segmentor_config("efficientunet_b0")
        self.mean = 255.0 * torch.tensor(stated.mean, device=device).view(1, 3, 1, 1)
        self.std = 255.0 * torch.tensor(stated.std, device=device).view(1, 3, 1, 1)
        self.device, self.memory_format = device, memory_format

    def __call__(self, images: Tensor) -> Tensor:
        images = images.to(self.device).float().contiguous(memory_format=self.memory_format)
        return (images - self.mean) / self.std


def batches(dataset: SegmentationDataset, options: argparse.Namespace, seed: int, epoch: int) -> Iterator[Any]:
    """One epoch; order and augmentation depend on seed and epoch alone."""
    sampler = TrainSampler(dataset, seed=seed)
    sampler.set_epoch(epoch)
    return iter(
        DataLoader(
            dataset,
            batch_size=options.batch,
            sampler=sampler,
            drop_last=True,
            num_workers=options.workers,
            collate_fn=collate_segmentation,
            worker_init_fn=init_worker,
            generator=torch.Generator().manual_seed(seed),
        )
    )


# Training and evaluation ---------------------------------------------------------------------------------------------


def optimiser(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW; biases and BatchNorm parameters do not decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr)


def lr_factor(step: int, warmup: int, total: int) -> float:
    """Linear warm-up, then half a cosine over step / total."""
    if step < warmup:
        return WARMUP_FACTOR + (1.0 - WARMUP_FACTOR) * step / warmup
    return 0.5 * (1.0 + math.cos(math.pi * min(step / total, 1.0)))


def run(side: str, seed: int, train: SegmentationDataset, val: SegmentationDataset, options: Any) -> dict[str, Any]:
    """Train once; scores, the last losses and the time of an iteration (without loading)."""
    classes, device = len(train.class_map), torch.device(options.device)
    channels_last = side == OURS or options.peer_format == "channels_last"
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    normalise = Normalise(device, memory_format)
    model = build(side, classes, options.encoder_weights, seed).to(device).to(memory_format=memory_format)  # type: ignore[call-overload]
    if side == PEER and options.peer_bn_momentum is not None:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = options.peer_bn_momentum
    steps_per_epoch = len(train) // options.batch
    total = options.epochs * steps_per_epoch
    stop = total if options.max_iters is None else min(total, options.max_iters)
    warmup = round(min(1, options.epochs / 3) * steps_per_epoch)
    update = optimiser(model, options.lr, options.weight_decay)
    model.train()
    torch.manual_seed(seed)  # stochastic depth
    losses, seconds, step, start = [], [], 0, time.monotonic()
    for epoch in range(options.epochs):
        for batch in batches(train, options, seed, epoch):
            if step == stop:
                break
            for group in update.param_groups:
                group["lr"] = options.lr * lr_factor(step, warmup, total)
            images, masks = normalise(batch["inputs"]), batch["masks"].to(device)
            began = _now(device)
            loss = segmentation_loss(model(images), masks, dice_weight=options.dice_weight)["loss_seg"]
            update.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            update.step()
            seconds.append(_now(device) - began)
            losses.append(float(loss.detach()))
            step += 1
        shown = losses[-steps_per_epoch:]
        print(f"  {side} seed {seed} epoch {epoch + 1}/{options.epochs} loss {statistics.mean(shown):.4f}", flush=True)
    result = {
        "model": side,
        "seed": seed,
        "iterations": step,
        "loss_last_epoch": round(statistics.mean(losses[-steps_per_epoch:]), 5),
        "ms_per_iteration": round(1e3 * statistics.median(seconds), 1),
    }
    trained = time.monotonic() - start
    scores = evaluate(model, val, normalise, options.batch)
    result |= {"mIoU": scores.mIoU, "pixel_accuracy": scores.pixel_accuracy, "per_class_iou": scores.per_class_iou}
    if options.recalibrate:
        source = (normalise(b["inputs"]) for b, _ in zip(batches(train, options, seed, 0), range(options.recalibrate)))
        recalibrate_batch_norm(model, source)
        result["mIoU_recalibrated"] = evaluate(model, val, normalise, options.batch).mIoU
    return result | {"train_seconds": round(trained, 1), "seconds": round(time.monotonic() - start, 1)}


@torch.no_grad()
def evaluate(model: nn.Module, val: SegmentationDataset, normalise: Normalise, batch: int) -> SegmentationScores:
    """Scores over the whole split at the pictures' original size."""
    model.eval()
    names = val.class_map.names
    matrix = torch.zeros(len(names), len(names), dtype=torch.int64)
    for start in range(0, len(val), batch):
        indices = range(start, min(start + batch, len(val)))
        samples = [val[index] for index in indices]
        logits = model(normalise(collate_segmentation(samples)["inputs"])).float()
        for row, (index, sample) in enumerate(zip(indices, samples, strict=True)):
            predicted = class_map_at(logits[row : row + 1], sample["matrix"], sample["original_size"])
            matrix += confusion_matrix(predicted.cpu(), torch.from_numpy(val.load_mask(index)), len(names))
    return SegmentationScores.from_confusion(matrix, names, num_images=len(val))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


# Report --------------------------------------------------------------------------------------------------------------


def summary(runs: list[dict[str, Any]]) -> str:
    """A row per model: mean and sample standard deviation over its seeds."""
    lines = [f"{'model':<10} {'n':>2} {'mIoU':>16} {'mIoU*':>16} {'pixel accuracy':>16} {'ms/iteration':>13}"]
    for side in (OURS, PEER):
        own = [one for one in runs if one["model"] == side]
        if not own:
            continue
        columns = [_spread([one.get(key) for one in own]) for key in ("mIoU", "mIoU_recalibrated", "pixel_accuracy")]
        milliseconds = statistics.median(one["ms_per_iteration"] for one in own)
        lines.append(f"{side:<10} {len(own):>2} {''.join(f'{c:>17}' for c in columns)[1:]} {milliseconds:>13.1f}")
    both = [{one["seed"]: one["mIoU"] for one in runs if one["model"] == side} for side in (OURS, PEER)]
    if pairs := [both[0][seed] - both[1][seed] for seed in both[0] if seed in both[1]]:
        lines.append(f"effdense - smp, mIoU seed by seed: {', '.join(f'{d:+.4f}' for d in pairs)}")
    return "\n".join(lines)


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    deviation = f" +- {statistics.stdev(known):.4f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.4f}{deviation}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="camvid", help="data set, relative to EFFDENSE_DATA")
    parser.add_argument(
        "--encoder-weights", default="random", metavar="PATH", help='weights of both encoders, or "random"'
    )
    parser.add_argument("--size", type=int, nargs=2, default=[192, 256], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--max-iters", type=int, help="stop each run after so many iterations (a smoke test)")
    parser.add_argument("--max-val", type=int, help="validate on the first so many pictures (a smoke test)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--dice-weight", type=float, default=0.0, help="Dice loss beside the cross-entropy")
    parser.add_argument("--scale", type=float, nargs=2, default=[0.75, 1.5], help="of the random crop")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=(OURS, PEER, "ours"), help="run one of the two")
    parser.add_argument("--peer-format", choices=("nchw", "channels_last"), default="nchw", help="memory format of smp")
    parser.add_argument("--peer-bn-momentum", type=float, help="of all BatchNorm layers of smp; default: its own")
    parser.add_argument("--recalibrate", type=int, default=20, help="batches for the column mIoU*, 0: without it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=1, help="loader processes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    size = (options.size[0], options.size[1])
    augmented = [ScaleJitterCrop(size, scale=tuple(options.scale)), HorizontalFlip(0.5)]
    train = camvid(options.root, "train", augmented, training=True)
    val = camvid(options.root, "val", [ResizePad(size)], training=False)
    if options.max_val is not None:
        val = SegmentationDataset(val.records.subset(range(options.max_val)), val.transforms, training=False)
    places = ("root", "threads", "workers", "device", "json", "seeds", "only")
    settings = {key: value for key, value in vars(options).items() if key not in places}
    settings["encoder_weights"] = Path(options.encoder_weights).name
    machine = torch.cuda.get_device_name() if options.device.startswith("cuda") else f"cpu ({platform.machine()})"
    report: dict[str, Any] = {
        "settings": settings,
        "machine": {"device": machine, "threads": options.threads, "torch": str(torch.__version__)},
        "runs": [],
    }
    if options.json is not None and options.json.is_file():
        report = json.loads(options.json.read_text())
        if report["settings"] != settings:
            raise SystemExit(f"{options.json} holds a measurement with other settings; choose another file.")
    difference = encoder_difference(len(train.class_map), options.encoder_weights, size)
    print(f"encoder features, equal weights: largest relative difference {difference:.1e}")
    if not difference <= PARITY:
        raise SystemExit(f"the encoders differ by more than {PARITY:g}: this would not compare decoders and defaults.")
    report["encoder_difference"] = difference
    report["batch_norm_momentum"] = {
        side: batch_norm_momenta(build(side, len(train.class_map), "random", 0)) for side in (OURS, PEER)
    }
    print(f"BatchNorm momentum as its users get it: {report['batch_norm_momentum']}")
    print(f"{len(train)} training and {len(val)} validation pictures; {NOTE}\n", flush=True)
    done = {(one["model"], one["seed"]) for one in report["runs"]}
    sides = [side for side in (OURS, PEER) if options.only in (None, side) or (options.only, side) == ("ours", OURS)]
    for place, seed in enumerate(options.seeds):
        for side in sides if place % 2 == 0 else sides[::-1]:
            if (side, seed) in done:
                continue
            report["runs"].append(run(side, seed, train, val, options))
            print({key: value for key, value in report["runs"][-1].items() if key != "per_class_iou"}, flush=True)
            if options.json is not None:
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps(report, indent=1) + "\n")
    print("\n" + summary([one for one in report["runs"] if one["seed"] in options.seeds]))


if __name__ == "__main__":
    main()
