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

Float = NDArray[np.float64]


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
    left, right = _unit(now), _unit(then)
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
    from recall.render.similarity_figure import similarity_figure  # matplotlib takes half a second to load

    path = check_writable(path)
    for name, given in (("labels", labels), ("thumbnails", thumbnails)):
        if given is not None and len(given) != len(maps.beta):
            raise ValueError(f"{len(given)} {name} for {len(maps.beta)} writes")
    figure: Any = similarity_figure(maps, labels, thumbnails, title, breaks)
    with atomic_file(path) as file:
        figure.savefig(file, format="png")
    return path


def _chosen(name: str, indices: Sequence[int], count: int) -> NDArray[np.int64]:
    chosen = np.asarray(list(indices), np.int64)
    if len(chosen) == 0 or chosen.min() < 0 or chosen.max() >= count:
        raise UserError(f"the {name} of a similarity map must be writes 0 to {count - 1}, at least one")
    return chosen


def _unit(vectors: ArrayLike) -> Float:
    wide = np.asarray(vectors, np.float64)
    length = np.linalg.norm(wide, axis=-1, keepdims=True)
    return np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)
