"""An environment that does one thing wrong in the middle of an episode, for the fault campaign."""

from __future__ import annotations

import os
import sys
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

FAULTS = (
    "reward nan", "reward inf", "reward none", "reward 1e39", "reward text", "reward vector", "observation nan",
    "observation inf", "observation none", "observation shape", "observation text", "category", "old step",
    "reset without info", "raises", "raises in reset", "exits", "exits hard",
)  # fmt: skip
HARMLESS = ("nothing", "float64", "own buffer", "reward array", "info differs", "never ends")


class Broken(gymnasium.Env[Any, Any]):
    """Sound until step `at`, at which it does what `how` says."""

    metadata = {"render_modes": []}  # noqa: RUF012  as Gymnasium declares it
    observation_space = spaces.Dict({"x": spaces.Box(-9.0, 9.0, (2,)), "card": spaces.Discrete(3)})
    action_space = spaces.Discrete(2)

    def __init__(self, how: str = "nothing", at: int = 30) -> None:
        self.how, self.at, self.t = how, at, 0
        self.buffer = np.zeros(2, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        due = self.t >= self.at
        if self.how == "raises in reset" and due:
            raise ValueError("no level\nsecond line")
        return self._observe() if self.how == "reset without info" and due else (self._observe(), {})

    def _observe(self) -> dict[str, Any]:
        x: Any = self.buffer if self.how == "own buffer" else np.zeros(2, np.float32)
        x[0] = self.t % 7
        return {"x": x.astype(np.float64) if self.how == "float64" else x, "card": 1}

    def step(self, action: Any) -> Any:
        self.t += 1
        obs: Any = self._observe()
        reward: Any = np.array([0.5]) if self.how == "reward array" else 0.5
        info = {"debug": object(), str(self.t): self.t} if self.how == "info differs" else {}
        ends = self.t % 7 == 0 and self.how != "never ends"
        if self.t < self.at:
            return obs, reward, False, ends, info
        if self.how == "raises":
            raise RuntimeError("lost its way\nsecond line")
        if self.how == "exits":
            sys.exit(0)
        if self.how == "exits hard":
            os._exit(0)
        if self.how == "old step":
            return obs, reward, ends, info
        rewards = {
            "nan": np.nan,
            "inf": np.inf,
            "none": None,
            "1e39": 1e39,
            "text": "3",
            "vector": np.zeros(2),
        }
        if self.how.startswith("reward "):
            reward = rewards.get(self.how.removeprefix("reward "), reward)
        parts = {"nan": [0.0, np.nan], "inf": [np.inf, 0.0], "shape": [0.0] * 3, "text": "left"}
        if self.how.startswith("observation "):
            part = self.how.removeprefix("observation ")
            obs = None if part == "none" else {**obs, "x": np.array(parts[part])}
        if self.how == "category":
            obs["card"] = 9
        return obs, reward, False, ends, info


gymnasium.register("campaign/Broken-v0", entry_point="benchmarks.tools.broken:Broken")
