"""The memory bank: reads are exactly one cell, a bank can be swapped, saved and trained; mistakes are refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from memory.hard.bank import MemoryBank
from memory.hard.estimators import ESTIMATORS, EstimatorName
from memory.hard.straight_through import straight_through


def cases() -> list[tuple[int, ...]]:
    return [(), (3,), (2, 4, 4)]


@pytest.mark.parametrize("shape", cases())
@pytest.mark.parametrize("training", [True, False])
def test_a_read_returns_exactly_one_cell(shape: tuple[int, ...], training: bool) -> None:
    torch.manual_seed(15)
    cells = torch.randn(5, *shape)
    bank = MemoryBank(cells).train(training)
    logits = torch.randn(2, 7, 5, requires_grad=True)
    value, choice = bank(logits)
    assert value.shape == (2, 7, *shape)
    assert torch.equal(value, cells[choice.cell])
    assert torch.equal(choice.cell, logits.argmax(-1)) is not training


def test_the_read_has_the_gradient_of_the_matrix_product() -> None:
    torch.manual_seed(16)
    bank = MemoryBank(torch.randn(5, 3), learnable=True).double()
    logits, towards = torch.randn(6, 5).double().requires_grad_(), torch.randn(6, 3).double()
    noise = bank.noise(logits.shape)
    read = bank(logits, 0.5, noise)
    mine = torch.autograd.grad((read.value * towards).sum(), [logits, bank.cells])
    product = straight_through(logits, noise, 0.5) @ bank.cells
    expected = torch.autograd.grad((product * towards).sum(), [logits, bank.cells])
    for one, other in zip(mine, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_read_is_exact_and_finite_under_autocast(estimator: EstimatorName) -> None:
    torch.manual_seed(17)
    cells = torch.randn(5, 3)
    bank, layer = MemoryBank(cells, estimator=estimator), torch.nn.Linear(2, 5)
    with torch.autocast("cpu", torch.bfloat16):
        logits = layer(30.0 * torch.randn(64, 2))
        assert logits.dtype == torch.bfloat16
        value, choice = bank(logits, 0.3)
        loss = value.square().mean() + choice.log_probability.mean()
    assert torch.equal(value, cells[choice.cell]), "not rounded to bfloat16"
    loss.backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


def test_stored_noise_replays_a_read_in_either_mode() -> None:
    bank = MemoryBank(torch.arange(6.0))
    logits = torch.randn(40, 6)
    noise = bank.noise(logits.shape, torch.Generator().manual_seed(18))
    first = bank.train()(logits, 0.5, noise)
    again = bank.eval()(logits, 0.5, noise)
    assert torch.equal(first.value, again.value)
    assert not torch.equal(first.choice.cell, bank(logits).choice.cell), "without noise it is the argmax"


def test_swapping_the_bank_changes_the_values_and_not_the_addresses() -> None:
    torch.manual_seed(19)
    net = torch.nn.Linear(1, 5)
    cells = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    bank = MemoryBank(cells).eval()
    logits = net(torch.linspace(-3, 3, 50)[:, None])
    before = bank(logits)
    bank.swap(2 * cells)
    doubled = bank(logits)
    assert torch.equal(doubled.value, 2 * before.value)
    assert torch.equal(doubled.choice.cell, before.choice.cell)
    order = torch.tensor([3, 0, 4, 1, 2])
    bank.swap(cells[order])
    assert not torch.equal(bank(logits).value, before.value), "permuting the bank alone breaks the result"
    assert torch.equal(bank(logits[:, order]).value, before.value), "permuting bank and logits does not"


@pytest.mark.parametrize("learnable", [True, False])
def test_the_bank_is_saved_moved_and_its_own(learnable: bool) -> None:
    mine = torch.arange(4.0)
    bank = MemoryBank(mine, learnable)
    bank.swap(mine + 5)
    assert torch.equal(mine, torch.arange(4.0)), "the caller's tensor is unchanged"
    other = MemoryBank(torch.zeros(4), learnable)
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.cells, mine + 5)
    assert bank.to(torch.float64).cells.dtype == torch.float64
    assert len(list(bank.parameters())) == int(learnable)


def test_only_a_learnable_bank_is_trained() -> None:
    for learnable in (True, False):
        bank = MemoryBank(torch.arange(3.0), learnable)
        logits = torch.randn(10, 3, requires_grad=True)
        bank(logits).value.sum().backward()
        assert logits.grad is not None
        assert (bank.cells.grad is not None) is learnable


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (torch.zeros(0), "at least one cell"),
        (torch.zeros(0, 3), "at least one cell"),
        (torch.zeros(3, 0), "at least one cell"),
        (torch.tensor(1.0), "at least one cell"),
        (torch.tensor([1.0, math.nan]), "finite"),
        (torch.zeros(2, dtype=torch.complex64), "real"),
    ],
)
def test_impossible_banks_are_refused(cells: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryBank(cells)


def test_wrong_reads_and_swaps_are_refused() -> None:
    bank = MemoryBank(torch.arange(5))
    assert bank.cells.dtype == torch.float32
    with pytest.raises(ValueError, match=r"5 cells, so the logits must be \[..., 5\], got \[2, 4\]"):
        bank(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"learned for cells \[5\]"):
        bank.swap(torch.zeros(6))
    with pytest.raises(ValueError, match="finite"):
        bank.swap(torch.full((5,), math.inf))
    with pytest.raises(ValueError, match="NaN"):
        bank.eval()(torch.full((2, 5), math.nan))
