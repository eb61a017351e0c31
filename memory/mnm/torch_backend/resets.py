"""Resets inside a segment of the fused memory: two forms of the same thing, for two kinds of machine.

Legend: T time, B batch; weights W_l [B, d_l, d_{l-1}] of the layers l = 1..3, phi_0 the same without B.

    RowResets    lists of the examples that reset at each step. Asks the device once; touches nobody else.
    MaskResets   selections by the flags over the whole batch. Asks the host nothing, and every segment of
                 one shape makes the same calls, so that a CUDA graph can hold it; costs a few passes over W.

The write of a step cannot be undone across a reset, so both keep what a reset overwrites, except at step 0,
before which nothing is undone. RowResets keeps exactly those rows. MaskResets has a pool of fixed capacity:
the n-th reset goes to place n, whoever does not reset to place 0, which nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class RowResets:
    """Resets by index; `kept` is what an earlier pass over the same flags has kept."""

    def __init__(self, is_first: Tensor, kept: Sequence[Tensor] = ()) -> None:
        self.rows = rows_of_resets(is_first)
        self.kept = list(kept)

    def at(self, t: int) -> bool:
        """Whether anybody resets at step t."""
        return self.rows[t] is not None

    def enter(self, t: int, weights: Sequence[Tensor], phi0: Sequence[Tensor], keep: bool) -> None:
        """Put phi_0 in place of the weights of those who reset; keep what was there for `leave`."""
        rows = self._rows(t)
        if keep and t > 0:
            self.kept += [weight[rows] for weight in weights]
        for weight, initial in zip(weights, phi0, strict=True):
            weight.index_copy_(0, rows, initial.expand(len(rows), -1, -1))

    def leave(self, t: int, weights: Sequence[Tensor]) -> None:
        """Undo `enter`, step by step from the last; at step 0 there is nothing to go back to."""
        if t > 0:
            before = self.kept[-3:]
            del self.kept[-3:]
            for weight, kept in zip(weights, before, strict=True):
                weight.index_copy_(0, self._rows(t), kept)

    def take(self, t: int, total: Tensor, g: Tensor, da: Tensor, z: Tensor) -> None:
        """Move the gradient G + da^T Z of those who start here to `total`, that of phi_0; g and da become 0."""
        rows = self._rows(t)
        total.add_(torch.baddbmm(g[rows], da[rows].mT, z[rows]).sum(0))
        g.index_fill_(0, rows, 0.0)
        da.index_fill_(0, rows, 0.0)

    def _rows(self, t: int) -> Tensor:
        rows = self.rows[t]
        assert rows is not None
        return rows


class MaskResets:
    """Resets by flag, with a pool for at most `capacity` resets after step 0; more than that is an error."""

    def __init__(self, is_first: Tensor, capacity: int, kept: Sequence[Tensor] = ()) -> None:
        later = is_first.clone()
        later[0] = False
        self.masks = is_first[:, :, None, None].unbind(0)
        self.places = torch.where(later, later.flatten().cumsum(0).view_as(later), 0).unbind(0)
        self.capacity, self.kept = capacity, list(kept)

    def at(self, t: int) -> bool:
        """True: whether somebody resets is not asked."""
        return True

    def enter(self, t: int, weights: Sequence[Tensor], phi0: Sequence[Tensor], keep: bool) -> None:
        """As RowResets."""
        if keep and not self.kept:
            self.kept = [weight.new_zeros(self.capacity + 1, *weight.shape[1:]) for weight in weights]
        if keep and t > 0:
            for pool, weight in zip(self.kept, weights, strict=True):
                pool.index_copy_(0, self.places[t], weight)
        for weight, initial in zip(weights, phi0, strict=True):
            torch.where(self.masks[t], initial, weight, out=weight)

    def leave(self, t: int, weights: Sequence[Tensor]) -> None:
        """As RowResets."""
        if t > 0:
            for pool, weight in zip(self.kept, weights, strict=True):
                torch.where(self.masks[t], pool[self.places[t]], weight, out=weight)

    def take(self, t: int, total: Tensor, g: Tensor, da: Tensor, z: Tensor) -> None:
        """As RowResets."""
        total.add_(torch.baddbmm(g, da.mT, z).masked_fill_(~self.masks[t], 0.0).sum(0))
        g.masked_fill_(self.masks[t], 0.0)
        da.masked_fill_(self.masks[t], 0.0)


Resets = RowResets | MaskResets


def resets_of(is_first: Tensor, capacity: int | None, kept: Sequence[Tensor] = ()) -> Resets:
    """The form for flags [T, B]: masks if a capacity is given, else rows."""
    return RowResets(is_first, kept) if capacity is None else MaskResets(is_first, capacity, kept)


def rows_of_resets(is_first: Tensor) -> list[Tensor | None]:
    """Per step the examples that reset, or None; asks the device once."""
    counts = is_first.sum(dim=1).tolist()
    rows = is_first.nonzero()[:, 1].split(counts)
    return [index if count else None for index, count in zip(rows, counts, strict=True)]
