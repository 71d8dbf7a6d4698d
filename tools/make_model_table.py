"""Write docs/model_table.md: what every encoder and detector costs here, beside what was published.

python tools/make_model_table.py            # half a minute on one core; needs no weights and no network
python tools/make_model_table.py --check    # exit code 1 if the page is not what this would write
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from effdense.models.costs import ModelCost, build_model, model_cost
from effdense.models.detection import detector_names
from effdense.models.encoders import encoder_names
from effdense.models.published import Published, agrees, printed_value, published

PAGE = Path(__file__).parents[1] / "docs" / "model_table.md"
PARAMS_TOLERANCE, MACS_TOLERANCE = 0.005, 0.03
_ENCODER_COLUMNS = (
    "model", "input px", "params M", "as encoder M", "GMACs", "2 x MACs G", "channels at stride 2, 4, 8, 16, 32",
    "published params", "published MACs", "ImageNet top-1 %",
)  # fmt: skip
_DETECTOR_COLUMNS = (
    "model", "encoder", "input px", "params M", "GMACs", "2 x MACs G", "BiFPN", "head layers", "strides",
    "published params", "published MACs", "COCO val AP",
)  # fmt: skip
_GROUPS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("EfficientNet", lambda name: name.startswith("efficientnet_") and "lite" not in name),
    ("EfficientNet-Lite", lambda name: name.startswith("efficientnet_lite")),
    ("EfficientNetV2", lambda name: name.startswith("efficientnetv2_") and "_rw_" not in name),
    ("EfficientNetV2-RW (timm's)", lambda name: "_rw_" in name),
    ("EfficientDet", lambda name: name.startswith("efficientdet_d")),
    ("EfficientDet-Lite", lambda name: name.startswith("efficientdet_lite")),
    ("EfficientDet with EfficientNetV2", lambda name: name.startswith(("efficientdet_v2", "efficientdetv2_"))),
)
_HEAD = """# Model table

Written by `python tools/make_model_table.py`; do not edit. `effdense info NAME` prints one row with more detail,
`effdense list --long` the costs of any choice of models, and [scaling](scaling.md) tells of sizes in between.

- Parameters and multiply-adds (MACs) are counted by running every model on torch's meta device: convolutions and matrix
  products of one image at the input size given, without element-wise work, pooling, resizing and post-processing.
  "2 x MACs" is what other families call FLOPs.
- Encoders count with the ImageNet head that published figures include; "as encoder" is the network that
  `create_encoder` builds, without it. Detectors count with 90 classes, as published.
- Deviations are ours against the printed figure. A star marks more than 0.5 % in parameters or 3 % in MACs where ours
  does not round to the figure as printed either; each is explained under [Exceptions](#exceptions).
- Numbers in brackets are [sources](#sources). Scores are those of the published weights named there, not of ours.
"""


class Footnotes:
    """Texts numbered in the order of their first use."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def number(self, text: str | None) -> str:
        if text is None:
            return ""
        if text not in self.texts:
            self.texts.append(text)
        return f" [{self.texts.index(text) + 1}]"


def _side(cost: ModelCost) -> str:
    height, width = cost.image_size
    return str(height) if height == width else f"{height}x{width}"


def _compared(figure: str | None, measured: int, tolerance: float, source: str) -> str:
    if figure is None:
        return "-"
    star = "" if agrees(figure, measured, tolerance) else "*"
    return f"{figure} ({100 * (measured / printed_value(figure) - 1):+.1f} %{star}){source}"


def _published_cells(row: Published, cost: ModelCost, notes: Footnotes) -> list[str]:
    source = notes.number(row.cost_source)
    score = "-" if row.score is None else f"{row.score:g}{notes.number(row.score_source)}"
    return [
        _compared(row.params, cost.total_params, PARAMS_TOLERANCE, source),
        _compared(row.macs, cost.total_macs, MACS_TOLERANCE, source),
        score,
    ]


def encoder_row(name: str, notes: Footnotes) -> str:
    cost, encoder = model_cost(name), build_model(name)
    cells = [
        name, _side(cost), f"{cost.total_params / 1e6:.2f}", f"{cost.params / 1e6:.2f}", f"{cost.total_macs / 1e9:.3f}",
        f"{cost.flops / 1e9:.3f}", ", ".join(str(c) for c in encoder.channels),  # type: ignore[union-attr]
        *_published_cells(published(name), cost, notes),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def detector_row(name: str, notes: Footnotes) -> str:
    cost, config = model_cost(name), build_model(name).config
    cells = [
        name, config.encoder, _side(cost), f"{cost.total_params / 1e6:.2f}", f"{cost.total_macs / 1e9:.2f}",  # type: ignore[union-attr]
        f"{cost.flops / 1e9:.2f}", f"{config.fpn_cells} x {config.fpn_channels}", str(config.head_repeats),  # type: ignore[union-attr]
        f"{2**config.min_level} to {2**config.max_level}", *_published_cells(published(name), cost, notes),  # type: ignore[union-attr]
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def make_page() -> str:
    """The whole page."""
    notes, parts, rows = Footnotes(), [_HEAD], []
    names = [*encoder_names(), *detector_names()]
    for title, belongs in _GROUPS:
        members = [name for name in names if belongs(name)]
        detectors = members[0].startswith("efficientdet")
        columns = _DETECTOR_COLUMNS if detectors else _ENCODER_COLUMNS
        lines = [(detector_row if detectors else encoder_row)(name, notes) for name in members]
        table = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *lines]
        parts.append(f"## {title}\n\n" + "\n".join(table) + "\n")
        rows += [published(name) for name in members]
    exceptions: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            exceptions.setdefault(row.note, []).append(f"`{row.name}`")
    parts.append("## Exceptions\n\n" + "".join(f"- {', '.join(who)}. {note}\n" for note, who in exceptions.items()))
    listed = "".join(f"{number}. {text}\n" for number, text in enumerate(notes.texts, 1))
    return "\n".join(parts) + f"\n## Sources\n\n{listed}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, write nothing; 1 where the page is not current")
    parser.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args(argv)
    if not arguments.out.parent.is_dir():
        parser.error(f"there is no folder {arguments.out.parent} for --out")
    page = make_page()
    if arguments.check:
        current = arguments.out.is_file() and arguments.out.read_text(encoding="utf-8") == page
        print(f"{arguments.out.name} is {'current' if current else 'not current: python tools/make_model_table.py'}")
        return 0 if current else 1
    arguments.out.write_text(page, encoding="utf-8")
    print(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
