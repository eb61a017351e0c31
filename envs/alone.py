"""One environment out of a form that exists vectorized only (EnvPool, `vector_entry_point`), for evaluation.

It has no pictures, and every reset makes the form anew, since a seed is given to it when it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.vector import Observations, VecEnv


class Alone(gymnasium.Env[Any, Any]):
    """The only environment of a VecEnv of one."""

    metadata = {"render_modes": []}  # noqa: RUF012  as Gymnasium declares it

    def __init__(self, make: Callable[[int], VecEnv]) -> None:
        """`make` takes the seed of the environment."""
        self.make, self.vec = make, make(0)
        self.observation_space, self.action_space = self.vec.observation_space, self.vec.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.vec.close()
        self.vec = self.make(int(self.np_random.integers(2**30)) if seed is None else seed)
        return _first(self.vec.reset()), {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        if isinstance(self.action_space, spaces.Tuple):
            action = np.concatenate([np.ravel(part) for part in action])
        step = self.vec.step(np.asarray(action)[None])
        info = {} if step.success is None else {"success": bool(step.success[0])}
        seen = step.obs if step.final_obs is None else step.final_obs
        return _first(seen), float(step.reward[0]), bool(step.terminated[0]), bool(step.truncated[0]), info

    def close(self) -> None:
        self.vec.close()


def _first(observations: Observations) -> dict[str, Any]:
    return {key: value[0] for key, value in observations.items()}
