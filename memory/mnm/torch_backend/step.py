"""One acting step of the neural memory under no_grad: the maths of `MNMCore.step`, with fewer passes.

Legend: B batch, n controller size, H heads, d key and value size, u hidden width of the memory.

The full weights M = phi_0 + D are formed once, written in place and dropped; only D leaves. Nothing that was
passed in is changed, so a state may be kept (the learner keeps the one that opens a rollout).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from memory.core import CoreOutput, MemoryRecord
from memory.mnm.input_window import normalized
from memory.mnm.neural import Activations, Weights
from memory.mnm.reference import MNMCore, MNMState
from memory.mnm.tape import add_outer, tanh_of_half


def acting_step(core: MNMCore, x_t: Tensor, state: MNMState, record: bool) -> tuple[CoreOutput, MNMState]:
    """Equals `MNMCore.step` up to rounding; the record, if asked for, is made of the very numbers used."""
    hidden, h, c = control(core, core.control_input(x_t, state.value_read), state.h, state.c)
    from_input, recent = core.from_input(x_t, state.recent)
    write_key, target_value, read_key, beta = interact(core, hidden, from_input)
    weights = core.weights(state)
    before = pass_through(weights, write_key)
    steps = core.memory.rule(weights, before, target_value, beta)
    inputs = (write_key, before.hidden1, before.hidden2)
    delta = [less_outer(d, u, z) for d, u, z in zip(state.delta, steps, inputs, strict=True)]
    for weight, u, z in zip(weights, steps, inputs, strict=True):
        add_outer(weight, u, z, alpha=-1.0)
    after = pass_through(weights, torch.cat([read_key, write_key], dim=1))
    read_value, rewritten = after.value.split(core.heads, dim=1)
    value_read = read_value.mean(dim=1)

    output = CoreOutput(
        linear(core.seen(torch.cat([hidden, value_read], dim=-1)), core.output.weight, core.output.bias),
        (rewritten - target_value).square_().mean(dim=(1, 2)),
        (before.value - target_value).square_().mean(dim=(1, 2)),
        MemoryRecord(
            inputs,
            steps,
            target_value,
            beta.mean(dim=-1),
            read_key,
            (after.hidden1[:, : core.heads], after.hidden2[:, : core.heads]),
            value_read,
        )
        if record
        else None,
    )
    return output, MNMState._make((h, c, value_read, *delta, recent))


@torch.no_grad()
def step_in_place(
    core: MNMCore,
    x_t: Tensor,
    state: MNMState,
    weights: Weights,
    skip_write: Tensor | None = None,
) -> Tensor:
    """One step that writes h, c and the value read into `state` and the memory into `weights`; [h ; v], [B, n + d].

    `weights` are the full M = phi_0 + D and take the place of `state.delta`, which is neither read nor changed.
    For replays that own their memories: nothing of the size of a memory is allocated. skip_write bool [B].
    """
    hidden, h, c = control(core, core.control_input(x_t, state.value_read), state.h, state.c)
    from_input, recent = core.from_input(x_t, state.recent)
    write_key, target_value, read_key, beta = interact(core, hidden, from_input)
    if skip_write is not None:
        beta = beta.masked_fill(skip_write[:, None], 0.0)
    before = pass_through(weights, write_key)
    steps = core.memory.rule(weights, before, target_value, beta)
    for weight, u, z in zip(weights, steps, (write_key, before.hidden1, before.hidden2), strict=True):
        add_outer(weight, u, z, alpha=-1.0)
    value_read = pass_through(weights, read_key).value.mean(dim=1)
    carried, after = (state.h, state.c, state.value_read, state.recent), (h, c, value_read, recent)
    for buffer, new in zip(carried, after, strict=True):
        buffer.copy_(new)
    return torch.cat([hidden, value_read], dim=-1)


def control(core: MNMCore, read_in: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden vector of the step and the controller's next state."""
    cell = core.cell
    if isinstance(cell, nn.LSTMCell):
        gates = linear(read_in, cell.weight_ih, cell.bias_ih)
        gates.add_(linear(h, cell.weight_hh, cell.bias_hh))
        i, f, g, o = gates.chunk(4, dim=-1)
        g.mul_(2.0)
        gates.sigmoid_()
        g.mul_(2.0).sub_(1.0)
        c = (f * c).addcmul_(i, g)
        h = tanh_(c.clone()).mul_(o)
        return h, h, c
    if isinstance(cell, nn.GRUCell):
        h = cell(read_in, h)
        return h, h, c
    assert isinstance(cell, nn.Linear)
    return tanh_(linear(read_in, cell.weight, cell.bias)), h, c


def interact(
    core: MNMCore, hidden: Tensor, from_input: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Write keys, target values and read keys [B, H, d], and rates beta [B, 3]."""
    seen = hidden if from_input is None else normalized(hidden)
    vector = linear(seen, core.interaction.weight, core.interaction.bias)
    if from_input is not None:
        vector.add_(from_input)
    tanh_(vector)
    rate_in, per_head = vector.split([core.memory_size, 3 * core.heads * core.memory_size], dim=-1)
    write_key, target_value, read_key = per_head.view(-1, core.heads, 3 * core.memory_size).chunk(3, -1)
    beta = linear(rate_in, core.rate.weight, core.rate.bias).sigmoid_().expand(-1, 3)
    return write_key, target_value, read_key, beta


def pass_through(weights: Weights, keys: Tensor) -> Activations:
    """`memory.neural.forward`, out of place only where it must be."""
    hidden1 = tanh_(torch.bmm(keys, weights[0].mT))
    hidden2 = tanh_(torch.bmm(hidden1, weights[1].mT))
    return Activations(keys, hidden1, hidden2, torch.bmm(hidden2, weights[2].mT))


def tanh_(x: Tensor) -> Tensor:
    """tanh in place."""
    tanh_of_half(x.mul_(2.0), out=x)
    return x


def less_outer(delta: Tensor, rows_out: Tensor, rows_in: Tensor) -> Tensor:
    """delta - rows_out^T rows_in, as a new tensor."""
    if rows_out.shape[-2] == 1:
        return torch.addcmul(delta, rows_out.mT, rows_in, value=-1.0)
    return torch.baddbmm(delta, rows_out.mT, rows_in, alpha=-1.0)
