"""Step one of compound scaling (EfficientNet section 3.3): grid over alpha, beta, gamma at phi = 1.

    python tools/scaling_search.py                         # count every candidate, under a minute on one core
    python tools/scaling_search.py --proxy-steps 200 --top 6   # and train the six best for 200 steps each
    python tools/scaling_search.py --step 0.02 --tolerance 0.03 --json search.json

Prints the candidates, the published constants with their neighbours, and the best by score. The short training
classifies generated shapes with the candidates at half width, half depth and 48 px. It stands in for the ImageNet runs
of the paper and shows the method; its differences of a few per cent are noise.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from effdense import create_classifier
from effdense.data.generated.shape_pictures import SHAPE_NAMES, draw_picture
from effdense.errors import ConfigError, EffdenseError
from effdense.models.encoders.scaling import scaled_encoder_config
from effdense.models.scaling_search import (
    PUBLISHED,
    Candidate,
    constraint_grid,
    constraint_product,
    measure_candidates,
    neighbours,
)

PROXY_WIDTH, PROXY_DEPTH, PROXY_RESOLUTION, PICTURE_PX = 0.5, 0.5, 48, 96
BATCH, TEST_PICTURES = 32, 400


def shape_pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(count, 3, 96, 96) in [-1, 1] and (count,) labels: generated shapes, one a picture, cut out with some ground."""
    generator = np.random.default_rng(seed)
    images: list[Tensor] = []
    labels: list[int] = []
    while len(images) < count:
        picture = draw_picture((PICTURE_PX, PICTURE_PX), 1, generator)
        if len(picture.labels) == 1:
            rows, columns = np.nonzero(picture.masks[0])
            y, x = (int(axis.min() + axis.max()) // 2 for axis in (rows, columns))
            half = max(12, int(0.65 * max(np.ptp(rows), np.ptp(columns))))
            cut = picture.image[max(0, y - half) : y + half, max(0, x - half) : x + half]
            image = torch.from_numpy(cut).permute(2, 0, 1)[None].float() / 127.5 - 1
            images.append(F.interpolate(image, size=(PICTURE_PX, PICTURE_PX), mode="bilinear", align_corners=False))
            labels.append(int(picture.labels[0]))
    return torch.cat(images), torch.tensor(labels)


def train_proxy(candidate: Candidate, base: str, steps: int, seed: int = 0) -> float:
    """Accuracy on unseen pictures after `steps` steps of a small network of the candidate's proportions."""
    config = scaled_encoder_config(
        base,
        width=PROXY_WIDTH * candidate.beta,
        depth=PROXY_DEPTH * candidate.alpha,
        resolution=round(PROXY_RESOLUTION * candidate.gamma),
    )
    torch.manual_seed(seed)
    model = create_classifier(config.name, len(SHAPE_NAMES), dropout=0.0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    side = config.resolution

    def resized(images: Tensor) -> Tensor:
        return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)

    images, labels = shape_pictures(min(steps * BATCH, 4000), seed=1)
    order = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randint(len(images), (BATCH,), generator=order)
        loss = F.cross_entropy(model(resized(images[chosen])), labels[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    # Running statistics of a few dozen steps lag behind the weights: renew them on what was trained on.
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # torch's cumulative mean
    test_images, test_labels = shape_pictures(TEST_PICTURES, seed=2)
    with torch.no_grad():
        for part in images[: 16 * BATCH].split(BATCH):
            model(resized(part))
        model.eval()
        predicted = torch.cat([model(resized(part)).argmax(1) for part in test_images.split(100)])
    return float((predicted == test_labels).float().mean())


def line(candidate: Candidate) -> str:
    accuracy = "" if candidate.accuracy is None else f"{candidate.accuracy:>10.3f}"
    mark = "  published" if candidate.coefficients == PUBLISHED else ""
    return (
        f"{candidate.alpha:>6g} {candidate.beta:>6g} {candidate.gamma:>6g} {candidate.product:>9.3f} "
        f"{candidate.macs_ratio:>9.3f} {candidate.params_ratio:>9.3f}{accuracy}{mark}"
    )


def print_table(title: str, candidates: list[Candidate]) -> None:
    accuracy = f"{'accuracy':>10}" if any(candidate.accuracy is not None for candidate in candidates) else ""
    print(f"\n{title}\n{'alpha':>6} {'beta':>6} {'gamma':>6} {'a*b^2*g^2':>9} {'MACs x':>9} {'params x':>9}{accuracy}")
    print("\n".join(line(candidate) for candidate in candidates))


def check(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for what would only fail after minutes of counting and training."""
    for option, value, least in (("--proxy-steps", arguments.proxy_steps, 0), ("--top", arguments.top, 1)):
        if value < least:
            raise ConfigError(f"{option} must be at least {least}, got {value}.")
    if arguments.json and not arguments.json.parent.is_dir():
        raise ConfigError(f"there is no folder {arguments.json.parent} for --json; make it first.")


def search(arguments: argparse.Namespace) -> None:
    check(arguments)
    start = time.monotonic()
    grid = constraint_grid(arguments.step, arguments.tolerance)
    on_grid = PUBLISHED in grid
    candidates = measure_candidates(grid if on_grid else [*grid, PUBLISHED], arguments.base)
    print(
        f"{len(grid)} candidates with |alpha * beta^2 * gamma^2 - 2| <= {arguments.tolerance:g} on a grid of "
        f"{arguments.step:g}, measured as {arguments.base} at phi = 1 in {time.monotonic() - start:.0f} s"
    )
    published = next(one for one in candidates if one.coefficients == PUBLISHED)
    near = neighbours(PUBLISHED, candidates, arguments.step)
    if arguments.proxy_steps:
        # Rounding makes one network of several points: train each network once, and the published one always.
        distinct = {(one.macs_ratio, one.params_ratio): one for one in reversed(candidates)}
        chosen = [one for one in candidates if one in distinct.values()][: arguments.top]
        chosen += [one for one in (published,) if one not in chosen]
        trained = {}
        for one in chosen:
            trained[one] = replace(one, accuracy=train_proxy(one, arguments.base, arguments.proxy_steps))
            print(f"trained {one.name}: accuracy {trained[one].accuracy:.3f}", flush=True)
        candidates = sorted((trained.get(one, one) for one in candidates), key=lambda one: one.score, reverse=True)
        published, near = trained[published], [trained.get(one, one) for one in near]
    if arguments.list_all or len(candidates) <= 20:
        print_table("all candidates, best first", candidates)
    else:
        print_table("the 20 best of them (--list-all for the rest)", candidates[:20])
    product = constraint_product(*PUBLISHED)
    within = "a valid solution" if abs(product - 2) <= arguments.tolerance else "outside the tolerance"
    print_table(f"the published constants: product {product:.3f}, {within}", [published])
    print_table(f"their {len(near)} neighbours on the grid", near)
    best = candidates[0]
    by = "accuracy of the short training" if best.accuracy is not None else "nearness of the measured MACs to 2 x"
    print_table(f"best by {by}, then parameters", [best])
    if arguments.json:
        content = {
            "base": arguments.base, "step": arguments.step, "tolerance": arguments.tolerance,
            "proxy_steps": arguments.proxy_steps, "published_is_on_the_grid": on_grid,
            "candidates": [one.as_dict() for one in candidates], "published": published.as_dict(),
            "neighbours": [one.as_dict() for one in near], "best": best.as_dict(),
        }  # fmt: skip
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="efficientnet", help="efficientnet, efficientnet_lite or efficientnetv2")
    parser.add_argument("--step", type=float, default=0.05)
    parser.add_argument("--tolerance", type=float, default=0.1, help="of alpha * beta^2 * gamma^2 around 2")
    parser.add_argument("--proxy-steps", type=int, default=0, metavar="N", help="train the best for N steps each")
    parser.add_argument("--top", type=int, default=5, help="how many of the best to train (default 5)")
    parser.add_argument("--list-all", action="store_true", help="print every candidate")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all results here")
    try:
        search(parser.parse_args(argv))
    except EffdenseError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
