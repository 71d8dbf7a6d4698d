"""Label statistics as pictures: numbers of a split in, the bytes of a PNG out; matplotlib without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from effdense.data.checks.label_statistics import SIZE_NAMES, LabelStatistics
from effdense.visualize.figure import plain_text, png_bytes

_BLUE, _GREY = "#3465a4", "#b8bec6"
_COLORS = ("#3465a4", "#e07b39", "#4c9a5b", "#9a5bb0", "#7a7a7a")
_MARKERS = ("o", "D", "s", "^", "v")
MAX_CLASSES = 100  # beyond that the most frequent and the rarest half of as many
_LOG_ABOVE = 50  # times: from there on small counts vanish on a linear axis
_DPI = 100
_NAME_LENGTH = 22


def draw_labels(name: str, statistics: LabelStatistics) -> bytes:
    """A PNG of one split: amounts per class, for boxes their shapes, places and number per picture, for pixels the
    masks that hold a class.
    """
    boxes = statistics.unit == "boxes"
    height = {"boxes": 9.5, "pixels": 8.6, "pictures": 5.2}[statistics.unit]
    figure = Figure(figsize=(_width(len(statistics.names)), height), dpi=_DPI, layout="constrained")
    if statistics.unit == "pixels":
        upper, lower = figure.subplots(2, 1)
        _per_class(upper, statistics)
        # In the same order, so that what is rare in pixels and common in pictures (or the other way) is seen.
        shown = _shown(_shares(statistics))
        _bars(lower, statistics.pictures.astype(float), shown, statistics.names, "masks that hold the class", False)
    elif not boxes:
        _per_class(figure.add_subplot(), statistics)
    else:
        grid = figure.add_gridspec(2, 4, height_ratios=(1.1, 1))
        _per_class(figure.add_subplot(grid[0, :]), statistics)
        _sizes(figure.add_subplot(grid[1, 0]), statistics)
        _centres(figure.add_subplot(grid[1, 1]), statistics)
        _objects(figure.add_subplot(grid[1, 2]), statistics)
        _aspects(figure.add_subplot(grid[1, 3]), statistics)
    figure.suptitle(plain_text(_title(name, statistics)), fontsize=13)
    return png_bytes(figure)


def draw_comparison(splits: Mapping[str, LabelStatistics]) -> bytes:
    """A PNG with the share of each class in every split; all of them have the same classes."""
    first = next(iter(splits.values()))
    figure = Figure(figsize=(_width(len(first.names)), 5.6), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    shown = _shown(np.sum([_shares(one) for one in splits.values()], axis=0))
    places = np.arange(len(shown))
    values = {name: 100 * _shares(one)[shown] for name, one in splits.items()}
    present = np.concatenate(list(values.values()))
    present = present[present > 0]
    log = len(present) > 0 and present.max() > _LOG_ABOVE * present.min()
    if log:
        axes.set_yscale("log")
    for k, (name, share) in enumerate(values.items()):
        some = share > 0
        shift = 0.16 * (k - (len(values) - 1) / 2)
        axes.plot(
            places[some] + shift, share[some], _MARKERS[k % 5], color=_COLORS[k % 5], label=plain_text(name),
            markersize=5, markerfacecolor=_COLORS[k % 5] if k == 0 else "none",
        )  # fmt: skip
        lacking = places[~some] + shift
        axes.plot(
            lacking, np.full(len(lacking), 0.015), "x", color=_COLORS[k % 5], markersize=5,
            transform=axes.get_xaxis_transform(), clip_on=False,
        )  # fmt: skip
    _name_classes(axes, [first.names[i] for i in shown])
    axes.set_xlim(-0.7, len(shown) - 0.3)
    if not log:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.set_ylabel(f"share of the split's {first.unit}")
    axes.grid(axis="y", color="#e4e4e4")
    axes.set_axisbelow(True)
    axes.legend(loc="upper right", ncols=len(values))
    figure.suptitle(plain_text(f"Share of each class in {', '.join(splits)}   (x: none in that split)"), fontsize=13)
    return png_bytes(figure)


def _width(classes: int) -> float:
    return float(np.clip(0.19 * classes + 3, 14, 20))


def _title(name: str, statistics: LabelStatistics) -> str:
    total, classes = int(statistics.counts.sum()), len(statistics.names)
    parts = [f"{name}: {total:,} {statistics.unit} of {classes} class{'es' * (classes != 1)}"]
    if statistics.unit == "boxes":
        parts.append(f"{len(statistics.objects_per_image):,} pictures")
        share = np.array(statistics.sizes) / max(1, sum(statistics.sizes))
        parts.append(", ".join(f"{part:.0%} {size}" for size, part in zip(SIZE_NAMES, share)))
    if statistics.unit == "pixels":
        parts.append(f"{statistics.ignored / max(1, total + statistics.ignored):.1%} of all pixels ignored")
    return "; ".join(parts)


def _shares(statistics: LabelStatistics) -> NDArray[np.float64]:
    return statistics.counts / max(1, int(statistics.counts.sum()))


def _shown(amounts: NDArray[Any]) -> NDArray[np.int64]:
    """Classes by falling amount; of very many the first and the last ones."""
    order = np.argsort(-amounts, kind="stable")
    half = MAX_CLASSES // 2
    return order if len(order) <= MAX_CLASSES else np.concatenate([order[:half], order[-half:]])


def _name_classes(axes: Axes, names: list[str]) -> None:
    short = [name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…" for name in names]
    size = 9 if len(names) <= 40 else 7.5 if len(names) <= 70 else 6.5
    turned = len(names) > 12 or sum(map(len, short)) > 110
    axes.set_xticks(
        range(len(names)), [plain_text(name) for name in short], rotation=90 if turned else 0, fontsize=size
    )


def _per_class(axes: Axes, statistics: LabelStatistics) -> None:
    share = statistics.unit == "pixels"
    amounts = 100 * _shares(statistics) if share else statistics.counts.astype(float)
    unit = "% of the pixels" if share else statistics.unit
    _bars(axes, amounts, _shown(amounts), statistics.names, f"{unit} per class", share)


def _bars(
    axes: Axes,
    amounts: NDArray[np.float64],
    shown: NDArray[np.int64],
    names: Sequence[str],
    title: str,
    fine: bool,
) -> None:
    """A bar for each class shown, with its amount where there is room; ``fine``: with digits after the point."""
    values = amounts[shown]
    places = np.arange(len(shown))
    positive = values[values > 0]
    log = len(positive) > 0 and positive.max() > _LOG_ABOVE * positive.min()
    axes.bar(places, values, width=0.75, color=_BLUE)
    if log:
        axes.set_yscale("log")
        axes.set_ylim(bottom=positive.min() / 2)
    for x in places[values == 0].tolist():
        axes.text(
            x, 0.01, "0", ha="center", va="bottom", fontsize=7, color="#a40000", transform=axes.get_xaxis_transform()
        )
    if len(shown) <= 40:
        for x, value in zip(places.tolist(), values.tolist()):
            if value > 0:
                text = f"{value:.2g}" if fine and value < 10 else f"{value:,.0f}"
                axes.text(x, value, text, ha="center", va="bottom", fontsize=8)
    if len(amounts) > len(shown):
        axes.axvline(len(shown) / 2 - 0.5, color="#a40000", linestyle="--")
        left = len(amounts) - len(shown)
        axes.text(
            len(shown) / 2, 0.95, f"{left} classes between are left out", transform=axes.get_xaxis_transform(), va="top"
        )
    _name_classes(axes, [names[i] for i in shown])
    side = max(0.7, (6 - len(shown)) / 2)
    axes.set_xlim(-side, len(shown) - 1 + side)
    axes.set_title(f"{title}{' (log)' if log else ''}", fontsize=11)
    axes.grid(axis="y", color="#e4e4e4")
    axes.set_axisbelow(True)


def _empty(axes: Axes, title: str, values: NDArray[Any]) -> bool:
    axes.set_title(title, fontsize=11)
    if len(values):
        return False
    axes.text(0.5, 0.5, "no boxes", ha="center", va="center", transform=axes.transAxes, color=_GREY)
    return True


def _sizes(axes: Axes, statistics: LabelStatistics) -> None:
    if _empty(axes, "width x height, share of the picture", statistics.geometry):
        return
    width, height = statistics.geometry[:, 2], statistics.geometry[:, 3]
    if len(width) > 2000:
        axes.hexbin(width, height, gridsize=40, extent=(0, 1, 0, 1), bins="log", cmap="Blues", mincnt=1)
    else:
        axes.scatter(width, height, s=8, alpha=0.45, color=_BLUE, linewidths=0)
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="width", ylabel="height")


def _centres(axes: Axes, statistics: LabelStatistics) -> None:
    if _empty(axes, "where the centres lie (dark: many)", statistics.geometry):
        return
    bins = 32 if len(statistics.geometry) > 2000 else 16
    heat, _, _ = np.histogram2d(statistics.geometry[:, 1], statistics.geometry[:, 0], bins=bins, range=((0, 1), (0, 1)))
    axes.imshow(heat, cmap="Blues", extent=(0, 1, 1, 0), vmin=0)
    axes.set(xlabel="left to right", ylabel="top to bottom")


def _objects(axes: Axes, statistics: LabelStatistics) -> None:
    values = statistics.objects_per_image
    if _empty(axes, "boxes per picture", values):
        return
    top = int(values.max())
    step = max(1, -(-(top + 1) // 40))
    axes.hist(values, bins=(np.arange(0, top + step + 1, step) - 0.5).tolist(), color=_BLUE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=f"boxes (mean {values.mean():.1f}, most {top})", ylabel="pictures")


def _aspects(axes: Axes, statistics: LabelStatistics) -> None:
    if _empty(axes, "aspect ratio, width / height", statistics.aspects):
        return
    exponents = np.log2(np.clip(statistics.aspects, 1 / 16, 16))
    axes.hist(exponents, bins=np.arange(-4, 4.01, 0.25).tolist(), color=_BLUE)
    axes.set_xticks(range(-4, 5), ["1:16", "1:8", "1:4", "1:2", "1:1", "2:1", "4:1", "8:1", "16:1"], fontsize=8)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="left: tall, right: wide", ylabel="boxes")
