"""The hard memory as a core: against a bank that is written by hand, its gradient, its noise, its temperature."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from memory import CoreConfig, HardCore, gumbel_noise, make_core, map_state
from memory.hard.core import BLOCK, banded, slot_ages, unbanded, writes_before
from memory.recurrent.cores import GRUState, LSTMState

T, B, X, N, D, H, S = 9, 4, 6, 7, 5, 2, 3


def build(**options: Any) -> HardCore:
    torch.manual_seed(0)
    settings = {"hidden_size": N, "memory_size": D, "slots": S, "heads": H} | options
    core = make_core(CoreConfig(name="hard", **settings), X).double()
    assert isinstance(core, HardCore)
    torch.nn.init.normal_(core.age_logits.weight)
    torch.nn.init.normal_(core.age_logits.bias)
    return core


def segment(core: HardCore, steps: int = T) -> tuple[Tensor, Tensor, Tensor]:
    xs = torch.randn(steps, B, X, dtype=torch.float64, requires_grad=True)
    noise = gumbel_noise((steps, B, *core.noise_shape)).double()
    return xs, torch.rand(steps, B) < 0.25, noise


def by_hand(core: HardCore, xs: Tensor, is_first: Tensor, noise: Tensor, soft: bool = False) -> Tensor:
    """Features [T, B, n] by the equations, one example at a time, from a ring buffer of (key, value, tag).

    Slot t mod N takes the write of step t. With `soft` the read is the mixture whose gradient the
    straight-through address has: the value of the chosen slot, plus (y - y.detach()) @ values.
    """
    columns = []
    for b in range(xs.shape[1]):
        ring: list[Any] = []
        h = c = torch.zeros(1, N, dtype=xs.dtype)
        out, t_episode = [], 0
        for t in range(len(xs)):
            x_t = xs[t, b : b + 1]
            if is_first[t, b] or not ring:
                ring, t_episode = [None] * core.slots, 0
                h, c = torch.zeros_like(h), torch.zeros_like(c)
            if core.controller == "lstm":
                _, (h, c) = core.cell.step(x_t, LSTMState(h, c))
                hidden = h
            elif core.controller == "gru":
                _, (hidden,) = core.cell.step(x_t, GRUState(h))
                h = hidden
            else:
                hidden = torch.tanh(core.cell(x_t))
            reads = []
            query = core.query(hidden).view(core.heads, core.memory_size)
            by_age = core.age_logits(hidden).view(core.heads, core.slots + 1)
            for i in range(core.heads):
                filled = [entry for entry in ring if entry is not None]
                logits = [
                    core.log_scale.exp() * (query[i] @ key) / math.sqrt(core.memory_size)
                    + by_age[i, core.slots - (t_episode - tag)]
                    for key, _, tag in filled
                ]
                drawn = [noise[t, b, i, core.slots - (t_episode - tag)] for _, _, tag in filled]
                perturbed = torch.stack([*logits, by_age[i, -1]]) + torch.stack([*drawn, noise[t, b, i, -1]])
                y = torch.softmax(perturbed / core.temperature, dim=0)
                values = torch.stack([*(v for _, v, _ in filled), torch.zeros_like(query[i])])
                chosen = values[int(perturbed.argmax())]
                reads.append(chosen + (y - y.detach()) @ values.detach() if soft else chosen)
            ring[t_episode % core.slots] = (
                core.key(hidden)[0],
                core.value(x_t if core.slot_value == "input" else hidden)[0],
                t_episode,
            )
            t_episode += 1
            out.append(torch.tanh(core.output(torch.cat([hidden[0], *reads])[None]))[0])
        columns.append(torch.stack(out))
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize(
    ("controller", "slot_value", "slots"),
    [("lstm", "input", S), ("lstm", "controller", 2 * T), ("gru", "input", S), ("feedforward", "input", 1)],
)
def test_the_core_equals_a_ring_buffer_written_by_hand(controller: str, slot_value: str, slots: int) -> None:
    """Values and every gradient, over resets, with fewer and with more slots than steps."""
    core = build(controller=controller, slot_value=slot_value, slots=slots)
    core.set_progress(0.4)
    xs, is_first, noise = segment(core)
    weight = torch.randn(T, B, N, dtype=torch.float64)
    mine = core.unroll(xs, core.initial_state(B), is_first, noise)[0].features
    theirs = by_hand(core, xs, is_first, noise, soft=True)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(mine, by_hand(core, xs, is_first, noise), rtol=1e-12, atol=1e-13)
    wanted = [xs, *core.parameters()]
    for name, a, b in zip(
        ["xs", *(name for name, _ in core.named_parameters())],
        torch.autograd.grad((mine * weight).sum(), wanted),
        torch.autograd.grad((theirs * weight).sum(), wanted),
        strict=True,
    ):
        assert a.abs().sum() > 0, name
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=name)


def test_the_value_path_is_exactly_differentiable() -> None:
    """Where the address cannot move, finite differences agree: values, bank and output have exact gradients."""
    core = build(slot_value="input")
    xs, _, noise = segment(core, 4)
    # One slot of each step towers above the rest.
    noise = torch.where(noise == noise.amax(-1, keepdim=True), 100.0, 0.0)
    state = map_state(lambda x: x.detach(), core.unroll(*segment(core)[:1], core.initial_state(B),
                                                        torch.zeros(T, B, dtype=torch.bool))[1])  # fmt: skip
    is_first = torch.zeros(4, B, dtype=torch.bool)
    is_first[2, 1] = True
    values = state.values.clone().requires_grad_()

    def run(values: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        output, final = core.unroll(xs.detach(), state._replace(values=values), is_first, noise)
        return output.features, final.values

    exact = (core.value.weight, core.value.bias, core.output.weight, core.output.bias)
    assert torch.autograd.gradcheck(run, (values, *exact), fast_mode=True)


def test_what_is_read_is_bit_for_bit_what_was_written() -> None:
    core = build(controller="feedforward").float()
    xs = torch.randn(T, B, X)
    state = core.initial_state(B)
    stored: list[Tensor] = []
    for t in range(T):
        noise = gumbel_noise((B, H, S + 1))
        _, _, (reading,) = core._segment(xs[t][None], state, torch.zeros(1, B, dtype=torch.bool), noise[None])
        output, state_after = core.step(xs[t], state, record=True, noise=noise)
        record = output.record
        assert torch.equal(record.noise, noise)
        for b in range(B):
            for i in range(H):
                slot = int(record.slot[b, i])
                tag = -1 if slot == S else int(record.tags[b, slot])
                expected = torch.zeros(D) if slot == S else stored[tag][b]
                assert slot == S or tag == t - (S - slot) >= 0
                assert torch.equal(reading.read[0, b, i], expected)
        state = state_after
        stored.append(state.values[:, -1])


def test_an_empty_bank_reads_the_null_slot_whatever_the_noise_says() -> None:
    core = build()
    noise = torch.full((B, H, S + 1), 50.0, dtype=torch.float64)
    noise[..., -1] = -50.0
    output, state = core.step(torch.randn(B, X).double(), core.initial_state(B), record=True, noise=noise)
    assert (output.record.slot == S).all()
    assert (output.record.tags == -1).all()
    assert state.tags.tolist() == [[-1] * (S - 1) + [0]] * B


def test_the_temperature_changes_the_gradient_and_nothing_else() -> None:
    found = {}
    for temperature in (0.2, 3.0):
        core = build(address_temperature=temperature, address_temperature_final=temperature)
        torch.manual_seed(1)
        xs, is_first, noise = segment(core)
        features = core.unroll(xs, core.initial_state(B), is_first, noise)[0].features
        found[temperature] = features, torch.autograd.grad(features.square().sum(), core.query.weight)[0]
    assert torch.equal(found[0.2][0], found[3.0][0])
    assert not torch.allclose(found[0.2][1], found[3.0][1])


def test_the_temperature_falls_geometrically() -> None:
    core = build(address_temperature=2.0, address_temperature_final=0.5)
    temperatures = []
    for progress in (0.0, 0.5, 1.0):
        core.set_progress(progress)
        temperatures.append(core.temperature)
    assert temperatures == pytest.approx([2.0, 1.0, 0.5])


def test_the_band_keeps_the_window_of_every_row() -> None:
    x = torch.arange(2 * 3 * 6).view(2, 3, 6)
    band = banded(x, 4)
    assert all(torch.equal(band[:, t], x[:, t, t : t + 4]) for t in range(3))
    assert torch.equal(banded(unbanded(band), 4), band)
    assert unbanded(band)[0, 2].tolist() == [0, 0, *x[0, 2, 2:].tolist()]


def test_writes_are_counted_from_the_reset() -> None:
    is_first = torch.tensor([[0, 0], [0, 1], [0, 0], [0, 1]], dtype=torch.bool)
    counts = writes_before(is_first, torch.tensor([5.0, 5.0]))
    assert counts.T.tolist() == [[5, 6, 7, 8, 9], [5, 0, 1, 0, 1]]
    assert slot_ages(3, is_first.device).tolist() == [3, 2, 1]


def test_a_long_segment_read_in_blocks_equals_steps() -> None:
    core, steps = build(controller="feedforward", slots=BLOCK // 2), 2 * BLOCK + 5
    xs, is_first, noise = segment(core, steps)
    is_first = is_first & (torch.rand(steps, B) < 0.05)
    with torch.no_grad():
        whole, final = core.unroll(xs, core.initial_state(B), is_first, noise)
        by_steps, last = super(HardCore, core).unroll(xs, core.initial_state(B), is_first, noise)
    torch.testing.assert_close(whole.features, by_steps.features, rtol=1e-12, atol=1e-13)
    for mine, theirs in zip(final, last, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-13)


def test_a_bank_without_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 slot, got 0"):
        build(slots=0)
