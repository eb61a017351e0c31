"""One form for all observations and actions: a flat dict of arrays in, a number from 0 to A - 1 out.

What our agents can take is decided here, and everything else is refused by name before any training starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.errors import UserError

OBSERVATION = "obs"
SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, or a flat Dict of them"


def dict_space(space: gymnasium.Space[Any], env_id: str) -> spaces.Dict:
    """The space of one environment's observations as a flat Dict; a space without keys gets the key "obs"."""
    entries = dict(space.spaces) if isinstance(space, spaces.Dict) else {OBSERVATION: space}
    if not entries:
        raise UserError(f"{env_id}: the observation space is an empty Dict; expected {SUPPORTED}")
    for key, entry in entries.items():
        where = f"observation {key!r}" if isinstance(space, spaces.Dict) else "the observation space"
        if not isinstance(entry, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
            kind = type(entry).__name__
            raise UserError(
                f"{env_id}: {where} is a {kind} space, which is not supported; expected {SUPPORTED}"
            )
        if isinstance(entry, (spaces.Discrete, spaces.MultiDiscrete)) and np.any(entry.start):
            raise UserError(
                f"{env_id}: {where} is {entry}, which is not supported; categories must start at 0"
            )
    return spaces.Dict(entries)


def action_table(
    space: gymnasium.Space[Any], allowed: Sequence[int] | None, env_id: str
) -> NDArray[np.int64]:
    """[A] the environment's own action for each of the agent's actions 0 .. A-1.

    `allowed` is the general environment option "actions": the actions that the agent may use, in this order.
    """
    if not isinstance(space, spaces.Discrete):
        raise UserError(f"{env_id}: the action space is {space}, which is not supported; expected Discrete")
    everything = range(int(space.start), int(space.start + space.n))
    if allowed is None:
        return np.array(everything, dtype=np.int64)
    expected = f"expected a list of different whole numbers from {everything[0]} to {everything[-1]}"
    if (
        not isinstance(allowed, (list, tuple))
        or not allowed
        or any(isinstance(action, bool) or not isinstance(action, int) for action in allowed)
        or len(set(allowed)) != len(allowed)
        or not set(allowed) <= set(everything)
    ):
        raise UserError(f"{env_id}: actions = {allowed!r} cannot be used; {expected}")
    return np.array(allowed, dtype=np.int64)


class DictObservation(gymnasium.ObservationWrapper[dict[str, Any], Any, Any]):
    """Gives one environment a flat Dict observation space, or refuses it."""

    def __init__(self, env: gymnasium.Env[Any, Any], env_id: str) -> None:
        super().__init__(env)
        self.observation_space = dict_space(env.observation_space, env_id)
        self._is_dict = isinstance(env.observation_space, spaces.Dict)

    def observation(self, observation: Any) -> dict[str, Any]:
        return dict(observation) if self._is_dict else {OBSERVATION: observation}


class ChosenActions(gymnasium.ActionWrapper[Any, Any, Any]):
    """Gives one environment the agent's actions 0 .. A-1."""

    def __init__(self, env: gymnasium.Env[Any, Any], table: NDArray[np.int64]) -> None:
        super().__init__(env)
        self._table = table
        self.action_space = spaces.Discrete(len(table))

    def action(self, action: int) -> Any:
        return self._table[action]
