"""An external memory bank: n cells of any shape, read one at a time by a hard address.

Legend: n cells; [*C] the shape of a cell, () for numbers; `...` leading axes of the logits.

Training samples the cell, use takes the cell of the largest logit; in both cases exactly one cell is read,
bit for bit. After training, the cells can be swapped for others of the same meaning: the address network
knows where things are, not what they are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from memory.hard.estimators import Choice, EstimatorName, check_estimator, choice_noise, choose, choose_best


class BankRead(NamedTuple):
    """What one read returns."""

    value: Tensor
    """The chosen cell [..., *C]."""
    choice: Choice
    """Which cell, and how likely it was."""


class MemoryBank(nn.Module):
    """Cells [n, *C], a buffer or (if `learnable`) a parameter: moved by `.to()` and saved either way."""

    cells: Tensor

    def __init__(
        self, cells: Tensor, learnable: bool = False, estimator: EstimatorName = "st", samples: int = 8
    ) -> None:
        """`cells` is copied; whole numbers become floats. `samples` is the K of gumbel-rao.

        Raises ValueError if there is no cell, if cells are empty or not finite, or on an unknown estimator.
        """
        super().__init__()
        check_estimator(estimator)
        self.estimator, self.samples = estimator, samples
        own = _checked_cells(cells)
        if learnable:
            self.cells = nn.Parameter(own)
        else:
            self.register_buffer("cells", own)

    @property
    def size(self) -> int:
        """Number of cells n."""
        return self.cells.shape[0]

    def noise(self, shape: torch.Size, generator: torch.Generator | None = None) -> Tensor:
        """Noise for logits of `shape`, to be kept if the read is to be replayed.

        On the device of `generator`, or of the cells if there is none.
        """
        device = self.cells.device if generator is None else generator.device
        return choice_noise(shape, self.estimator, self.samples, generator, device)

    def forward(self, logits: Tensor, temperature: float = 1.0, noise: Tensor | None = None) -> BankRead:
        """Read one cell per row of `logits` [..., n].

        With `noise` the cell is sampled from it. Without, training mode draws fresh noise and evaluation mode
        takes the argmax, for which the temperature has no meaning.
        """
        if logits.dim() == 0 or logits.shape[-1] != self.size:
            raise ValueError(
                f"the bank has {self.size} cells, so the logits must be [..., {self.size}], "
                f"got {list(logits.shape)}"
            )
        if noise is None and self.training:
            noise = self.noise(logits.shape)
        if noise is None:
            return self._read(choose_best(logits))
        return self._read(choose(logits, noise, temperature, self.estimator))

    def _read(self, choice: Choice) -> BankRead:
        return BankRead(read_cells(self.cells, choice), choice)

    @torch.no_grad()
    def swap(self, cells: Tensor) -> None:
        """Put other cells of the same shape [n, *C] in place of the present ones; `cells` is copied."""
        if cells.shape != self.cells.shape:
            raise ValueError(
                f"the addresses were learned for cells {list(self.cells.shape)}, "
                f"so the new ones must have that shape, got {list(cells.shape)}"
            )
        self.cells.copy_(_checked_cells(cells))

    def extra_repr(self) -> str:
        learnable = isinstance(self.cells, nn.Parameter)
        return f"cells={list(self.cells.shape)}, learnable={learnable}, estimator={self.estimator}"


def read_cells(cells: Tensor, choice: Choice) -> Tensor:
    """The chosen cells [..., *C] of `cells` [n, *C], in their own dtype.

    The value is indexed, not multiplied, hence exact under autocast and reduced-precision matrix products.
    The gradient is that of `weights @ cells`: exact for the cells, the estimator's for the weights.
    """
    value = cells[choice.cell]
    if not choice.weights.requires_grad:
        return value
    with torch.autocast(cells.device.type, enabled=False):
        weights = choice.weights.to(cells.dtype)
        zero = (weights - weights.detach()) @ cells.detach().reshape(len(cells), -1)
    return value + zero.view(value.shape)


def _checked_cells(cells: Tensor) -> Tensor:
    if cells.dim() == 0 or cells.numel() == 0:
        raise ValueError(
            f"a memory bank needs at least one cell: expected [cells, ...], got {list(cells.shape)}"
        )
    if cells.is_complex() or not cells.isfinite().all():
        raise ValueError("the cells of a memory bank must be finite real numbers")
    own = cells.detach().clone()
    return own if own.is_floating_point() else own.to(torch.get_default_dtype())
