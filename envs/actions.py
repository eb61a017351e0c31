"""Actions of every supported space as one number or one vector, and back to what the environment takes.

    Discrete          a number from 0 to A - 1, whatever the space's start
    MultiDiscrete     one number per component, from 0
    MultiBinary       0 or 1 per component
    Box               one number per component, clipped to the bounds HERE, where the environment begins
    Tuple, flat Dict  the vectors of their parts in a row

`ActionCode.space` is what the agent is told (categories from 0), `decode` turns its choice into an action.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.errors import UserError

SUPPORTED = "Discrete, MultiDiscrete, MultiBinary, Box, or a Tuple or flat Dict of them"


class ActionCode:
    """The agent's actions for one environment."""

    def __init__(self, space: gymnasium.Space[Any], allowed: Sequence[int] | None, env_id: str) -> None:
        """`allowed` is the environment option "actions": what the agent may use of a Discrete space, in this order."""
        self.original = space
        self.table: NDArray[np.int64] | None = None
        """Discrete: the environment's own action for each of the agent's."""
        self.keys: list[Any] | None = None
        if isinstance(space, spaces.Discrete):
            self.table = action_table(space, allowed, env_id)
            self.space: gymnasium.Space[Any] = spaces.Discrete(len(self.table))
            return
        if allowed is not None:
            raise UserError(f"{env_id}: the option actions needs a Discrete action space, this is {space}")
        if isinstance(space, (spaces.Tuple, spaces.Dict)):
            parts = space.spaces if isinstance(space, spaces.Tuple) else tuple(space.spaces.values())
            self.keys = list(space.spaces) if isinstance(space, spaces.Dict) else None
            self.parts = [_Part(part, env_id) for part in parts]
            if not self.parts:
                raise UserError(f"{env_id}: the action space {space} is empty; expected {SUPPORTED}")
            self.space = spaces.Tuple([part.told for part in self.parts])
        else:
            self.parts = [_Part(space, env_id)]
            self.space = self.parts[0].told

    @property
    def is_vector(self) -> bool:
        """Whether a choice is a vector rather than a number."""
        return self.table is None

    @property
    def wire(self) -> gymnasium.Space[Any]:
        """The form in which choices travel to the environments of a vector: a space of numbers or of vectors."""
        if self.table is not None:
            return self.space
        return spaces.Box(-np.inf, np.inf, (sum(part.width for part in self.parts),), np.float64)

    def decode(self, choice: Any) -> Any:
        """What environments take for the agent's choices: numbers [...] or vectors [..., W]."""
        if self.table is not None:
            return self.table[choice]
        vectors, taken, start = np.asarray(choice), [], 0
        for part in self.parts:
            taken.append(part.decode(vectors[..., start : start + part.width]))
            start += part.width
        if isinstance(self.original, spaces.Tuple):
            return tuple(taken)
        return dict(zip(self.keys, taken, strict=True)) if self.keys is not None else taken[0]


class _Part:
    """One component of an action space."""

    def __init__(self, space: gymnasium.Space[Any], env_id: str) -> None:
        if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box)):
            raise UserError(
                f"{env_id}: the action space is {space}, which is not supported; expected {SUPPORTED}"
            )
        if isinstance(space, spaces.Box) and not np.issubdtype(space.dtype, np.floating):
            raise UserError(
                f"{env_id}: the action space is {space}, whose numbers are whole; expected a float Box"
            )
        self.space, self.start = space, getattr(space, "start", 0)
        self.width = int(np.prod(space.shape, dtype=np.int64)) if space.shape else 1
        self.told: gymnasium.Space[Any] = space
        if isinstance(space, spaces.Discrete):
            self.told = spaces.Discrete(int(space.n))
        elif isinstance(space, spaces.MultiDiscrete):
            self.told = spaces.MultiDiscrete(space.nvec.reshape(-1))

    def decode(self, vectors: NDArray[Any]) -> Any:
        if isinstance(self.space, spaces.Discrete):
            return vectors[..., 0].astype(np.int64) + self.start
        values = vectors.reshape(*vectors.shape[:-1], *self.space.shape).astype(self.space.dtype)
        if isinstance(self.space, spaces.Box):
            return np.clip(values, self.space.low, self.space.high)
        return values + self.start if isinstance(self.space, spaces.MultiDiscrete) else values


def action_table(space: spaces.Discrete, allowed: Sequence[int] | None, env_id: str) -> NDArray[np.int64]:
    """[A] the environment's own action for each of the agent's actions 0 .. A-1."""
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
