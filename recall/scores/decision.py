"""R4 and "action unaffected": what a write, or all of memory, does to what the agent does, by replaying the agent.

For every write s a copy of the agent lives through the recorded episode again: it sees the recorded
observations, previous actions and previous rewards (teacher-forced), and in step s its write is not made
(beta_s := 0). Everything later is the agent's own: keys, values, rates and controller state may all differ.

    R4_s(t) = KL( pi_t || pi_t^{-s} )      and      |V_t - V_t^{-s}|

Exact for the recorded trajectory; in a live episode other actions would bring other observations. The copies
advance in batches (`Branches`), so there is no loop over the writes. Cost: about T^2 / 2 steps of the agent. A copy
owns a whole memory and every step reads and writes all of it, so the time is that of moving memories to and fro:
they are written in place, and a batch holds no more of them than the cache does.

Legend: T steps, R rows, n controller size, H heads, d key and value size, u hidden width of the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.distributions import ActionDistribution
from agents.model import ActorCritic, AgentState
from agents.play import Actor
from agents.rollout import select_agent
from memory import Intervention, MNMCore, MNMState, step_in_place
from recall.record.recorder import recorded_row
from recall.record.tape import Tape
from recall.scores.intervene import write_memory_of
from recall.scores.reapplied import memories_in_cache

Float = NDArray[np.float64]
SURELY = 1e6
"""Added to the noise of the null slot, which is then chosen."""


def batch_size(core: MNMCore) -> int:
    """How many memories a batch holds."""
    weights = core.memory.initial_weights
    return 1024 if weights[0].is_cuda else memories_in_cache(sum(weight.nbytes for weight in weights))


def opening(core: MNMCore) -> list[Tensor]:
    """Where a run stands before its first step."""
    state = core.initial_state(1)
    return [state.h, state.c, state.value_read, *core.weights(state), state.recent]


class Branches:
    """A run that stands at `start`, and up to `count` replays that part from it.

    `start` is what `opening` or `run` gives: h, c, last value read and the three memory weights, one row each.
    """

    def __init__(self, core: MNMCore, start: Sequence[Tensor], count: int) -> None:
        self.core = core
        self.rows = 1
        self.parts = [part.new_empty(count + 1, *part.shape[1:]) for part in start]
        for buffer, part in zip(self.parts, start, strict=True):
            buffer[0] = part[0]

    def step(self, x_t: Tensor, part: bool) -> Tensor:
        """One step of all rows on the encoded observation x_t [1, X]: [h ; v], [R, n + d].

        With `part` one more row parts from the run in this step: it does not write.
        """
        if part:
            for buffer in self.parts:
                buffer[self.rows] = buffer[0]
            self.rows += 1
        core = self.core
        h, c, value_read, w1, w2, w3, recent = (buffer[: self.rows] for buffer in self.parts)
        weights = w1, w2, w3
        skip = torch.zeros(self.rows, dtype=torch.bool, device=x_t.device)
        skip[-1] = part
        state = MNMState(h, c, value_read, *weights, recent)
        return step_in_place(core, x_t.expand(self.rows, -1), state, weights, skip if part else None)

    def run(self) -> list[Tensor]:
        """Where the run stands now."""
        return [buffer[:1].clone() for buffer in self.parts]

    def add(self, stands: Sequence[Tensor]) -> None:
        """One more row, which goes on from where `stands` says."""
        for buffer, part in zip(self.parts, stands, strict=True):
            buffer[self.rows] = part[0]
        self.rows += 1

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all other rows."""
        index = torch.tensor(rows, device=self.parts[0].device)
        for buffer in self.parts:
            buffer[: len(rows)] = buffer[index]
        self.rows = len(rows)


class DecisionEffect(NamedTuple):
    """R4 of every pair of steps of an episode."""

    divergence: Float
    """[T, T] KL(pi_t || pi_t^{-s}) in nats for s <= t, 0 above the diagonal."""
    value_change: Float
    """[T, T] |V_t - V_t^{-s}|."""
    probability_change: Float
    """[T, T] change of the probability of the recorded action, pi_t^{-s} - pi_t."""


@torch.no_grad()
def decision_effect(model: ActorCritic, tape: Tape, last: int | None = None) -> DecisionEffect:
    """R4 of steps 0..last (default: all) of an episode that started at its first step."""
    core = write_memory_of(model)
    steps = tape.steps if last is None else last + 1
    xs = _encoded(model, tape, steps)
    found = DecisionEffect(*(np.zeros((steps, steps)) for _ in range(3)))
    start, count = opening(core), batch_size(core)
    for first in range(0, steps, count):
        silenced = slice(first, min(first + count, steps))
        branches = Branches(core, start, silenced.stop - first)
        answers = xs.new_zeros(steps - first, silenced.stop - first + 1, core.output.in_features)
        for t in range(first, steps):
            answer = branches.step(xs[t : t + 1], part=t < silenced.stop)
            answers[t - first, : len(answer)] = answer
            if t + 1 == silenced.stop:
                start = branches.run()
        changes = _compared(model, answers, tape, slice(first, steps))
        for whole, change in zip(found, changes, strict=True):
            # A row that has not parted yet is the run: above the diagonal nothing has changed.
            whole[first:, silenced] = np.tril(change.cpu().numpy())
    return found


def _compared(model: ActorCritic, answers: Tensor, tape: Tape, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Divergence, change of the value and of the taken action's probability, each [T, R - 1].

    answers [T, R, n + d] are of `Branches.step` in the `rows` of the tape, the run first.
    """
    obs, counted = observations(model, tape, rows), answers.shape[:2]
    obs = {name: part[:, None].expand(*counted, *part.shape[1:]) for name, part in obs.items()}
    policy, value = model.heads(model.core.output(answers), obs)  # type: ignore[operator]
    policy, value = policy.double(), value.double()
    divergence = from_first(model, policy)
    taken = torch.as_tensor(tape.action[rows], device=answers.device)[:, None]
    of_taken = policy.probability(taken.expand(*counted, *taken.shape[2:]))
    return divergence, (value[:, 1:] - value[:, :1]).abs(), of_taken[:, 1:] - of_taken[:, :1]


def from_first(model: Actor, policy: ActionDistribution) -> Tensor:
    """KL(pi_0 || pi_i) [..., R - 1] of the other rows i of a policy with parameters [..., R, P]."""
    rows = policy.parameters
    run, others = (model.actions.distribution(part) for part in (rows[..., :1, :], rows[..., 1:, :]))
    # Replays that are still the same agent give the same numbers up to rounding, which may fall below 0.
    return run.kl(others).clamp(min=0.0)


def observations(model: ActorCritic, tape: Tape, rows: slice) -> dict[str, Tensor]:
    """What was seen in `rows`, [T, ...], on the model's device."""
    return {name: torch.as_tensor(part[rows], device=model.device) for name, part in tape.observation.items()}


def _encoded(model: ActorCritic, tape: Tape, steps: int) -> Tensor:
    """What the core receives in rows 0..steps-1, [T, X]: the same in every replay."""
    rows = slice(steps)
    is_first, action, reward = (
        torch.as_tensor(array[rows], device=model.device)
        for array in (tape.is_first, tape.previous_action, tape.previous_reward)
    )
    encoded: Tensor = model.encoder(observations(model, tape, rows), is_first, action, reward)
    return encoded


@torch.no_grad()
def state_before(model: ActorCritic, tape: Tape, t: int) -> AgentState:
    """The agent's state [1 row] that enters step t, by replaying the recorded episode up to it."""
    state = model.initial_state(1)
    for row_number in range(t):
        row = recorded_row(model, tape, row_number, 1)
        state = model.act(row.obs, row.is_first, AgentState(state.core, row.action, row.reward)).state
    row = recorded_row(model, tape, t, 1)
    return AgentState(state.core, row.action, row.reward)


@torch.no_grad()
def policy_effect(model: Actor, tape: Tape, only: int | None = None) -> Float:
    """[T] the greatest change of any action's probability at t if the read of t, and no other, were v_0.

    v_0 is what the unwritten memory would answer; with a hard memory the null slot is read. The twin that reads it
    never acts on: the next step starts from the run's own state. With `only` the other steps are left at 0.
    """
    device, steps = model.device, tape.steps if only is None else only + 1
    twins, first = torch.tensor([0, 0], device=device), torch.tensor([0], device=device)
    unwritten = Intervention(read_initial=torch.tensor([False, True], device=device))
    state, found = model.initial_state(1), np.zeros(tape.steps)
    for t in range(steps):
        row = recorded_row(model, tape, t, 2)
        both = AgentState(select_agent(state, twins).core, row.action, row.reward)
        if tape.addresses is None:
            answer = model.act(row.obs, row.is_first, both, intervention=unwritten)
        else:
            noise = torch.from_numpy(tape.addresses.noise[t]).to(model.policy_head.weight).repeat(2, 1, 1)
            noise[1, :, -1] += SURELY
            answer = model.act(row.obs, row.is_first, both, noise=noise)
        if only in (None, t):
            found[t] = change_between(model, answer.policy)
        state = select_agent(answer.state, first)
    return found


def change_between(model: Actor, policy: ActionDistribution) -> float:
    """The greatest change of any action's probability between the two rows of a policy."""
    first, second = (model.actions.distribution(row) for row in policy.double().parameters)
    return float(first.change(second))
