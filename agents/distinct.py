"""Encode every distinct observation once: rows of a rollout repeat, above all in grid worlds.

A rollout of 8,192 rows of MiniGrid-MemoryS7 holds about a hundred different images and one mission. The encoder
runs on those, forward and backward, and a row takes the result of its own kind; the numbers are the same.

Legend: N rows, U distinct ones, W 64-bit words of a row.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEWEST_ROWS = 256
"""Below this, as while acting, looking for repetitions takes as long as encoding."""


class Distinct(NamedTuple):
    """Rows [N] as U kinds."""

    example: Tensor
    """[U] a row of each kind."""
    kind: Tensor
    """[N] the kind of each row."""


def encode_rows(part: nn.Module, x: Tensor, leading: int) -> Tensor:
    """part(x), x [..., *shape] with `leading` leading axes; each distinct row is encoded once where that pays."""
    axes = x.shape[:leading]
    # Numbers that are not whole rarely repeat; on CUDA the search would make the host wait.
    if x.is_cuda or x.is_floating_point() or axes.numel() < FEWEST_ROWS:
        return part(x)
    rows = x.flatten(0, leading - 1)
    distinct = find_distinct(rows)
    if distinct is None:
        return part(x)
    return part(rows[distinct.example]).index_select(0, distinct.kind).view(*axes, -1)


def find_distinct(rows: Tensor) -> Distinct | None:
    """The kinds of rows [N, ...]; None if more than half of the rows are distinct."""
    words = as_words(rows)
    hashed = (words * multipliers(words.shape[1])).sum(1)
    kind = torch.unique(hashed, return_inverse=True)[1]
    count = int(kind.max()) + 1
    if 2 * count > len(words):
        return None
    example = kind.new_empty(count)
    example[kind] = torch.arange(len(words))
    # Different rows may share a hash: then nothing is merged.
    if not torch.equal(words.index_select(0, example.index_select(0, kind)), words):
        return None
    return Distinct(example, kind)


def as_words(rows: Tensor) -> Tensor:
    """The bytes of rows [N, ...] as int64 [N, W], filled up with zeros."""
    raw = rows.reshape(len(rows), -1).contiguous().view(torch.uint8)
    return F.pad(raw, (0, -raw.shape[1] % 8)).view(torch.int64)


@lru_cache
def multipliers(words: int) -> Tensor:
    """[W] fixed random odd numbers, the coefficients of the hash."""
    generator = torch.Generator().manual_seed(words)
    return torch.randint(-(2**62), 2**62, (words,), generator=generator) * 2 + 1
