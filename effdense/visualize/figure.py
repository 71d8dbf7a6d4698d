"""What charts of matplotlib share here: no display, no global state, text as it is, and the bytes of a PNG."""

from __future__ import annotations

import io
import warnings

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def plain_text(text: str, most: int | None = None) -> str:
    """Text that matplotlib does not take for a formula, without control characters, of at most ``most`` letters."""
    shown = text if most is None or len(text) <= most else text[: most - 1] + "…"
    return "".join(c if c.isprintable() else "?" for c in shown).replace("$", r"\$")


def png_bytes(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks, once per letter
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
