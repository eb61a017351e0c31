"""Metalearned Neural Memory as a core: a controller that writes to and reads from a neural memory.

Legend: B batch, n controller size, H heads, d key and value size, u hidden width of the memory.
One time step, in this order:

    h_t, c_t = controller([x_t ; v_{t-1}], (h_{t-1}, c_{t-1}))                     x_t alone without read feedback
    [beta'_t ; (k^w_i, v^w_i, k^r_i) for i = 1..H] = tanh(W_v LN(h_t) + p_t + b_v)
    beta_t = sigmoid(w_b . beta'_t + b_b)
    WRITE  phi_{t-1} -> phi_t  with the write keys, target values and rate of step t
    READ   v_t = (1/H) sum_i f(k^r_i; phi_t)   from the UPDATED memory
    out_t = W_o [h_t ; v_t] + b_o
    m_t = mean over heads and units of (f(k^w; phi_t) - v^w)^2                    the meta loss of the step

p_t is made of the last inputs (`memory/mnm/input_window.py`). `interaction_window=0` is the published arrangement,
tanh(W_v h_t + b_v).

This is the plain, out-of-place formulation under ordinary autograd: the oracle against which faster
versions are tested. Source: Munkhdalai et al. 2019, with the choices that the paper leaves open
documented in `docs/memory.md`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memory.core import (
    CoreOutput,
    Intervention,
    MemoryCore,
    MemoryRecord,
    map_state,
    reset_state,
)
from memory.mnm.input_window import InputWindow, normalized
from memory.mnm.neural import GradientRule, LocalRule, NeuralMemory, Weights, WriteFactors
from memory.options import MNMOptions

NEVER = -1000.0
"""Bias of the rate of a layer that is never written: its sigmoid is 0 (in the compiled kernel 4e-39, which no
weight feels), and so is the gradient, so that training leaves it there."""

UNWRITTEN_SCALE = 0.1
"""Factor on the initial weights of the last layer where it alone is written."""


class MNMState(NamedTuple):
    """Controller state, last value read, and the memory as its change D^l = M^l - phi_0^l."""

    h: Tensor
    """[B, n]; width 0 with the feed-forward controller, which keeps nothing."""
    c: Tensor
    """[B, n]; width 0 with any controller but the LSTM."""
    value_read: Tensor
    """v_{t-1} [B, d]; without read feedback nothing looks at it again."""
    delta1: Tensor
    """D^1 [B, u, d]."""
    delta2: Tensor
    """D^2 [B, u, u]."""
    delta3: Tensor
    """D^3 [B, d, u]."""
    recent: Tensor
    """What the last inputs add to the interaction layer, the newest first, [B, w - 1, K]; [B, 0, K] without a
    window."""

    @property
    def delta(self) -> Weights:
        """The three changes together."""
        return self.delta1, self.delta2, self.delta3


class MNMCore(MemoryCore):
    """MNM-g (`rule="gradient"`) and MNM-p (`rule="local"`) with an LSTM, GRU or feed-forward controller."""

    writes = True

    def __init__(self, input_size: int, options: MNMOptions, rule: Literal["gradient", "local"]) -> None:
        super().__init__()
        n, d, heads = options.hidden_size, options.memory_size, options.heads
        memory_hidden = options.memory_hidden or d
        if rule == "local" and memory_hidden != d:
            raise ValueError(
                f"mnm-p predicts the activations of all layers from the target value, so the hidden width of "
                f"its memory must equal the value size: got {memory_hidden} and {d}; use {d} for both, or mnm-g"
            )
        self.input_size, self.output_size = input_size, n
        self.memory_size, self.heads, self.controller = d, heads, options.controller
        self.read_feedback, self.read_memory = (
            options.read_feedback and options.read_memory,
            options.read_memory,
        )
        layers = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "feedforward": nn.Linear}
        self.cell: nn.Module = layers[options.controller](input_size + (d if self.read_feedback else 0), n)
        self.interaction = nn.Linear(n, self.rows)
        self.window: InputWindow | None = None
        if options.interaction_window > 0:
            self.window = InputWindow(input_size, self.rows, options.interaction_window)
        with torch.no_grad():
            self.interaction.weight.mul_(options.interaction_gain)
            if self.window is not None:
                self.window.project.weight.mul_(options.interaction_gain)
        rate_per_layer = options.update_rate == "per-layer" or options.written_layers == "last"
        self.rate = nn.Linear(d, 3 if rate_per_layer else 1)
        write_rule = LocalRule(d) if rule == "local" else GradientRule()
        self.memory = NeuralMemory(d, memory_hidden, write_rule, options.initial_weights == "learned")
        self.output = nn.Linear(n + d, n)
        self.written_layers = options.written_layers
        if options.written_layers == "last":
            # A write of this layer alone is a few per cent of its target: what was never written must not drown it.
            with torch.no_grad():
                self.memory.initial_weights[2].mul_(UNWRITTEN_SCALE)
        switch_off(self)
        # Weights of an agent that writes and reads may be loaded to go on without.
        self.register_load_state_dict_post_hook(switch_off)

    def initial_state(self, batch_size: int) -> MNMState:
        h = self._zeros(batch_size, 0 if self.controller == "feedforward" else self.output_size)
        c = self._zeros(batch_size, self.output_size if self.controller == "lstm" else 0)
        deltas = [self._zeros(batch_size, *shape) for shape in self.memory.shapes]
        recent = self._zeros(batch_size, len(self.window.taps) - 1 if self.window else 0, self.rows)
        return MNMState._make((h, c, self._zeros(batch_size, self.memory_size), *deltas, recent))

    def weights(self, state: MNMState) -> Weights:
        """The memory's full weights phi_0 + D, [B, d_l, d_{l-1}]."""
        return self.memory.weights(state.delta)

    def step(
        self,
        x_t: Tensor,
        state: MNMState,
        record: bool = False,
        noise: Tensor | None = None,
        intervention: Intervention | None = None,
    ) -> tuple[CoreOutput, MNMState]:
        """One step; an intervention changes what is written or read, and all that follows from it."""
        weights = self.weights(state)
        from_input, recent = self.from_input(x_t, state.recent)
        carried = state.h, state.c, state.value_read
        moment = self._advance(x_t, from_input, *carried, weights, intervention)
        # D takes the same step as M = phi_0 + D; taking M - phi_0 instead would round D even if beta = 0.
        delta = [
            torch.baddbmm(d, u.mT, z, alpha=-1.0)
            for d, u, z in zip(state.delta, moment.factors.steps, moment.factors.inputs, strict=True)
        ]
        output = CoreOutput(
            self._mix(moment.hidden, moment.value_read),
            moment.meta_loss,
            moment.write_error,
            moment.record() if record else None,
        )
        return output, MNMState._make((moment.h, moment.c, moment.value_read, *delta, recent))

    def unroll(
        self, xs: Tensor, state: MNMState, is_first: Tensor, noise: Tensor | None = None
    ) -> tuple[CoreOutput, MNMState]:
        """Inside the segment the full weights M are carried, which saves a copy of them per step."""
        phi0 = self.memory.initial_weights
        weights = self.weights(state)
        h, c, value_read, recent = state.h, state.c, state.value_read, state.recent
        moments = []
        any_first = is_first.any(dim=1).tolist()
        for x_t, is_first_t, resets in zip(xs, is_first, any_first, strict=True):
            if resets:
                h, c, value_read, recent = reset_state((h, c, value_read, recent), is_first_t)
                w1, w2, w3 = (
                    torch.where(is_first_t[:, None, None], initial, weight)
                    for initial, weight in zip(phi0, weights, strict=True)
                )
                weights = w1, w2, w3
            from_input, recent = self.from_input(x_t, recent)
            moment = self._advance(x_t, from_input, h, c, value_read, weights)
            h, c, value_read, weights = moment.h, moment.c, moment.value_read, moment.weights
            moments.append(moment)
        features = self._mix(
            torch.stack([m.hidden for m in moments]), torch.stack([m.value_read for m in moments])
        )
        meta_loss = torch.stack([m.meta_loss for m in moments])
        write_error = torch.stack([m.write_error for m in moments])
        delta = [weight - initial for weight, initial in zip(weights, phi0, strict=True)]
        return CoreOutput(features, meta_loss, write_error), MNMState._make(
            (h, c, value_read, *delta, recent)
        )

    def _advance(
        self,
        x_t: Tensor,
        from_input: Tensor | None,
        h: Tensor,
        c: Tensor,
        value_read: Tensor,
        weights: Weights,
        intervention: Intervention | None = None,
    ) -> Moment:
        """Controller, write, read: one step on the full weights M."""
        hidden, h, c = self._control(self.control_input(x_t, value_read), h, c)
        write_key, target_value, read_key, beta = self._interact(hidden, from_input)
        if intervention is not None and intervention.skip_write is not None:
            beta = beta.masked_fill(intervention.skip_write[:, None], 0.0)
        weights, factors, before = self.memory.write(weights, write_key, target_value, beta)
        # One pass over 2 H rows: the read keys, and the write keys again for the meta loss.
        after = self.memory.read(weights, torch.cat([read_key, write_key], dim=1))
        read_value, rewritten = after.value.split(self.heads, dim=1)
        value_read = read_value.mean(dim=1)
        if intervention is not None:
            value_read = self._overridden(value_read, read_key, intervention)
        return Moment(
            hidden=hidden,
            h=h,
            c=c,
            value_read=value_read,
            weights=weights,
            meta_loss=(rewritten - target_value).square().mean(dim=(1, 2)),
            write_error=(before.value - target_value).detach().square().mean(dim=(1, 2)),
            factors=factors,
            target_value=target_value,
            beta=beta,
            read_key=read_key,
            read_hidden=(after.hidden1[:, : self.heads], after.hidden2[:, : self.heads]),
        )

    def _overridden(self, value_read: Tensor, read_key: Tensor, intervention: Intervention) -> Tensor:
        """The value read [B, d] after an intervention."""
        if intervention.value_read is not None:
            value_read = intervention.value_read
        if intervention.read_initial is not None:
            initial = self.weights(self.initial_state(len(read_key)))
            unwritten = self.memory.read(initial, read_key).value.mean(dim=1)
            value_read = torch.where(intervention.read_initial[:, None], unwritten, value_read)
        return value_read

    @property
    def control_weight(self) -> Tensor:
        """The weights [G, X + d] through which the controller sees `control_input`, G rows for its gates."""
        weight = self.cell.weight if isinstance(self.cell, nn.Linear) else self.cell.weight_ih
        assert isinstance(weight, Tensor)
        return weight

    def control_input(self, x_t: Tensor, value_read: Tensor) -> Tensor:
        """What the controller sees in a step: [x_t ; v_{t-1}], or x_t alone without read feedback."""
        return torch.cat([x_t, value_read], dim=-1) if self.read_feedback else x_t

    def _control(self, read_in: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden vector of the step and the controller's next state."""
        if self.controller == "lstm":
            h, c = self.cell(read_in, (h, c))
            return h, h, c
        if self.controller == "gru":
            h = self.cell(read_in, h)
            return h, h, c
        return torch.tanh(self.cell(read_in)), h, c

    @property
    def rows(self) -> int:
        """K, the rows of the interaction layer."""
        return (3 * self.heads + 1) * self.memory_size

    def from_input(self, x_t: Tensor, recent: Tensor) -> tuple[Tensor | None, Tensor]:
        """p_t [B, K], None without a window, and what the next step gets as `recent`."""
        return (None, recent) if self.window is None else self.window.step(x_t, recent)

    def _interact(self, hidden: Tensor, from_input: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Write keys, target values and read keys [B, H, d], and rates beta [B, 3]."""
        if from_input is None:
            vector = torch.tanh(self.interaction(hidden))
        else:
            vector = torch.tanh(self.interaction(normalized(hidden)) + from_input)
        rate_in, per_head = vector.split([self.memory_size, 3 * self.heads * self.memory_size], dim=-1)
        write_key, target_value, read_key = per_head.view(-1, self.heads, 3 * self.memory_size).chunk(3, -1)
        return write_key, target_value, read_key, torch.sigmoid(self.rate(rate_in)).expand(-1, 3)

    def _mix(self, hidden: Tensor, value_read: Tensor) -> Tensor:
        return self.output(self.seen(torch.cat([hidden, value_read], dim=-1)))

    def seen(self, hv: Tensor) -> Tensor:
        """[h ; v] as the output layer gets it: [h ; 0] where the memory is not read."""
        return hv if self.read_memory else F.pad(hv[..., : self.output_size], (0, self.memory_size))


@torch.no_grad()
def switch_off(core: MNMCore, _: object = None) -> None:
    """For ablations: rates that stay 0, and an output layer that does not see the value read."""
    if core.written_layers != "all":
        unwritten = slice(0, 2 if core.written_layers == "last" else None)
        core.rate.weight[unwritten], core.rate.bias[unwritten] = 0.0, NEVER
    if not core.read_memory:
        core.output.weight[:, core.output_size :] = 0.0


class Moment(NamedTuple):
    """Everything that one step computes; the step and the unroll keep different parts of it."""

    hidden: Tensor
    h: Tensor
    c: Tensor
    value_read: Tensor
    weights: Weights
    meta_loss: Tensor
    write_error: Tensor
    factors: WriteFactors
    target_value: Tensor
    beta: Tensor
    read_key: Tensor
    read_hidden: tuple[Tensor, Tensor]

    def record(self) -> MemoryRecord:
        """The part that a tape keeps, cut off from the graph."""
        detached = [map_state(Tensor.detach, x) for x in (self.factors.inputs, self.factors.steps)]
        return MemoryRecord(
            write_inputs=detached[0],
            write_steps=detached[1],
            target_value=self.target_value.detach(),
            beta=self.beta.detach().mean(dim=-1),
            read_key=self.read_key.detach(),
            read_hidden=(self.read_hidden[0].detach(), self.read_hidden[1].detach()),
            value_read=self.value_read.detach(),
        )
