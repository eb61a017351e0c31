"""PNG figures; among them curves.png: what a run did over its frames or updates, from its metrics.csv."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agents.files import atomic_file
from agents.metrics import read_metrics

if (
    TYPE_CHECKING
):  # matplotlib takes most of a second to load, and commands that draw nothing need not wait for it.
    from matplotlib.figure import Figure

PANELS = (
    ("return_mean", "mean return, last 100 episodes"),
    ("success_rate", "success rate, last 100 episodes"),
    ("eval_return_mean", "mean return, held-out episodes"),
    ("eval_success_rate", "success rate, held-out episodes"),
    ("entropy", "policy entropy (nats)"),
    ("explained_variance", "explained variance of the value"),
    ("write_gain", "error removed by a write (before - after)"),
    ("fps", "frames per second"),
)
PANEL_WIDTH, PANEL_HEIGHT = 4.2, 2.8


def save_figure(figure: Figure, path: Path, dpi: int = 110) -> None:
    """Write a figure as PNG, atomically and without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with atomic_file(path) as file:
        figure.savefig(file, dpi=dpi, format="png")


def plot_curves(
    metrics_path: Path, path: Path, panels: Sequence[tuple[str, str]] = PANELS, x: str = "frames"
) -> bool:
    """Draw the panels (column, title) that have data over the column `x`; False if nothing was logged yet."""
    from matplotlib.figure import Figure

    rows = read_metrics(metrics_path) if metrics_path.is_file() else []
    panels = [
        (name, title)
        for name, title in panels
        if any(not math.isnan(row.get(name, math.nan)) for row in rows)
    ]
    if not panels:
        return False
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(PANEL_WIDTH * columns, PANEL_HEIGHT * lines))
    # Margins in inches: a layout engine would take longer than a short training.
    figure.subplots_adjust(
        left=0.6 / (PANEL_WIDTH * columns), right=1.0 - 0.15 / (PANEL_WIDTH * columns), wspace=0.22,
        bottom=0.5 / (PANEL_HEIGHT * lines), top=1.0 - 0.35 / (PANEL_HEIGHT * lines), hspace=0.45,
    )  # fmt: skip
    for position, (name, title) in enumerate(panels, start=1):
        axes = figure.add_subplot(lines, columns, position)
        # Held-out evaluations are rarer than rows: the line connects those that there are.
        points = [(row[x] / 1e3, row[name]) for row in rows if name in row]
        if name.startswith("eval_"):
            points = [point for point in points if not math.isnan(point[1])]
        axes.plot(*zip(*points, strict=True), color="#0072b2", marker="." if len(points) < 30 else None)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(f"{x} (thousands)", fontsize=9)
        axes.locator_params(nbins=5)
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0.0 if name in ("fps", "entropy") else None)
    save_figure(figure, path)
    return True
