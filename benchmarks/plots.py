"""The one kind of plot that the timing benchmarks draw: horizontal bars with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from agents.curves import save_figure


def plot_bars(
    path: Path,
    names: Sequence[str],
    values: Sequence[float],
    colours: Sequence[str],
    label: str,
    notes: Sequence[str] | None = None,
) -> None:
    """Draw values on a logarithmic axis into a PNG; `notes` follow the numbers."""
    texts = [f"{value:,.0f}" for value in values]
    if notes is not None:
        texts = [f"{text}  {note}" for text, note in zip(texts, notes, strict=True)]
    figure = Figure(figsize=(8, 0.26 * len(names) + 1.0), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(range(len(names)), values, color=list(colours))
    axes.bar_label(bars, texts, padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xscale="log", xlabel=label, xlim=(min(values) / 2, max(values) * 5))
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first line on top, and no empty stretch
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
