"""Which steps (or words) write to the same place, and which write the same thing: two maps of similarity.

    C_k[t, s] = mean over write heads h of cos(k_w,h(t), k_w,h(s))     write keys: where is it stored?
    C_v[t, s] = mean over write heads h of cos(v_w,h(t), v_w,h(s))     target values: what is stored?

How to read them: key bright and value bright is a confirmation, key bright and value dark an overwrite, key
dark a new entry. A write with update rate beta = 0 stored nothing however bright its cell, so strips of beta
run along both axes. The colour scale is always [-1, 1], so that pictures can be compared. Keys and values are
tanh vectors and may share a common bias that makes all of them similar; `centred` subtracts the mean over the
episode first. A vector of length 0 is similar to nothing, not even to itself: 0.

Source: the third figure of "Metalearned Neural Memory: Teaching neural networks how to remember", which shows
a story word by word; in reinforcement learning the axes are steps. The measure there is not stated; this is
ours. Letters: T writes, H heads, d size of a key or value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agents.files import atomic_file, check_writable
from envs.errors import UserError
from recall.record.tape import Tape
from recall.scores.from_tape import unit

Float = NDArray[np.float64]
COLOURS = "viridis"
"""Brighter is more similar, in print and to colour-blind readers too."""
BREAK = "#e8e8e8"
MOST_THUMBNAILS = 9
THUMBNAIL_INCHES = 0.36


@dataclass(frozen=True)
class SimilarityMaps:
    """Two maps [rows, columns] with values in [-1, 1], and the writes that they compare."""

    keys: Float
    values: Float
    rows: NDArray[np.int64]
    """Which write each row shows ("now")."""
    columns: NDArray[np.int64]
    """Which write each column shows ("then")."""
    beta: Float
    """[T] update rate of every write."""
    start_step: int = 0
    """Episode step of write 0."""
    centred: bool = False


def head_similarity(now: ArrayLike, then: ArrayLike) -> Float:
    """Mean over heads of the cosines of vectors [R, H, d] and [C, H, d] -> [R, C]; zero vectors give 0."""
    left, right = unit(np.asarray(now)), unit(np.asarray(then))
    if left.ndim != 3 or right.ndim != 3 or left.shape[1:] != right.shape[1:]:
        raise ValueError(f"expected [R, H, d] and [C, H, d], got shapes {left.shape} and {right.shape}")
    cosines = np.einsum("rhd,chd->rc", left, right, optimize=True) / left.shape[1]
    return np.clip(cosines, -1.0, 1.0)  # rounding may exceed 1 by an ulp


def similarity_maps(
    write_key: ArrayLike,
    target_value: ArrayLike,
    beta: ArrayLike,
    rows: Sequence[int] | None = None,
    columns: Sequence[int] | None = None,
    centred: bool = False,
    start_step: int = 0,
) -> SimilarityMaps:
    """Both maps of write keys [T, H, d], target values [T, H, d] and update rates [T].

    `rows` and `columns` choose writes, by default all; "the last sentence against those before it" is
    rows=range(20, 26), columns=range(20).
    """
    keys, values = np.asarray(write_key, np.float64), np.asarray(target_value, np.float64)
    rate = np.asarray(beta, np.float64)
    if len(keys) == 0:
        raise UserError("there are no writes to compare: the episode is empty")
    if not len(keys) == len(values) == len(rate):
        raise ValueError(
            f"different numbers of keys, values and rates: {len(keys)}, {len(values)}, {len(rate)}"
        )
    if centred:
        keys, values = keys - keys.mean(axis=0), values - values.mean(axis=0)
    everything = range(len(keys))
    down = _chosen("rows", everything if rows is None else rows, len(keys))
    across = _chosen("columns", everything if columns is None else columns, len(keys))
    return SimilarityMaps(
        keys=head_similarity(keys[down], keys[across]),
        values=head_similarity(values[down], values[across]),
        rows=down,
        columns=across,
        beta=rate,
        start_step=start_step,
        centred=centred,
    )


def maps_of_tape(
    tape: Tape,
    rows: Sequence[int] | None = None,
    columns: Sequence[int] | None = None,
    centred: bool = False,
) -> SimilarityMaps:
    """`similarity_maps` of what an episode wrote."""
    memory = tape.written()
    return similarity_maps(
        memory.write_inputs[0], memory.target_value, memory.beta, rows, columns, centred, tape.start_step
    )


def rebinding_score(
    maps: SimilarityMaps, changed: Sequence[tuple[int, int]], repeated: Sequence[tuple[int, int]]
) -> float:
    """How much more C_k exceeds C_v where a fact was changed than where it was repeated.

        mean over changed pairs (row, column) of (C_k - C_v)  -  mean over repeated pairs of (C_k - C_v)

    Above 0: the old key is kept and the new value replaces the old one.
    """
    if not changed or not repeated:
        raise ValueError("the rebinding score needs at least one changed and one repeated pair")
    excess = maps.keys - maps.values
    return float(np.mean([excess[pair] for pair in changed]) - np.mean([excess[pair] for pair in repeated]))


def draw_similarity(
    maps: SimilarityMaps,
    path: str | Path,
    labels: Sequence[str] | None = None,
    thumbnails: Sequence[NDArray[np.uint8]] | None = None,
    title: str = "",
    breaks: Sequence[int] = (),
) -> Path:
    """Write both maps side by side as a PNG.

    `labels`, one per write, name the writes (words of a story); without them the axes count steps, with
    `thumbnails`, one per write, beside the numbers. Lines separate the writes before each of `breaks` from
    those after it (sentences of a story).
    """
    path = check_writable(path)
    for name, given in (("labels", labels), ("thumbnails", thumbnails)):
        if given is not None and len(given) != len(maps.beta):
            raise ValueError(f"{len(given)} {name} for {len(maps.beta)} writes")
    figure = similarity_figure(maps, labels, thumbnails, title, breaks)
    with atomic_file(path) as file:
        figure.savefig(file, format="png")
    return path


def _chosen(name: str, indices: Sequence[int], count: int) -> NDArray[np.int64]:
    chosen = np.asarray(list(indices), np.int64)
    if len(chosen) == 0 or chosen.min() < 0 or chosen.max() >= count:
        raise UserError(f"the {name} of a similarity map must be writes 0 to {count - 1}, at least one")
    return chosen


def similarity_figure(
    maps: SimilarityMaps,
    labels: Sequence[str] | None = None,
    thumbnails: Sequence[NDArray[np.uint8]] | None = None,
    title: str = "",
    breaks: Sequence[int] = (),
) -> Any:
    """The figure: write keys on the left, target values on the right, one colour scale from -1 to 1."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes half a second to load
    from matplotlib.figure import Figure

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
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

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
