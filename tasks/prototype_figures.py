"""Pictures of the prototype comparison: who reads which prototype, what is compared, what a swap changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from agents.curves import save_figure

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#8a8f98"
INK = "Greys"
"""Images are drawn as ink on paper."""


class Example(NamedTuple):
    """One user image and what became of it."""

    user: Tensor
    """[12, 12], like the next two."""
    prototype: Tensor
    mixture: Tensor
    answer: float
    expected: float


class Answers(NamedTuple):
    """Answers [B] of the network beside the right ones."""

    expected: Tensor
    answer: Tensor


def plot_addresses(path: Path, bank: Tensor, read: Tensor, probability: Tensor) -> None:
    """The learned addresses: user images of a shape (row) against prototypes (column), bank [n, 12, 12]."""
    figure = Figure(figsize=(11.5, 5.6), layout="constrained")
    panels = figure.subplots(1, 2)
    titles = ("in use: how often the prototype is read", "when sampled: mean probability, softmax(h)")
    for axes, values, title in zip(panels, (read, probability), titles, strict=True):
        image = axes.imshow(values.numpy(), cmap="Blues", vmin=0.0, vmax=1.0)
        for (row, column), value in np.ndenumerate(values.numpy()):
            if value >= 0.005:
                colour = "white" if value > 0.5 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
        axes.set_title(f"{title}\n", fontsize=11)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel("prototype", labelpad=38)
        axes.set_ylabel("user images of this shape", labelpad=38)
        n = len(bank)
        for place, prototype in enumerate(bank):
            middle = (place + 0.5) / n
            _thumbnail(axes, prototype, (middle - 0.4 / n, -0.11), 0.8 / n)
            _thumbnail(axes, prototype, (-0.11, 1.0 - middle - 0.4 / n), 0.8 / n)
    figure.colorbar(image, ax=list(panels), shrink=0.8)
    save_figure(figure, path)


def _thumbnail(axes: Any, image: Tensor, corner: tuple[float, float], side: float) -> None:
    """A small image at `corner` of the axes, in shares of their size."""
    inset = axes.inset_axes([*corner, side, side])
    _show(inset, image)


def _show(axes: Any, image: Tensor, title: str = "") -> None:
    axes.imshow(image.numpy(), cmap=INK, vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=10)


def plot_examples(path: Path, examples: Sequence[Example]) -> None:
    """One column per user image: user, prototype read, their difference, and what a soft read would see."""
    rows = ("user image", "prototype read", "difference", "soft mixture,\nnot used")
    figure = Figure(figsize=(1.35 * len(examples) + 1.2, 6.4), layout="constrained")
    panels = figure.subplots(len(rows), len(examples), squeeze=False)
    for column, example in enumerate(examples):
        difference = (example.user - example.prototype).abs()
        images = (example.user, example.prototype, difference, example.mixture)
        for axes, image in zip(panels[:, column], images, strict=True):
            _show(axes, image)
        panels[2, column].set_xlabel(f"answer {example.answer:.2f}\nright {example.expected:.2f}", fontsize=9)
    for axes, name in zip(panels[:, 0], rows, strict=True):
        axes.set_ylabel(name, fontsize=10)
    save_figure(figure, path)


def plot_replacement(
    path: Path, images: Sequence[Tensor], before: Answers, after: Answers, of_shape: Tensor
) -> None:
    """A prototype is replaced without training: `images` are a user image, the old and the new prototype.

    Below, every answer against the right one before and after; `of_shape` [B] marks the user images that
    were made from the replaced prototype.
    """
    figure = Figure(figsize=(8.4, 6.6), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1, 1.9])
    upper, lower = parts
    titles = ("user image", "prototype in training", "prototype put in its place")
    for axes, image, title in zip(upper.subplots(1, 3), images, titles, strict=True):
        _show(axes, image, title)
    panels = lower.subplots(1, 2, sharex=True, sharey=True)
    top = 1.05 * float(after.expected.max())
    for axes, answers, title in zip(
        panels, (before, after), ("before", "after, no further training"), strict=True
    ):
        axes.plot([0.0, top], [0.0, top], color=GREY, linewidth=1.0)
        for mask, colour, label in (
            (~of_shape, BLUE, "user images of other shapes"),
            (of_shape, ORANGE, "user images of the replaced shape"),
        ):
            axes.plot(
                answers.expected[mask].numpy(),
                answers.answer[mask].numpy(),
                ".",
                color=colour,
                markersize=4,
                alpha=0.6,
                label=label,
            )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("right answer: 10 x mean squared difference")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("answer of the network")
    panels[0].legend(loc="upper left", fontsize=8)
    save_figure(figure, path)
