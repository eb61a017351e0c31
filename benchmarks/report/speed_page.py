"""Tables and plots of docs/speed.md: every benchmark puts its own table where the page has a mark for it.

<!-- table end_to_end -->
...
<!-- end -->
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from agents.curves import save_figure
from agents.files import write_text
from benchmarks.common import ROOT

PAGE = ROOT / "docs" / "speed.md"


def put_table(name: str, text: str, page: Path = PAGE) -> None:
    """Replace what stands between the marks of `name`; raises ValueError if the page has none."""
    marks = re.compile(rf"(<!-- table {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    content, found = marks.subn(lambda match: f"{match[1]}{text}\n{match[2]}", page.read_text())
    if found != 1:
        raise ValueError(f"{page} must have one place for the table {name!r}, found {found}")
    write_text(page, content)


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
