"""Charts of a report: numbers in, a uint8 (H, W, 3) RGB picture out. matplotlib draws them without a display.

Every chart is on white, so that it reads the same on a dark page. Symbols: K classes, T thresholds.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdense.visualize.palette import class_color

_DPI = 110
_BLUE, _RED, _ORANGE, _GREEN, _GREY = "#2f6db5", "#c8402f", "#e08a1e", "#3c8c4e", "#8a8f98"
_MOST_CURVES = 12  # more are not told apart


def _figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure of inches and its axes, with thin grey frames."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes


def _drawn(figure: Any) -> np.ndarray:
    with warnings.catch_warnings():  # letters that the font lacks are boxes; the tables have the names
        warnings.filterwarnings("ignore", message="Glyph")
        figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def _plain(text: str, most: int = 28) -> str:
    """A name as it is: no mathematics, at most ``most`` letters."""
    shown = text if len(text) <= most else text[: most - 1] + "…"
    return shown.replace("$", r"\$")


def cost_chart(cost: Mapping[str, float], counts: Mapping[str, int], special: Mapping[str, float]) -> np.ndarray:
    """Bars of what each error type costs, AP points, the dearest in red; the two summary costs below."""
    names = [*cost, *special]
    values = [*cost.values(), *special.values()]
    most = max(cost.values(), default=0.0)
    colors = [_RED if value == most > 0 else _BLUE for value in cost.values()] + [_GREY] * len(special)
    figure, axes = _figure(6.6, 0.34 * len(names) + 0.9)
    places = [i + (0.4 if i >= len(cost) else 0) for i in range(len(names))]
    axes.barh(places, values, color=colors, height=0.72)
    for place, name, value in zip(places, names, values, strict=True):
        said = f" {value:.2f}" + (f"  ({counts[name]})" if name in counts else "")
        axes.text(max(value, 0), place, said, va="center", fontsize=8)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, max([*values, 1e-3]) * 1.22)
    axes.set_xlabel("AP points that mending it alone would win  (how many)", fontsize=8)
    return _drawn(figure)


def curve_chart(
    curves: Sequence[tuple[str, NDArray[np.float64], NDArray[np.float64]]],
    *,
    xlabel: str,
    ylabel: str,
    mean: tuple[str, NDArray[np.float64], NDArray[np.float64]] | None = None,
    mark: float | None = None,
    mark_name: str = "",
) -> np.ndarray:
    """Lines with y in 0..1, one for each class and a thick black one for all.

    Args:
        curves: (name, x, y) of each, x ascending; past 12 they are drawn thin and without a name.
        mean: the same for all classes together. mark: an x to mark with a dashed line, called ``mark_name``.
    """
    figure, axes = _figure(6.6, 4.2)
    named = len(curves) <= _MOST_CURVES
    for label, (name, x, y) in enumerate(curves):
        color = tuple(channel / 255 for channel in class_color(label))
        style = {"linewidth": 1.4, "label": _plain(name)} if named else {"linewidth": 0.7, "alpha": 0.45}
        axes.plot(x, y, color=color, **style)
    if mean is not None:
        axes.plot(mean[1], mean[2], color="black", linewidth=2.2, label=_plain(mean[0], 60))
    if mark is not None:
        axes.axvline(mark, color=_GREY, linestyle="--", linewidth=1, label=_plain(mark_name, 60))
    given = [x for _, x, _ in curves] + ([] if mean is None else [mean[1]])
    axes.set_xlim(min([0.0, *(float(x[0]) for x in given)]), max([1.0, *(float(x[-1]) for x in given)]))
    axes.set_ylim(0, 1.02)
    axes.grid(True, linewidth=0.4, alpha=0.5)
    axes.set_xlabel(xlabel, fontsize=9)
    axes.set_ylabel(ylabel, fontsize=9)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return _drawn(figure)


def confusion_chart(
    counts: NDArray[Any], rows: Sequence[str], columns: Sequence[str], *, row_title: str, column_title: str
) -> np.ndarray:
    """A matrix as shares of its rows, coloured; numbers are written in up to 26 x 26 cells.

    Args: counts: (R, C), at least 0. rows, columns: their names.
    """
    from matplotlib.colors import PowerNorm

    counts = np.asarray(counts, np.float64)
    sums = counts.sum(1, keepdims=True)
    shares = np.divide(counts, sums, out=np.zeros_like(counts), where=sums > 0)
    most = max(len(rows), len(columns))
    cell = float(np.clip(9.0 / most, 0.16, 0.62))
    letters = max((min(len(name), 28) for name in [*rows, *columns]), default=1)
    font = float(np.clip(cell * 22, 5.0, 8.0))
    margin = 0.9 + letters * font / 120
    figure, axes = _figure(margin + cell * len(columns) + 0.9, margin + cell * len(rows))
    # The square root lets rare confusions be seen beside the diagonal.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1), aspect="auto")
    axes.set_xticks(range(len(columns)), [_plain(name) for name in columns], rotation=90, fontsize=font)
    axes.set_yticks(range(len(rows)), [_plain(name) for name in rows], fontsize=font)
    axes.set_xlabel(column_title, fontsize=9)
    axes.set_ylabel(row_title, fontsize=9)
    if most <= 26:
        for i, j in zip(*np.nonzero(counts), strict=True):
            text = f"{shares[i, j]:.2f}".removeprefix("0") if shares[i, j] < 0.995 else "1"
            axes.text(
                j, i, text, ha="center", va="center", fontsize=min(font, 7.5),
                color="white" if shares[i, j] > 0.35 else "black",
            )  # fmt: skip
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    bar.set_label("share of the row", fontsize=8)
    return _drawn(figure)


def recall_chart(
    names: Sequence[str], instances: Sequence[int], recall: Sequence[float], shown: Sequence[float], *, xlabel: str
) -> np.ndarray:
    """Pairs of bars: recall at any score, and at the threshold; the number of objects above. Empty bins stay empty."""
    figure, axes = _figure(max(4.6, 0.66 * len(names) + 1.2), 3.2)
    places = np.arange(len(names))
    any_score, at_threshold = np.nan_to_num(recall), np.nan_to_num(shown)
    axes.bar(places - 0.2, any_score, 0.38, color=_BLUE, label="any score")
    axes.bar(places + 0.2, at_threshold, 0.38, color=_ORANGE, label="at the threshold")
    for place, count, top in zip(places, instances, np.maximum(any_score, at_threshold), strict=True):
        axes.text(place, top + 0.01, f"{count}", ha="center", va="bottom", fontsize=7, color="#444444")
    axes.set_xticks(places, names, fontsize=8, rotation=25 if len(names) > 6 else 0)
    axes.set_ylim(0, 1.08)
    axes.set_ylabel("recall  (number of objects above)", fontsize=8)
    axes.set_xlabel(xlabel, fontsize=9)
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return _drawn(figure)


def score_chart(
    low: Sequence[float], right: Sequence[int], false: Sequence[int], mean_score: Sequence[float], threshold: float
) -> np.ndarray:
    """Right and false detections by score, and below them the precision of each bin against its mean score.

    Args: low: left edges of bins of equal width.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6, 4.6), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.3, 1))
    edges, good, bad = np.asarray(low), np.asarray(right, np.float64), np.asarray(false, np.float64)
    width = 1 / max(len(edges), 1)
    upper.bar(edges + 0.05 * width, good, width * 0.45, align="edge", color=_GREEN, label="right")
    upper.bar(edges + 0.5 * width, bad, width * 0.45, align="edge", color=_RED, label="false")
    if (good + bad).max(initial=0) > 30 * max(np.median(good + bad), 1):
        upper.set_yscale("symlog", linthresh=10)
    upper.set_ylabel("detections", fontsize=8)
    filled = good + bad > 0
    precision = np.divide(good, good + bad, out=np.zeros_like(good), where=filled)
    lower.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1, label="as sure as right")
    lower.plot(np.asarray(mean_score)[filled], precision[filled], color=_BLUE, marker="o", markersize=3, linewidth=1.2)
    lower.set_ylim(0, 1.02)
    lower.set_xlim(0, 1)
    lower.set_ylabel("precision of the bin", fontsize=8)
    lower.set_xlabel("score", fontsize=9)
    for axes in (upper, lower):
        axes.axvline(
            min(threshold, 1.0), color="black", linestyle="--", linewidth=1, label=f"threshold {threshold:.2f}"
        )
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return _drawn(figure)


def share_chart(names: Sequence[str], values: Sequence[float], *, xlabel: str) -> np.ndarray:
    """One bar in 0..1 for each name, with its number; nan has none. Names come top to bottom as given."""
    figure, axes = _figure(6.6, max(1.2, 0.24 * len(names) + 0.7))
    places = np.arange(len(names))
    axes.barh(places, np.nan_to_num(values), color=_BLUE, height=0.72)
    for place, value in zip(places, values, strict=True):
        axes.text(np.nan_to_num(value), place, " -" if np.isnan(value) else f" {value:.3f}", va="center", fontsize=7)
    axes.set_yticks(places, [_plain(name) for name in names], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1)
    axes.set_xlabel(xlabel, fontsize=8)
    return _drawn(figure)
