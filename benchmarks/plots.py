"""The one kind of plot that the timing benchmarks draw: horizontal bars with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


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
    figure, axes = pyplot.subplots(figsize=(8, 0.26 * len(names) + 1.0), layout="constrained")
    bars = axes.barh(range(len(names)), values, color=list(colours))
    axes.bar_label(bars, texts, padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xscale="log", xlabel=label, xlim=(min(values) / 2, max(values) * 5))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
