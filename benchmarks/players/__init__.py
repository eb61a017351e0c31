"""Players written by hand: what a task is worth to one who guesses, forgets, remembers all, or knows all."""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs import held_out_seed

Observation = NDArray[np.float32]


class Player(Protocol):
    """Plays one environment; what it may read beside the observation, its own docstring says."""

    def start(self, observation: Observation) -> None:
        """A new episode begins."""

    def act(self) -> int:
        """The next action."""

    def see(self, action: int, reward: float, observation: Observation) -> None:
        """What the action led to."""


class RandomPlayer:
    """Every action with the same probability."""

    def __init__(self, actions: int) -> None:
        self.actions = actions
        self.rng = np.random.default_rng(0)

    def start(self, observation: Observation) -> None:
        pass

    def act(self) -> int:
        return int(self.rng.integers(self.actions))

    def see(self, action: int, reward: float, observation: Observation) -> None:
        pass


def returns_of(player: Player, env: gymnasium.Env[Any, Any], episodes: int) -> NDArray[np.float64]:
    """[episodes] returns of the held-out episodes that evaluate.py plays first."""
    returns = np.zeros(episodes)
    for episode in range(episodes):
        observation, _ = env.reset(seed=held_out_seed(0, episode))
        player.start(observation)
        done = False
        while not done:
            action = player.act()
            observation, reward, terminated, truncated, _ = env.step(action)
            player.see(action, float(reward), observation)
            returns[episode] += float(reward)
            done = terminated or truncated
    return returns
