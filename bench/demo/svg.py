"""Draws matplotlib figures as inline SVG with the page's CSS variables as colours, for light and dark mode.

matplotlib draws with placeholder colours, which become `var(--name)` in the SVG. The series use the palette of Okabe and Ito, which is
safe for colour-blind readers. Text stays text: screen readers can read it, and it can be searched and copied.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INK, SOFT, GRID, BAND, PAPER = "#010203", "#010204", "#010205", "#010206", "#010207"
GREY, ORANGE, BLUE, GREEN, PINK = "#010208", "#010209", "#01020a", "#01020b", "#01020c"
#: Placeholder colour to CSS variable.
VARIABLES = {
    INK: "--ink",
    SOFT: "--soft",
    GRID: "--grid",
    BAND: "--band",
    PAPER: "--card",
    GREY: "--grey",
    ORANGE: "--orange",
    BLUE: "--blue",
    GREEN: "--green",
    PINK: "--pink",
}
SERIES = (ORANGE, BLUE, GREEN, PINK)

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # wider than the font of the page, so labels never overlap
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "grid.color": GRID,
    "grid.linewidth": 1,
    "legend.frameon": False,
    "legend.labelcolor": INK,
}


@contextmanager
def canvas(name: str, title: str, width: float, height: float) -> Iterator[tuple[Any, list[str]]]:
    """A figure of `width` by `height` inches. After the block the list holds one SVG element with the label `title`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    out: list[str] = []
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, out
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    out.append(_inline(file.getvalue(), name, title))


def _inline(svg: str, name: str, title: str) -> str:
    """Reduces matplotlib's file to one element: no XML prologue, metadata, namespaces or fixed size, and ids with the prefix `name`."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(xmlns(:\w+)?|version|width|height)="[^"]*"', "", svg.split(">", 1)[0]) + ">" + svg.split(">", 1)[1]
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = svg.replace("xlink:href", "href")
    svg = svg.replace("font-family: 'DejaVu Sans'", "font-family: var(--face)")
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
