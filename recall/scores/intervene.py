"""Hands in an agent's memory: what was written is taken out or put in, wiped, or never received.

A single step with a hand in it is `model.act(..., intervention=...)`. Rows of a batch are variants of one run, so
that many "what if" questions share one pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from agents.model import ActorCritic, AgentState
from envs.errors import UserError
from memory import MNMCore, MNMState


def write_memory_of(model: Any) -> MNMCore:
    """The agent's core, or a plain error if it has no write memory."""
    if not getattr(model.core, "writes", False):
        raise UserError(
            f"the core {type(model.core).__name__} has no write memory, so there is no recall to check; "
            "use mnm-p or mnm-g"
        )
    core: MNMCore = model.core
    return core


def add_to_memory(state: AgentState, changes: tuple[Tensor, Tensor, Tensor]) -> AgentState:
    """The state with changes [B, d_l, d_{l-1}] added to its memory weights."""
    core: MNMState = state.core
    delta = [d + change.to(d) for d, change in zip(core.delta, changes, strict=True)]
    return state._replace(core=core._replace(delta1=delta[0], delta2=delta[1], delta3=delta[2]))


def wipe_memory(state: AgentState) -> AgentState:
    """W := W_0 (of the episode's start): everything that was written is gone, the controller is left."""
    core: MNMState = state.core
    d1, d2, d3 = (torch.zeros_like(d) for d in core.delta)
    return state._replace(core=core._replace(delta1=d1, delta2=d2, delta3=d3))


def wipe_controller(state: AgentState) -> AgentState:
    """h, c := 0 and the last value read := 0: all that the controller itself carries through time."""
    core: MNMState = state.core
    parts = {name: torch.zeros_like(getattr(core, name)) for name in ("h", "c", "value_read", "recent")}
    return state._replace(core=core._replace(**parts))


def wipe_value_read(state: AgentState) -> AgentState:
    """v_{t-1} := 0: the last value read, through which a controller without state can remember as well."""
    core: MNMState = state.core
    return state._replace(core=core._replace(value_read=torch.zeros_like(core.value_read)))


FORGET: dict[str, Callable[[AgentState], AgentState]] = {
    "nothing": lambda state: state,
    "memory": wipe_memory,
    "controller": wipe_controller,
    "both": lambda state: wipe_memory(wipe_controller(state)),
}
"""What `evaluate.py --forget` takes from the agent after every step."""


@torch.no_grad()
def without_read(model: ActorCritic) -> ActorCritic:
    """A copy of the agent with its read switched off: it writes and reads as before, and receives v_r := 0.

    All weights from the value read are 0, in the output layer and in the controller.
    """
    twin = copy.deepcopy(model)
    core = write_memory_of(twin)
    core.output.weight[:, core.output_size :] = 0.0
    core.control_weight[:, core.input_size :] = 0.0  # no columns are left without read feedback
    return twin


def repeat_state(state: AgentState, count: int) -> AgentState:
    """`count` copies of a state of one row."""
    core = type(state.core)(*(x.expand(count, *x.shape[1:]) for x in state.core))
    action = state.action.expand(count, *state.action.shape[1:])
    return AgentState(core, action, state.reward.expand(count))
