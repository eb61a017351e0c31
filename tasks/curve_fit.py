"""The task `curve-fit`: a feedforward network reads a bank of numbers to fit a noisy quadratic.

Legend: B batch, n cells. x [B] -> address logits [B, n] -> ONE cell per example -> its number [B], compared with
y by the squared error. The network never sees which cell would be right.

Two settings, both of the source's design: `--tau-start 0.67 --tau-end 0.67` is its fixed temperature; the
default anneals from 2 to 0.3, which also finds the cell that is rarely right (docs/hard_memory.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from agents.distributed import make_generator
from agents.files import write_csv
from memory.hard.bank import BankRead, MemoryBank
from tasks.addressing import annealing, finite_logits, read_figures, read_loss, sampler, squared_errors
from tasks.config import CurveFitConfig
from tasks.curve import Fit, best_cell, grid, noisy_quadratic, optimal_cells, optimal_error, uniform_cells
from tasks.curve_figures import plot_data, plot_fit, plot_samples

VALID_STREAM, FIGURE_STREAM = 2, 3
VALID_EXAMPLES = 4_096
VALID_POINTS, TEST_POINTS, FIGURE_POINTS = 2_000, 20_000, 750
FIGURE_RANGE = 1.25
"""Figure 3 goes beyond the trained range, to show what the fit does there."""
SWAP_FACTOR = 2.0
"""The swap test reads a bank of doubled numbers, which must give the doubled curve."""


class CurveBatch(NamedTuple):
    """Examples and the noise of their choices."""

    x: Tensor
    """[B]."""
    y: Tensor
    """[B]."""
    noise: Tensor
    """As `MemoryBank.noise` draws it for logits [B, n]."""


class CurveModel(nn.Module):
    """Address network and bank."""

    def __init__(self, config: CurveFitConfig) -> None:
        super().__init__()
        self.bank = MemoryBank(
            uniform_cells(config.cells), config.learn_bank, sampler(config), config.gumbel_samples
        )
        blocks: list[nn.Module] = []
        width = 1
        for _ in range(config.layers):
            size = config.hidden_size
            blocks += [nn.Linear(width, size), nn.BatchNorm1d(size), nn.ReLU()]
            width = size
        self.address = nn.Sequential(*blocks, nn.Linear(width, config.cells))

    def logits(self, x: Tensor) -> Tensor:
        """Address logits [B, n] of x [B]."""
        scores: Tensor = self.address(x.unsqueeze(-1))
        return scores

    def forward(self, x: Tensor, temperature: float = 1.0, noise: Tensor | None = None) -> BankRead:
        """Read one number [B] per x [B]."""
        read: BankRead = self.bank(self.logits(x), temperature, noise)
        return read


class CurveFit:
    """The task under the supervised loop."""

    def __init__(self, config: CurveFitConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.model = CurveModel(config).to(device)
        stream = make_generator(config.seed, VALID_STREAM, torch.device("cpu"))
        self.valid = self._batch(VALID_EXAMPLES, stream)

    def draw(self, generator: torch.Generator) -> CurveBatch:
        """Fresh examples, and the noise of their choices."""
        return self._batch(self.config.batch_size, generator)

    def loss(self, batch: CurveBatch, progress: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Mean squared error of the sampled cells (with `exact`: its expectation over the choice)."""
        temperature = annealing(self.config).at(progress)
        logits = finite_logits(self.model.logits(batch.x))
        read: BankRead = self.model.bank(logits, temperature, batch.noise)
        errors = squared_errors(read.value, batch.y)

        def errors_of_cells() -> Tensor:
            return (self.model.bank.cells - batch.y.unsqueeze(-1)).square()

        loss = read_loss(self.config, logits, read.choice, errors, errors_of_cells)
        return loss, {"sampled_mse": errors.mean(), **read_figures(logits, read.choice, temperature)}

    def evaluate(self) -> dict[str, float]:
        """The score is taken on held-out noisy examples; the distance to the best fit stands beside it."""
        mse = squared_errors(self.model(self.valid.x).value, self.valid.y).mean()
        return {"score": -float(mse), **self._figures(self.fit_over(grid(VALID_POINTS)))}

    def finish(self, directory: Path) -> dict[str, Any]:
        """Test figures, the swap test, fit.csv and the three figures of the source."""
        fit = self.fit_over(grid(TEST_POINTS))
        sampled = self.model(self.valid.x, noise=self.valid.noise)
        figures: dict[str, Any] = {
            **self._figures(fit),
            "optimal_mse": self._optimum(),
            "sampled_mse": float(squared_errors(sampled.value, self.valid.x.square()).mean()),
            **self._swap_test(fit),
            "bank": self.model.bank.cells.tolist(),
            "use": (torch.bincount(fit.cell, minlength=self.config.cells) / len(fit.cell)).tolist(),
        }
        shown = self.fit_over(FIGURE_RANGE * grid(FIGURE_POINTS))
        write_csv(directory / "fit.csv", fit_rows(shown))
        stream = make_generator(self.config.seed, FIGURE_STREAM, torch.device("cpu"))
        plot_samples(directory / "figure1_samples.png", stream)
        x, y = noisy_quadratic(self.config.batch_size, self.config.noise, stream)
        plot_data(directory / "figure2_data.png", x, y, self.config.noise)
        plot_fit(directory / "figure3_fit.png", shown, figures["excess"], figures["agreement"])
        return figures

    def fit_over(self, x: Tensor) -> Fit:
        """The learned fit and the best fit with the same bank at the points x [N], on the CPU."""
        read = self.model(x.to(self.device))
        cells = self.model.bank.cells.detach().cpu()
        best = best_cell(x.square(), cells)
        probabilities = self.model.logits(x.to(self.device)).softmax(-1).cpu()
        return Fit(x, x.square(), read.value.cpu(), read.choice.cell.cpu(), cells[best], best, probabilities)

    def _figures(self, fit: Fit) -> dict[str, float]:
        mse = float(squared_errors(fit.value, fit.target).mean())
        return {
            "mse": mse,
            "excess": mse - self._optimum(),
            "agreement": float((fit.cell == fit.best_cell).double().mean()),
            "cells_used": float(fit.cell.unique().numel()),
        }

    def _optimum(self) -> float:
        """The smallest possible error: of this bank, or of any bank of its size if the bank is learned."""
        if self.config.learn_bank:
            return optimal_error(optimal_cells(self.config.cells))
        return optimal_error(self.model.bank.cells.cpu())

    def _swap_test(self, before: Fit) -> dict[str, Any]:
        """Read the same addresses from a bank times 2; exact if every value is exactly doubled."""
        cells = self.model.bank.cells.detach().clone()
        self.model.bank.swap(SWAP_FACTOR * cells)
        after = self.fit_over(before.x)
        self.model.bank.swap(cells)
        error = squared_errors(after.value, SWAP_FACTOR * before.target).mean()
        return {
            "swap_exact": bool((after.value == SWAP_FACTOR * before.value).all()),
            "swapped_mse": float(error),
        }

    def _batch(self, count: int, generator: torch.Generator) -> CurveBatch:
        x, y = noisy_quadratic(count, self.config.noise, generator)
        noise = self.model.bank.noise(torch.Size((count, self.config.cells)), generator)
        return CurveBatch(x.to(self.device), y.to(self.device), noise.to(self.device))


def fit_rows(fit: Fit) -> list[dict[str, float]]:
    """One row per point, for a CSV file."""
    return [
        {
            "x": round(float(x), 5),
            "fit": float(value),
            "best_fit": float(best),
            "cell": int(cell),
            "best_cell": int(best_cell),
        }
        for x, value, best, cell, best_cell in zip(
            fit.x, fit.value, fit.best_value, fit.cell, fit.best_cell, strict=True
        )
    ]
