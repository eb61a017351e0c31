"""The picture of `recall.render.similarity`: two maps side by side with strips of beta, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from numpy.typing import NDArray

from recall.render.similarity import Float, SimilarityMaps

COLOURS = "viridis"
"""Brighter is more similar, in print and to colour-blind readers too."""
BREAK = "#e8e8e8"
MOST_THUMBNAILS = 9
THUMBNAIL_INCHES = 0.36


def similarity_figure(
    maps: SimilarityMaps,
    labels: Sequence[str] | None = None,
    thumbnails: Sequence[NDArray[np.uint8]] | None = None,
    title: str = "",
    breaks: Sequence[int] = (),
) -> Figure:
    """The figure: write keys on the left, target values on the right, one colour scale from -1 to 1."""
    rows, columns = maps.keys.shape
    # Words need room for every one of them; steps are counted and fit any size.
    space = 0.24 if labels is not None else 0.0
    across = min(16.0, max(4.4, space * columns))
    # Square cells if possible, but a single sentence against a long story stays readable.
    down = min(16.0, max(1.6, 4.4 * min(1.0, rows / columns), space * rows))
    figure = Figure(figsize=(2 * across + 2.4, down + 2.3), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        2, 5, height_ratios=[0.05, 1], width_ratios=[0.04, 1, 0.04, 1, 0.035], hspace=0.02, wspace=0.02
    )
    image: Any = None
    for place, (name, values) in enumerate((("write keys", maps.keys), ("target values", maps.values))):
        axes = figure.add_subplot(grid[1, 2 * place + 1])
        image = axes.imshow(
            values,
            cmap=COLOURS,
            vmin=-1,
            vmax=1,
            aspect="auto",
            interpolation="nearest" if rows < 400 else None,
        )
        for start in breaks:
            axes.axvline(np.searchsorted(maps.columns, start) - 0.5, color=BREAK, linewidth=0.8)
            axes.axhline(np.searchsorted(maps.rows, start) - 0.5, color=BREAK, linewidth=0.8)
        above = figure.add_subplot(grid[0, 2 * place + 1], sharex=axes)
        beside = figure.add_subplot(grid[1, 2 * place], sharey=axes)
        _strip(above, maps.beta[maps.columns][None])
        _strip(beside, maps.beta[maps.rows][:, None])
        above.set_title(name, fontsize=13)
        above.set_ylabel("beta", rotation=0, ha="right", va="center", fontsize=9)
        what = "word" if labels is not None else "step"
        axes.set_xlabel(f"earlier {what}, written then", fontsize=11)
        axes.tick_params(labelleft=False, left=False)
        if place == 0:
            beside.set_ylabel(f"{what}, written now", fontsize=11)
        else:
            beside.tick_params(labelleft=False, left=False)
        _label(axes.xaxis, maps.columns, maps.start_step, labels, across, rotation=90)
        _label(beside.yaxis, maps.rows, maps.start_step, labels, down, rotation=0)
        if thumbnails is not None and labels is None:
            _thumbnails(axes, maps.columns, thumbnails, across, below=True)
            if place == 0:
                _thumbnails(beside, maps.rows, thumbnails, down, below=False)
    bar = figure.colorbar(image, cax=figure.add_subplot(grid[1, 4]), ticks=[-1, -0.5, 0, 0.5, 1])
    bar.set_label("cosine" + (", the mean subtracted" if maps.centred else ""), fontsize=11)
    note = "Strips: update rate beta, white 0 to black 1; a bright cell with beta 0 wrote nothing."
    figure.suptitle(f"{title}\n{note}" if title else note, fontsize=10)
    return figure


def _strip(axes: Any, beta: Float) -> None:
    axes.imshow(beta, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)


def _label(
    axis: Any,
    writes: NDArray[np.int64],
    start_step: int,
    labels: Sequence[str] | None,
    inches: float,
    rotation: int,
) -> None:
    """Every word, or round step numbers where they fit."""
    if labels is not None:
        places = np.arange(len(writes))
        names = [labels[write] for write in writes]
    else:
        most = max(2, int(inches / 0.45))
        gaps = [gap for gap in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000) if len(writes) / gap <= most]
        places = np.arange(0, len(writes), gaps[0] if gaps else len(writes))
        names = [str(start_step + int(writes[place])) for place in places]
        rotation = 0
    axis.set_ticks(places, names, rotation=rotation, fontsize=9)
    axis.set_tick_params(labelbottom=True, labelleft=True, left=True)


def _thumbnails(
    axes: Any,
    writes: NDArray[np.int64],
    thumbnails: Sequence[NDArray[np.uint8]],
    inches: float,
    below: bool,
) -> None:
    """A few of the pictures seen, along the axis outside the step numbers."""
    count = min(MOST_THUMBNAILS, max(2, int(inches / (1.2 * THUMBNAIL_INCHES))))
    for place in range(0, len(writes), -(-len(writes) // count)):
        picture = thumbnails[writes[place]]
        zoom = THUMBNAIL_INCHES * 72 / max(picture.shape[:2])
        box = AnnotationBbox(
            OffsetImage(picture, zoom=zoom, interpolation="nearest"),
            (place, 0) if below else (0, place),
            xycoords=("data", "axes fraction") if below else ("axes fraction", "data"),
            xybox=(0, -52) if below else (-66, 0),
            boxcoords="offset points",
            pad=0.05,
            bboxprops={"edgecolor": "#9097a1", "linewidth": 0.6},
            annotation_clip=False,
        )
        axes.add_artist(box)
