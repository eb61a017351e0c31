"""Does what is read from memory change what the agent does now? The other half of "memory not used".

The recorded episode is replayed; at every step a twin of the agent receives v_0, what the unwritten memory
would answer, in place of what was read; with a hard memory that is the null slot. The twin never acts on: the
next step starts from the run's own state.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from agents.model import ActorCritic, ActOutput, AgentState
from agents.rollout import select_agent
from recall.record.tape import Tape
from recall.scores.decision import change_between, recorded_row
from recall.scores.intervene import StepAnswer, act_with

SURELY = 1e6
"""Added to the noise of the null slot, which is then chosen."""


@torch.no_grad()
def policy_effect(model: ActorCritic, tape: Tape) -> NDArray[np.float64]:
    """[T] the greatest change of any action's probability at t if the read of t, and no other, were v_0."""
    device = model.policy_head.weight.device
    twins, first = torch.tensor([0, 0], device=device), torch.tensor([0], device=device)
    unwritten = torch.tensor([False, True], device=device)
    state, found = model.initial_state(1), np.zeros(tape.steps)
    for t in range(tape.steps):
        row = recorded_row(model, tape, t, 1)
        both = select_agent(AgentState(state.core, row.action, row.reward), twins)
        inputs = recorded_row(model, tape, t, 2)
        answer: StepAnswer | ActOutput
        if tape.addresses is None:
            answer = act_with(model, inputs.obs, inputs.is_first, both, unwritten=unwritten)
        else:
            noise = torch.from_numpy(tape.addresses.noise[t]).to(model.policy_head.weight).repeat(2, 1, 1)
            noise[1, :, -1] += SURELY
            answer = model.act(inputs.obs, inputs.is_first, both, noise=noise)
        found[t] = change_between(model, answer.policy)
        state = select_agent(answer.state, first)
    return found
