"""The three figures of the curve fit: samples at several temperatures, the data, the fit and the best fit.

They follow the source's figures ("Learning to read from memory with a neural network", J. C. Reinhold).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from agents.curves import save_figure
from memory.hard.straight_through import gumbel_noise
from tasks.curve import HIGH, LOW, Fit

BLUE, GREEN, ORANGE, GREY = "#0072b2", "#009e73", "#d55e00", "#8a8f98"
EXAMPLE = (0.08, 0.12, 0.45, 0.22, 0.13)
"""The distribution of figure 1."""
TEMPERATURES = (0.1, 0.25, 0.5, 2.0)
DRAWS = 10_000
"""Draws of figure 1; the first one is shown."""


def plot_samples(path: Path, generator: torch.Generator) -> None:
    """Figure 1: a distribution, then one and the same Gumbel sample of it at four temperatures."""
    probabilities = torch.tensor(EXAMPLE)
    perturbed = probabilities.log() + gumbel_noise((DRAWS, len(EXAMPLE)), generator)
    figure = Figure(figsize=(12.5, 3.2), layout="constrained")
    panels: list[Any] = list(figure.subplots(1, 1 + len(TEMPERATURES), sharey=True))
    _bars(panels[0], probabilities, GREY, "softmax(h)")
    for axes, temperature in zip(panels[1:], TEMPERATURES, strict=True):
        soft = torch.softmax(perturbed / temperature, dim=-1)
        _bars(axes, soft[0], BLUE, rf"$\tau$ = {temperature}")
        axes.patches[int(soft[0].argmax())].set_color(ORANGE)
        chosen = torch.bincount(soft.argmax(-1), minlength=len(EXAMPLE)) / DRAWS
        axes.plot(chosen.numpy(), "o", color="black", markersize=4, label="how often chosen")
        axes.set_title(f"one sample, largest {float(soft[0].max()):.2f}", fontsize=9)
    panels[0].set_title("the distribution", fontsize=9)
    panels[0].set_ylabel("probability")
    panels[-1].legend(loc="upper right", fontsize=8)
    figure.suptitle(
        "Bars: softmax((h + g) / temperature) for one draw of g, the chosen cell in orange. "
        f"Dots: how often each cell is chosen in {DRAWS:,} draws.",
        fontsize=10,
    )
    save_figure(figure, path)


def _bars(axes: Any, heights: Tensor, colour: str, label: str) -> None:
    axes.bar(range(len(heights)), heights.numpy(), color=colour, width=0.75)
    axes.set_xticks(range(len(heights)))
    axes.set_xlabel(f"cell\n{label}")
    axes.set_ylim(0.0, 1.05)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def plot_data(path: Path, x: Tensor, y: Tensor, noise: float) -> None:
    """Figure 2: one batch of training data."""
    figure = Figure(figsize=(6.0, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(x.numpy(), y.numpy(), ".", color=BLUE, markersize=4, alpha=0.7)
    axes.set_xlabel("x")
    axes.set_ylabel("y")
    axes.set_title(f"{len(x)} examples, y = x² + noise of standard deviation {noise:g}", fontsize=10)
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def plot_fit(path: Path, fit: Fit, excess: float, agreement: float) -> None:
    """Figure 3: the fit over the best fit, and below it how likely each cell was for every x."""
    figure = Figure(figsize=(7.2, 6.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
    x = fit.x.numpy()
    upper.plot(x, fit.target.numpy(), ":", color=GREY, linewidth=1.2, label="x²")
    upper.plot(x, fit.best_value.numpy(), color=GREEN, linewidth=3.0, label="Best Fit")
    upper.plot(x, fit.value.numpy(), "--", color=BLUE, linewidth=1.8, label="Fit")
    upper.set_ylim(-0.08, max(1.3, 1.1 * float(fit.value.max())))
    upper.set_ylabel("y")
    upper.legend(loc="upper center", ncols=3, frameon=False)
    upper.grid(alpha=0.3)
    image = lower.imshow(
        fit.probabilities.T.numpy(),
        extent=(x[0], x[-1], -0.5, fit.probabilities.shape[1] - 0.5),
        origin="lower",
        aspect="auto",
        cmap="Blues",
        vmin=0.0,
        vmax=1.0,
        interpolation="nearest",
    )
    lower.set_yticks(np.arange(fit.probabilities.shape[1]))
    lower.set_ylabel("cell")
    lower.set_xlabel("x")
    for axes in (upper, lower):
        for edge in (LOW, HIGH):
            axes.axvline(edge, color=ORANGE, linewidth=1.0, linestyle="-.")
    figure.colorbar(image, ax=lower, label="softmax(h)", pad=0.02)
    upper.set_title(
        f"excess squared error {1e4 * excess:.2f}e-4, the best cell is read for {100 * agreement:.1f}% of x\n"
        "orange: the trained range",
        fontsize=10,
    )
    save_figure(figure, path)
