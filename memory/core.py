"""The interface of every memory core: a recurrent map with an explicit state, one reset flag.

Legend: T time, B batch, D output size, H heads, d key and value size, u hidden width of the neural memory.

A core is three functions and one rule:

    initial_state(batch)            the state in which an episode opens; all zeros for every core
    step(x_t, state)                one time step, x_t [B, D_in]
    unroll(xs, state, is_first)     T time steps, xs [T, B, D_in]; equals repeated reset + step

The rule: state is replaced by the initial state at the INPUT of row t where is_first[t] is set, and
nothing else resets it. States are named tuples of tensors, batch first.

A core that chooses at random consumes noise, which comes in as an argument, so that what was drawn while
acting can be replayed while learning: `noise_shape` per step and example, None for a core without chance.

The options of the cores are the fields of dataclasses in `memory/options.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

StateT = TypeVar("StateT", bound=tuple[Tensor, ...])


class MemoryRecord(NamedTuple):
    """What one step wrote to and read from a neural memory; layers l = 1..3, weights W_l [d_l, d_{l-1}].

    The write of the step is W_l <- W_l - U_l^T Z_l, then the read uses the updated weights.
    """

    write_inputs: tuple[Tensor, Tensor, Tensor]
    """Z_l [B, H, d_{l-1}], what entered layer l for the write keys; Z_1 is the write key."""
    write_steps: tuple[Tensor, Tensor, Tensor]
    """U_l [B, H, d_l], the step of layer l with the update rate inside."""
    target_value: Tensor
    """v^w [B, H, d]."""
    beta: Tensor
    """Update rate [B] (the mean over layers where each layer has its own)."""
    read_key: Tensor
    """k^r [B, H, d]."""
    read_hidden: tuple[Tensor, Tensor]
    """Activations z^1, z^2 of the read, [B, H, u]."""
    value_read: Tensor
    """v [B, d], the mean over heads of what was read."""


class AddressRecord(NamedTuple):
    """What one step read from a bank of N slots; slot i was written N - i steps ago, slot N is the null slot."""

    slot: Tensor
    """int64 [B, H], the slot that each read head chose."""
    tags: Tensor
    """int64 [B, N], the step of the episode in which each slot was written; -1 for an empty slot."""
    logits: Tensor
    """[B, H, N + 1], the address logits without noise; -inf for an empty slot."""
    noise: Tensor
    """[B, H, N + 1], the noise added to them; 0 where the address was the most probable one."""


class CoreOutput(NamedTuple):
    """What a core returns beside its new state; `step` gives [B, ...], `unroll` [T, B, ...]."""

    features: Tensor
    """Input of the policy and value heads, [..., D]."""
    meta_loss: Tensor
    """Error of the memory at its write keys AFTER the write, [...]; 0 without a write memory."""
    write_error: Tensor
    """The same error BEFORE the write, [...], detached: logged, never trained."""
    record: MemoryRecord | AddressRecord | None = None
    """The step's writes and reads, if asked for; it changes nothing else."""


class Intervention(NamedTuple):
    """What `step` of a core with a write memory does otherwise, example by example; None: as it is."""

    skip_write: Tensor | None = None
    """bool [B], examples that do not write: their update rate is 0."""
    read_initial: Tensor | None = None
    """bool [B], examples whose read is answered by phi_0, the memory before the first write."""
    value_read: Tensor | None = None
    """[B, d], what every example reads instead of what its memory answers."""


def map_state(fn: Callable[[Tensor], Tensor], state: StateT) -> StateT:
    """Apply `fn` to every tensor of a state (a tuple of tensors, named or not)."""
    rebuild = getattr(type(state), "_make", type(state))
    return rebuild(fn(x) for x in state)


def reset_state(state: StateT, is_first: Tensor) -> StateT:
    """Return `state` with the rows where is_first [B] is set replaced by zeros, the initial state.

    Selects instead of multiplying, because 0 * NaN would survive.
    """
    return map_state(lambda x: x.masked_fill(is_first.view(-1, *[1] * (x.dim() - 1)), 0.0), state)


def detach_state(state: StateT) -> StateT:
    """Cut the gradient at `state`; the values stay."""
    return map_state(Tensor.detach, state)


def select_state(state: StateT, index: Tensor) -> StateT:
    """Rows `index` of a state."""
    return map_state(lambda x: x[index], state)


class MemoryCore(nn.Module):
    """Base of all cores: the default `unroll` is the definition, a loop of reset and step."""

    input_size: int
    output_size: int
    writes: bool = False
    """True if the core has a write memory, whose writes and reads can be recorded."""
    addresses: bool = False
    """True if the core reads slots by hard addresses, which can be recorded."""
    noise_shape: tuple[int, ...] | None = None
    """Shape of the standard Gumbel noise that one step of one example consumes; None for no noise."""

    def initial_state(self, batch_size: int) -> Any:
        """Zeros [batch_size, ...] on the device and in the precision of the parameters."""
        raise NotImplementedError

    def step(
        self, x_t: Tensor, state: Any, record: bool = False, noise: Tensor | None = None
    ) -> tuple[CoreOutput, Any]:
        """Advance by one step WITHOUT looking at resets; x_t [B, input_size].

        noise [B, *noise_shape] makes the choices of the core random; without it they are the most probable.
        """
        raise NotImplementedError

    def unroll(
        self, xs: Tensor, state: Any, is_first: Tensor, noise: Tensor | None = None
    ) -> tuple[CoreOutput, Any]:
        """Advance by T steps; xs [T, B, input_size], is_first bool [T, B], noise [T, B, *noise_shape]."""
        outputs = []
        for t, (x_t, is_first_t) in enumerate(zip(xs, is_first, strict=True)):
            noise_t = None if noise is None else noise[t]
            output, state = self.step(x_t, reset_state(state, is_first_t), noise=noise_t)
            outputs.append(output)
        return stack_outputs(outputs), state

    def set_progress(self, progress: float) -> None:
        """Tell the core how far training is, from 0 to 1; for cores with a schedule of their own."""

    def parameters_changed(self) -> None:
        """Tell the core that an optimizer has made its step; for cores that keep what they derive from parameters."""

    def _zeros(self, *shape: int) -> Tensor:
        parameter = next(self.parameters())
        return torch.zeros(shape, dtype=parameter.dtype, device=parameter.device)


def stack_outputs(outputs: list[CoreOutput]) -> CoreOutput:
    """Stack the outputs of T steps along a new first axis; the records are left out."""
    return CoreOutput(
        torch.stack([output.features for output in outputs]),
        torch.stack([output.meta_loss for output in outputs]),
        torch.stack([output.write_error for output in outputs]),
    )


def output_without_writes(features: Tensor) -> CoreOutput:
    """Output of a core that has no write memory: its write errors are 0."""
    zero = features.new_zeros(features.shape[:-1])
    return CoreOutput(features, zero, zero)
