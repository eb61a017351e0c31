"""R4: the effect of a write on what the agent does, by replaying the agent without that write.

For every write s a copy of the agent lives through the recorded episode again: it sees the recorded
observations, previous actions and previous rewards (teacher-forced), and in step s its write is not made
(beta_s := 0). Everything later is the agent's own: keys, values, rates and controller state may all differ.

    R4_s(t) = KL( pi_t || pi_t^{-s} )      and      |V_t - V_t^{-s}|

Exact for the recorded trajectory; in a live episode other actions would bring other observations. All copies
advance as one batch, so there is no loop over the writes. Cost: T steps of the agent on up to T + 1 copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.model import ActorCritic, AgentState
from recall.intervene import StepAnswer, act_with, repeat_state, write_memory_of
from recall.tape import Tape

Float = NDArray[np.float64]


class DecisionEffect(NamedTuple):
    """R4 of every pair of steps of an episode."""

    divergence: Float
    """[T, T] KL(pi_t || pi_t^{-s}) in nats for s <= t, 0 above the diagonal."""
    value_change: Float
    """[T, T] |V_t - V_t^{-s}|."""
    probability_change: Float
    """[T, T] change of the probability of the recorded action, pi_t^{-s} - pi_t."""


class Row(NamedTuple):
    """A recorded row as the agent's input, for a batch of copies."""

    obs: dict[str, Tensor]
    is_first: Tensor
    action: Tensor
    """Previous action [B]."""
    reward: Tensor
    """Previous reward [B]."""


def recorded_row(model: ActorCritic, tape: Tape, t: int, count: int) -> Row:
    """Row t of the tape, `count` times."""
    weight = model.policy_head.weight

    def many(array: object) -> Tensor:
        tensor = torch.as_tensor(np.asarray(array), device=weight.device)
        return tensor.expand(count, *tensor.shape)

    return Row(
        {name: many(part[t]) for name, part in tape.observation.items()},
        many(tape.is_first[t]),
        many(tape.previous_action[t]),
        many(tape.previous_reward[t]),
    )


@torch.no_grad()
def decision_effect(model: ActorCritic, tape: Tape, last: int | None = None) -> DecisionEffect:
    """R4 of steps 0..last (default: all) of an episode that started at its first step."""
    steps = tape.steps if last is None else last + 1
    found = [np.zeros((steps, steps)) for _ in range(3)]
    for t, answer in enumerate(_replay(model, tape, steps)):
        log_pi = torch.log_softmax(answer.logits.double(), dim=-1)
        pi = log_pi.exp()
        # Copies that are still the same agent give exactly the same numbers, row 0 among them.
        divergence = (pi[0] * (log_pi[0] - log_pi)).sum(-1).clamp(min=0.0)
        rows = slice(1, t + 2)
        found[0][t, : t + 1] = divergence[rows].cpu().numpy()
        found[1][t, : t + 1] = (answer.value[0] - answer.value).abs()[rows].double().cpu().numpy()
        action = int(tape.action[t])
        found[2][t, : t + 1] = (pi[rows, action] - pi[0, action]).cpu().numpy()
    return DecisionEffect(*found)


def _replay(model: ActorCritic, tape: Tape, steps: int) -> Iterator[StepAnswer]:
    """The answers of `steps + 1` copies at every step: copy 0 is the run, copy 1 + s leaves write s out."""
    write_memory_of(model)
    copies = torch.arange(steps + 1, device=model.policy_head.weight.device) - 1
    state = model.initial_state(steps + 1)
    for t in range(steps):
        row = recorded_row(model, tape, t, steps + 1)
        state = AgentState(state.core, row.action, row.reward)
        answer = act_with(model, row.obs, row.is_first, state, silent=copies == t)
        state = answer.state
        yield answer


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
def effect_of_memory(model: ActorCritic, tape: Tape, t: int) -> float:
    """The greatest change of any action's probability at t if the read of t, and no other, is v_0."""
    state = repeat_state(state_before(model, tape, t), 2)
    row = recorded_row(model, tape, t, 2)
    unwritten = torch.tensor([False, True], device=model.policy_head.weight.device)
    pi = torch.softmax(
        act_with(model, row.obs, row.is_first, state, unwritten=unwritten).logits.double(), dim=-1
    )
    return float((pi[1] - pi[0]).abs().max())
