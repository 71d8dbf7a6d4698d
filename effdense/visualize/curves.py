"""Curves of training runs: what they have logged in, the bytes of a PNG out; matplotlib without a display."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from effdense.visualize.figure import plain_text, png_bytes
from effdense.visualize.run_numbers import Numbers, RunCurves

_COLORS = (
    "#3465a4", "#e07b39", "#4c9a5b", "#9a5bb0", "#c8402f", "#8a6d3b", "#d37cb4", "#7a7a7a", "#a8a832", "#38a3b8",
)  # fmt: skip
_STYLES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
_INK, _RED, _GRID = "#222222", "#a40000", "#e4e4e4"
_DPI = 100
_POINTS = 500  # of a line; of more, neighbours are averaged
_MARKED = 60  # up to so many points each is marked, so that a single one is seen
_LOG_ABOVE = 20  # times: from there on the end of a loss curve is flat on a linear axis
_OTHERS = 5  # scores beside the main one
_LEGEND = 30  # runs that are named
_NARROWED = 0.75  # share of the width that is left beside a legend


def draw_run(run: RunCurves) -> bytes:
    """A PNG of one run: losses, scores with the best epoch marked, learning rate, and gradient norm or speed."""
    figure, ((losses, scores), (rate, last)) = _page(f"{run.name}: {_summary(run)}")
    names = [name for name in run.training if "loss" in name and name != "loss"]
    if len(names) == 1 and "loss" in run.training:  # it is the loss, and would lie under its line
        names = []
    for i, name in enumerate(names[: len(_COLORS)]):
        _line(losses, run.at, run.training[name], _COLORS[i], name)
    if "loss" in run.training:
        _line(losses, run.at, run.training["loss"], _INK, "loss", width=1.8)
        lost = ~np.isfinite(run.training["loss"])
        if lost.any():
            label = f"not finite ({int(lost.sum())})"
            losses.plot(
                run.at[lost], np.full(int(lost.sum()), 0.02), "x", color=_RED, label=label,
                transform=losses.get_xaxis_transform(), clip_on=False,
            )  # fmt: skip
    _finish(
        losses, "training loss", log=_spans_decades([run.training[n] for n in ("loss", *names) if n in run.training])
    )
    _draw_scores(scores, run)
    _line(rate, run.at, run.training.get("lr", np.full(len(run.at), np.nan)), _COLORS[0], "")
    _finish(rate, "learning rate", xlabel="epoch", bottom=0)
    norm = run.training.get("grad_norm")
    if norm is not None:
        _line(last, run.at, norm, _COLORS[3], "")
        _finish(last, "norm of the gradients, before clipping", xlabel="epoch", log=_spans_decades([norm]))
    else:
        _line(last, run.at, run.training.get("images_per_second", np.full(len(run.at), np.nan)), _COLORS[2], "")
        _finish(last, "images per second", xlabel="epoch", bottom=0)
    return png_bytes(figure)


def draw_runs(runs: Sequence[RunCurves]) -> bytes:
    """A PNG of several runs together, one colour each: loss, score, learning rate, images per second.

    The score is the first run's; a run that does not report it has no line there.
    """
    figure, ((losses, scores), (rate, speed)) = _page(f"{len(runs)} run{'s' * (len(runs) != 1)}", legend=True)
    names = []
    metric = next((run.metric for run in runs if run.metric is not None), None)
    for i, run in enumerate(runs):
        color = _COLORS[i % len(_COLORS)]
        style = _STYLES[i // len(_COLORS) % len(_STYLES)]
        for axes, name in ((losses, "loss"), (rate, "lr"), (speed, "images_per_second")):
            if name in run.training:
                _line(axes, run.at, run.training[name], color, "", style=style)
        label = plain_text(run.name, 44)
        if metric is not None and metric in run.scores:
            _line(scores, run.validated, run.scores[metric], color, "", style=style)
            if run.best is not None and metric == run.metric:
                value = run.scores[metric][run.best]
                scores.plot(run.validated[run.best], value, "*", color=color, markersize=12, zorder=5)
                label = f"{plain_text(run.name, 44)}:  {value:.4f} at {run.validated[run.best]:.4g}"
        if i < _LEGEND:
            names.append(Line2D([], [], color=color, linestyle=style, label=label))
    _finish(losses, "training loss", log=_spans_decades([r.training["loss"] for r in runs if "loss" in r.training]))
    _finish(scores, plain_text(f"validation: {metric or 'none yet'}"))
    _finish(rate, "learning rate", xlabel="epoch", bottom=0)
    _finish(speed, "images per second", xlabel="epoch", bottom=0)
    more = "" if len(runs) <= _LEGEND else f", {_LEGEND} of them named"
    figure.legend(
        handles=names, title=f"best score and its epoch (star){more}", title_fontsize=9, fontsize=9, frameon=False,
        loc="upper left", bbox_to_anchor=(_NARROWED + 0.005, 0.92), alignment="left",
    )  # fmt: skip
    return png_bytes(figure)


def _page(title: str, *, legend: bool = False) -> tuple[Figure, Any]:
    """A figure of two by two axes, with room for a legend at the right."""
    # Fixed margins: measuring the texts (layout="constrained") doubles the time, which a run pays.
    figure = Figure(figsize=(16.4 if legend else 12.4, 7.6), dpi=_DPI, facecolor="white")
    right = _NARROWED if legend else 0.985
    figure.subplots_adjust(left=0.06, right=right, top=0.9, bottom=0.07, wspace=0.13, hspace=0.2)
    figure.suptitle(plain_text(title, 110), fontsize=13)
    return figure, figure.subplots(2, 2)


def _summary(run: RunCurves) -> str:
    """Epochs done and the best of them, for a title."""
    done = float(max([0.0, *run.at[-1:], *run.validated[-1:]]))
    parts = [f"{done:.4g} epoch{'s' * (done != 1)}"]
    if run.metric is not None and run.best is not None:
        parts.append(f"best {run.metric} {run.scores[run.metric][run.best]:.4f} at epoch {run.validated[run.best]:.4g}")
    elif run.metric is None:
        parts.append("not validated yet")
    return ", ".join(parts)


def _draw_scores(axes: Axes, run: RunCurves) -> None:
    others = [name for name in run.scores if name != run.metric]
    if run.metric is not None:
        # -1 is "no such object" in COCO's numbers; what lies elsewhere (a loss, milliseconds) has another scale.
        near = [name for name in others if ((run.scores[name] >= 0) & (run.scores[name] <= 1)).any()]
        for i, name in enumerate(near[:_OTHERS]):
            values = np.where((run.scores[name] >= 0) & (run.scores[name] <= 1), run.scores[name], np.nan)
            _line(axes, run.validated, values, _COLORS[i], name, width=1.0)
        values = run.scores[run.metric]
        _line(axes, run.validated, values, _INK, run.metric, width=2.0)
        if run.best is not None:
            label = f"best: epoch {run.validated[run.best]:.4g}"
            axes.plot(
                run.validated[run.best], values[run.best], "*", color=_RED, markersize=14, label=label, zorder=5,
                linestyle="none",
            )  # fmt: skip
            axes.axvline(float(run.validated[run.best]), color=_RED, linewidth=0.8, linestyle=":")
    _finish(axes, "validation")


def _line(axes: Axes, x: Numbers, y: Numbers, color: str, label: str, *, width: float = 1.3, style: str = "-") -> None:
    """A line through what is finite, with gaps; points that nothing joins are marked."""
    x, y = _thinned(x, y)
    finite = np.isfinite(y)
    if not finite.any():
        return
    joined = np.concatenate([[False], finite])[:-1] | np.concatenate([finite, [False]])[1:]
    marked = finite if len(x) <= _MARKED else finite & ~joined
    axes.plot(x, y, color=color, linewidth=width, linestyle=style, label=plain_text(label, 40) or "_")
    axes.plot(x[marked], y[marked], "o", color=color, markersize=width + 2)


def _thinned(x: Numbers, y: Numbers) -> tuple[Numbers, Numbers]:
    """At most ``_POINTS`` points: means of neighbours, nan only where all of them are."""
    if len(x) <= _POINTS:
        return x, y
    starts = np.linspace(0, len(x), _POINTS, endpoint=False).astype(int)
    finite = np.isfinite(y)
    counts = np.add.reduceat(finite.astype(np.float64), starts)
    sums = np.add.reduceat(np.where(finite, y, 0.0), starts)
    means = np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    return np.add.reduceat(x, starts) / np.diff([*starts, len(x)]), means


def _spans_decades(lines: Sequence[Numbers]) -> bool:
    """Whether a logarithmic axis shows these lines better, and can."""
    values = np.concatenate([line[np.isfinite(line)] for line in lines]) if lines else np.zeros(0)
    return len(values) > 1 and bool(values.min() > 0) and bool(values.max() > _LOG_ABOVE * values.min())


def _finish(axes: Axes, title: str, *, xlabel: str = "", log: bool = False, bottom: float | None = None) -> None:
    """Title, scales, grid and legend; says so where nothing was drawn."""
    axes.set_title(f"{title}{' (log)' if log else ''}", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10]))
    if not axes.lines:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "nothing yet", ha="center", va="center", transform=axes.transAxes, color="#8a8f98")
        return
    axes.set_xlim(left=0)
    if bottom is not None:
        axes.set_ylim(bottom=bottom)
    if log:
        axes.set_yscale("log")
    else:
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        axes.legend(handles[::-1], labels[::-1], fontsize=8, framealpha=0.8, edgecolor="none", loc="best")
