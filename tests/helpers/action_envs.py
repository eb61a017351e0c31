"""Environments for actions of every space, and one that ends when an illegal action comes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

ACTION_SPACES: dict[str, gymnasium.Space[Any]] = {
    "shifted": spaces.Discrete(3, start=5),
    "multidiscrete": spaces.MultiDiscrete([3, 2]),
    "multibinary": spaces.MultiBinary(3),
    "box": spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32)),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,)),
    "tuple": spaces.Tuple([spaces.Discrete(2, start=1), spaces.Box(-1, 1, (1,))]),
    "dict": spaces.Dict({"go": spaces.MultiBinary(2), "turn": spaces.Box(-0.5, 0.5, (1,))}),
}


class Acts(gymnasium.Env[Any, Any]):
    """Six steps; refuses whatever is not an action of its space, and pays for what is easy to find."""

    observation_space = spaces.Box(0.0, 1.0, (2,))

    def __init__(self, kind: str = "box") -> None:
        self.action_space = ACTION_SPACES[kind]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in self.action_space, f"{action} is not in {self.action_space}"
        self.steps += 1
        last = action
        while not isinstance(last, (int, np.integer, np.ndarray, float)):
            last = next(iter(last.values())) if isinstance(last, dict) else last[0]
        return self._observe(), float(np.sum(last)), self.steps == 6, False, {}

    def _observe(self) -> Any:
        return np.array([self.steps / 6, 1.0], np.float32)


class Minefield(gymnasium.Env[Any, Any]):
    """Ten steps, each with other legal actions, told in `info` or by a method; an illegal action ends the episode.

    A colour is shown first; the legal action of that number pays 1, any other legal one nothing.
    """

    observation_space = spaces.Box(0.0, 1.0, (3,))

    def __init__(self, method: bool = False, vector: bool = False, wrong: str = "") -> None:
        self.action_space = spaces.MultiDiscrete([3, 2]) if vector else spaces.Discrete(3)
        self.choices, self.wrong, self.method = 5 if vector else 3, wrong, method
        if method:
            self.action_masks = lambda: self.mask

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps, self.colour = 0, int(self.np_random.integers(3))
        self.mask = np.ones(self.choices, np.int8)
        return np.eye(3, dtype=np.float32)[self.colour], self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        parts = np.asarray(action).reshape(-1)
        legal = all(self.mask[3 * place + part] for place, part in enumerate(parts))
        self.steps += 1
        self.mask = np.ones(self.choices, np.int8)
        self.mask[int(self.np_random.integers(3))] = 0
        if self.choices > 3:
            self.mask[3 + int(self.np_random.integers(2))] = 0
        if self.wrong == "none" and self.steps == 2:
            self.mask[:] = 0
        if self.wrong == "short" and self.steps == 2:
            self.mask = self.mask[1:]
        reward = float(parts[0] == self.colour) if legal else -100.0
        return np.zeros(3, np.float32), reward, self.steps == 10 or not legal, False, self._info()

    def _info(self) -> dict[str, Any]:
        return {} if self.method else {"action_mask": self.mask}


gymnasium.register("Acts-v0", entry_point=Acts)
gymnasium.register("Minefield-v0", entry_point=Minefield)
