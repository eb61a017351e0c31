"""Accuracy over the number of items and their length, as a heat map or, where only one varies, a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from agents.curves import save_figure


def plot_accuracy(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw rows with items, item_length, trained and symbol_accuracy; the trained range is marked."""
    varying = [name for name in ("items", "item_length") if len({row[name] for row in rows}) > 1]
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    if len(varying) == 2:
        _heat_map(figure, axes, rows)
    else:
        _line(axes, rows, varying[0] if varying else "items")
    axes.set_title(title, fontsize=10)
    save_figure(figure, path)


def _heat_map(figure: Figure, axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    items = sorted({row["items"] for row in rows})
    lengths = sorted({row["item_length"] for row in rows})
    grid = np.full((len(lengths), len(items)), np.nan)
    for row in rows:
        y, x = lengths.index(row["item_length"]), items.index(row["items"])
        grid[y, x] = 100.0 * row["symbol_accuracy"]
        colour = "white" if grid[y, x] < 60.0 else "black"
        axes.text(x, y, f"{grid[y, x]:.0f}", ha="center", va="center", fontsize=8, color=colour)
    image = axes.imshow(grid, vmin=0.0, vmax=100.0, cmap="viridis", aspect="auto", origin="lower")
    axes.set_xticks(range(len(items)), [str(n) for n in items])
    axes.set_yticks(range(len(lengths)), [str(n) for n in lengths])
    axes.set_xlabel("items in the sequence")
    axes.set_ylabel("symbols per item")
    trained = [(items.index(r["items"]), lengths.index(r["item_length"])) for r in rows if r["trained"]]
    (x0, y0), (x1, y1) = min(trained), max(trained)
    axes.add_patch(
        Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0 + 1, y1 - y0 + 1, fill=False, edgecolor="#d55e00", lw=2.5)
    )
    figure.colorbar(image, label="right symbols (%); orange: trained sizes")


def _line(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    axes.plot([row[name] for row in rows], [100.0 * row["symbol_accuracy"] for row in rows], "o-")
    trained = [row[name] for row in rows if row["trained"]]
    axes.axvspan(min(trained) - 0.5, max(trained) + 0.5, color="#d55e00", alpha=0.15, label="trained")
    axes.set_xlabel({"items": "items in the sequence", "item_length": "symbols per item"}[name])
    axes.set_ylabel("right symbols (%)")
    axes.set_ylim(0.0, 102.0)
    axes.grid(alpha=0.3)
    axes.legend()
