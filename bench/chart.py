"""A chart with two logarithmic axes as an SVG that needs nothing else: no script, no font, no style from elsewhere."""

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pygal
from pygal.style import Style

_COLOURS = ("#3b82f6", "#ea580c", "#16a34a", "#c026d3", "#b45309", "#0891b2", "#dc2626", "#8b8b8b")
_INK = "#7d8590"
"""It reads on a white page and on a dark one; so do the colours, and the background is the page's own."""
_GUIDE = "#7d859055"
_SVG = "http://www.w3.org/2000/svg"


def write(file: Path, title: str, axes: tuple[str, str], series: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Draw lines through points.

    Args:
        file: Where the SVG goes.
        title: Above it.
        axes: What is counted to the right, and upwards.
        series: Points (x, y), all above 0, by the name in the legend.
    """
    chart = pygal.XY(
        style=Style(
            background="transparent",
            plot_background="transparent",
            foreground=_INK,
            foreground_strong=_INK,
            foreground_subtle=_INK,
            guide_stroke_color=_GUIDE,
            major_guide_stroke_color=_GUIDE,
            colors=_COLOURS,
            font_family="sans-serif",
        ),
        logarithmic=True,
        title=title,
        x_title=axes[0],
        y_title=axes[1],
        x_labels=_powers_of_ten(x for points in series.values() for x, _ in points),
        y_labels=_powers_of_ten(y for points in series.values() for _, y in points),
        x_value_formatter=lambda value: f"{value:,.0f}",
        value_formatter=lambda value: f"{value:,g}",
        truncate_label=-1,
        truncate_legend=-1,
        legend_at_bottom=True,
        legend_at_bottom_columns=2,
        margin_right=40,
        margin_bottom=40,
        stroke_style={"width": 2},
        js=[],
        width=800,
        height=620,
    )
    for name, points in series.items():
        chart.add(name, list(points))
    root = chart.render_tree()
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in {"script", f"{{{_SVG}}}script", ET.Comment}:
                parent.remove(child)
    ET.ElementTree(root).write(file, encoding="unicode")


def _powers_of_ten(values: Iterable[float]) -> list[float]:
    """From the last one that is no larger than all values, to the first that is no smaller."""
    found = sorted(values)
    return [10.0**power for power in range(math.floor(math.log10(found[0])), math.ceil(math.log10(found[-1])) + 1)]
