"""R4: the effect of a write on what the agent does, by replaying the agent without that write.

For every write s a copy of the agent lives through the recorded episode again: it sees the recorded
observations, previous actions and previous rewards (teacher-forced), and in step s its write is not made
(beta_s := 0). Everything later is the agent's own: keys, values, rates and controller state may all differ.

    R4_s(t) = KL( pi_t || pi_t^{-s} )      and      |V_t - V_t^{-s}|

Exact for the recorded trajectory; in a live episode other actions would bring other observations. The
copies advance in batches (`recall/scores/branches.py`), so there is no loop over the writes. Cost: about T^2 / 2 steps
of the agent.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.distributions import ActionDistribution
from agents.model import ActorCritic, AgentState
from recall.record.tape import Tape
from recall.scores.branches import Branches, batch_size, opening
from recall.scores.intervene import act_with, repeat_state, write_memory_of

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
    run, others = (
        model.actions.distribution(policy.parameters[:, part]) for part in (slice(1), slice(1, None))
    )
    # Replays that are still the same agent give the same numbers up to rounding, which may fall below 0.
    divergence = run.kl(others).clamp(min=0.0)
    taken = torch.as_tensor(tape.action[rows], device=answers.device)[:, None]
    of_taken = policy.probability(taken.expand(*counted, *taken.shape[2:]))
    return divergence, (value[:, 1:] - value[:, :1]).abs(), of_taken[:, 1:] - of_taken[:, :1]


def observations(model: ActorCritic, tape: Tape, rows: slice) -> dict[str, Tensor]:
    """What was seen in `rows`, [T, ...], on the model's device."""
    device = model.policy_head.weight.device
    return {name: torch.as_tensor(part[rows], device=device) for name, part in tape.observation.items()}


def _encoded(model: ActorCritic, tape: Tape, steps: int) -> Tensor:
    """What the core receives in rows 0..steps-1, [T, X]: the same in every replay."""
    device, rows = model.policy_head.weight.device, slice(steps)
    is_first, action, reward = (
        torch.as_tensor(array[rows], device=device)
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


def change_between(model: ActorCritic, policy: ActionDistribution) -> float:
    """The greatest change of any action's probability between the two rows of a policy."""
    first, second = (model.actions.distribution(row) for row in policy.double().parameters)
    return float(first.change(second))


@torch.no_grad()
def effect_of_memory(model: ActorCritic, tape: Tape, t: int) -> float:
    """The greatest change of any action's probability at t if the read of t, and no other, is v_0."""
    state = repeat_state(state_before(model, tape, t), 2)
    row = recorded_row(model, tape, t, 2)
    unwritten = torch.tensor([False, True], device=model.policy_head.weight.device)
    policy = act_with(model, row.obs, row.is_first, state, unwritten=unwritten).policy
    return change_between(model, policy)
