"""An environment whose episodes are known beforehand, behind every dialect of autoreset."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from envs.envpool_backend import EnvPoolVecEnv
from envs.vector import GymnasiumVecEnv, VecEnv

TERMINATED, TRUNCATED, BOTH = (True, False), (False, True), (True, True)
EPISODES = [(3, TERMINATED), (1, TRUNCATED), (2, BOTH), (4, TRUNCATED)]
"""Length and end of each scripted episode; the list begins again after the last one."""


class Scripted(gymnasium.Env[Any, Any]):
    """Known episodes: observation [episode, step], reward 10 * episode + step + action / 10."""

    observation_space = spaces.Box(-1.0, 1000.0, (2,), dtype=np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, first_episode: int = 0) -> None:
        self.episode = first_episode - 1
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode += 1
        self.steps = 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        length, (terminated, truncated) = EPISODES[self.episode % len(EPISODES)]
        over = self.steps >= length
        assert self.steps <= length, "stepped beyond the end of an episode"
        reward = 10 * self.episode + self.steps + action / 10
        return self._observe(), reward, over and terminated, over and truncated, {}

    def _observe(self) -> Any:
        return np.array([self.episode, self.steps], dtype=np.float32)


class FakePool:
    """What we use of EnvPool: NEXT_STEP resets, marked by elapsed_step == 0, and both flags never together."""

    def __init__(self, num_envs: int, hide_termination: bool = False) -> None:
        self.envs = [Scripted(first) for first in range(num_envs)]
        self.num_envs = num_envs
        self.observation_space, self.action_space = Scripted.observation_space, Scripted.action_space
        self.hide_termination = hide_termination
        self.over = [False] * num_envs

    def reset(self) -> tuple[Any, dict[str, Any]]:
        self.over = [False] * self.num_envs
        return np.stack([env.reset()[0] for env in self.envs]), {}

    def step(self, actions: Any) -> tuple[Any, ...]:
        rows = []
        for i, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            if self.over[i]:
                obs, reward, terminated, truncated = env.reset()[0], 0.0, False, False
            else:
                obs, reward, terminated, truncated, _ = env.step(action)
            if self.hide_termination and terminated and truncated:
                terminated = False
            self.over[i] = terminated or truncated
            rows.append((obs, np.float32(reward), terminated, truncated, env.steps))
        obs, reward, terminated, truncated, elapsed = (np.array(column) for column in zip(*rows, strict=True))
        return obs, reward, terminated, truncated, {"elapsed_step": elapsed}

    def close(self) -> None:
        pass


def scripted(mode: str, num_envs: int) -> VecEnv:
    if mode == "envpool":
        return EnvPoolVecEnv(FakePool(num_envs), "Scripted-v0")
    makers = [lambda first=first: Scripted(first) for first in range(num_envs)]
    return GymnasiumVecEnv(SyncVectorEnv(makers, autoreset_mode=mode), 0, "sync")
