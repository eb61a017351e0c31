"""Encoding each distinct row once: the same numbers, the same gradients, and never two rows taken for one."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

import agents.encoders
from agents.encoders import FEWEST_ROWS, encode_rows, find_distinct, part_encoder

T, B = 20, 24


def repeating_rows(kinds: int) -> Tensor:
    """[T, B, 5, 3] rows of `kinds` kinds, every kind present."""
    torch.manual_seed(0)
    table = torch.randint(0, 4, (kinds, 5, 3), dtype=torch.uint8)
    order = torch.randperm(T * B) % kinds
    return table[order].view(T, B, 5, 3)


@pytest.mark.parametrize("kinds", [1, 7, T * B])
def test_values_and_gradients_are_those_of_the_plain_encoder(kinds: int) -> None:
    assert T * B >= FEWEST_ROWS
    encoder = part_encoder("x", spaces.MultiDiscrete([[4] * 3] * 5), 6).double()
    x, weights = repeating_rows(kinds), torch.randn(T, B, 6, dtype=torch.float64)
    found = []
    for encoded in (encode_rows(encoder, x, 2), encoder(x)):
        found.append((encoded, *torch.autograd.grad((encoded * weights).sum(), list(encoder.parameters()))))
    assert torch.equal(found[0][0], found[1][0])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_every_kind_is_found_once(dtype: torch.dtype) -> None:
    rows = repeating_rows(7).flatten(0, 1).to(dtype)
    distinct = find_distinct(rows)
    assert distinct is not None
    assert len(distinct.example) == len(torch.unique(rows.flatten(1).to(torch.uint8), dim=0))
    assert torch.equal(rows[distinct.example][distinct.kind], rows)


def test_rows_that_hardly_repeat_are_left_alone() -> None:
    assert find_distinct(torch.arange(100)[:, None]) is None


def test_a_shared_hash_merges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents.encoders, "multipliers", lambda words: torch.zeros(words, dtype=torch.int64))
    assert find_distinct(repeating_rows(7).flatten(0, 1)) is None
