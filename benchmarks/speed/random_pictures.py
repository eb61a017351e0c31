"""A trivial environment of 84 x 84 x 3 pictures of noise: what training on it takes is the agent's work.

It needs nothing but Gymnasium, so that other commits of this toolkit can be measured with it too.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

SHAPE = (84, 84, 3)
LENGTH = 200
"""Steps of an episode."""


class RandomPictures(gymnasium.Env[Any, Any]):
    """Shows one of 64 pictures drawn beforehand; action 0 pays."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, SHAPE, np.uint8)
        self.action_space = spaces.Discrete(4)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.pictures = self.np_random.integers(0, 256, (64, *SHAPE), np.uint8)
        self.steps = 0
        return self._picture(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._picture(), float(action == 0), False, self.steps == LENGTH, {}

    def _picture(self) -> Any:
        return self.pictures[self.np_random.integers(64)]


gymnasium.register("RandomPictures-v0", entry_point=f"{__name__}:RandomPictures")
