"""The Grid World maze for N environments at once, in NumPy: the same numbers as N single mazes, much faster.

Every environment keeps its own random generator, seeded and consumed as `SyncVectorEnv` over single mazes
would do, so that one seed gives one trajectory whichever way the maze is run. All other work is done on
arrays of N.

Autoreset is SAME_STEP: the observation that comes with a done flag opens the next episode, the last one of
the old episode is in `info["final_obs"]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.maze import observation_space
from envs.maze_layout import ACTIONS, OBSERVATION_SIZE, VIEW_SIZE, check_settings, layout, other_free_cell

Observations = NDArray[np.float32]


class GridMazeVector(VectorEnv[Observations, NDArray[np.int64], NDArray[Any]]):
    """N mazes side by side. `get_state` and `set_state` move the whole state through JSON, exactly."""

    def __init__(
        self,
        num_envs: int = 1,
        side: int = 9,
        max_steps: int = 200,
        goal_reward: float = 10.0,
        bump_penalty: float = 0.0,
        previous_reward_scale: float = 0.1,
        render_mode: str | None = None,
    ) -> None:
        self.maze = layout(side)
        check_settings(max_steps, goal_reward, bump_penalty)
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.max_steps = max_steps
        self.goal_reward = float(goal_reward)
        self.bump_penalty = float(bump_penalty)
        self.previous_reward_scale = float(previous_reward_scale)
        self.single_observation_space = observation_space(goal_reward, bump_penalty, previous_reward_scale)
        self.single_action_space = spaces.Discrete(ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.generators: list[np.random.Generator] = []
        self.cells = np.full(num_envs, self.maze.centre, dtype=np.int64)
        self.goal_cells = self.cells.copy()
        self.steps = np.zeros(num_envs, dtype=np.int64)
        self.goals = np.zeros(num_envs, dtype=np.int64)
        self._move_table = self.maze.step_to.ravel()
        self._one_hot = np.eye(ACTIONS, dtype=np.float32)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observations, dict[str, Any]]:
        """Reset all. `seed` as in SyncVectorEnv: None goes on, an int s means s, s + 1, ..., or a list."""
        if options and "reset_mask" in options:
            raise ValueError(
                "GridMazeVector resets itself (SAME_STEP); options['reset_mask'] is not supported"
            )
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        seeds = [None] * self.num_envs if seeds is None else list(seeds)
        if len(seeds) != self.num_envs:
            raise ValueError(f"expected {self.num_envs} seeds, one per environment, got {len(seeds)}")
        if not self.generators:
            self.generators = [seeding.np_random(one)[0] for one in seeds]
        else:
            for i, one in enumerate(seeds):
                if one is not None:
                    self.generators[i] = seeding.np_random(one)[0]
        self._open_episodes(np.arange(self.num_envs))
        return np.tile(self._opening_observation(), (self.num_envs, 1)), self._info()

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Observations, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        actions = np.asarray(actions)
        targets = self._move_table[self.cells * ACTIONS + actions]
        rewards = np.zeros(self.num_envs)
        if self.bump_penalty:
            rewards[targets == self.cells] = -self.bump_penalty
        self.cells = targets
        hits = np.flatnonzero(targets == self.goal_cells)
        if hits.size:
            rewards[hits] += self.goal_reward
            self.goals[hits] += 1
            for i in hits:
                self.cells[i] = other_free_cell(self.maze, int(self.goal_cells[i]), self.generators[i])
        self.steps += 1
        truncated = self.steps >= self.max_steps

        observations = np.zeros((self.num_envs, OBSERVATION_SIZE), dtype=np.float32)
        observations[:, :VIEW_SIZE] = self.maze.views[self.cells]
        observations[:, 10] = 1.0
        observations[:, 11] = self.steps / self.max_steps
        observations[:, 12] = rewards * self.previous_reward_scale
        observations[:, 13:] = self._one_hot[actions]

        info: dict[str, Any] = {}
        if truncated.any():
            info = self._close_episodes(np.flatnonzero(truncated), observations)
        return observations, rewards, np.zeros(self.num_envs, dtype=np.bool_), truncated, self._info() | info

    def get_state(self) -> dict[str, Any]:
        """Everything that decides the future, as JSON types (the generators' states are Python integers)."""
        return {
            "cells": self.cells.tolist(),
            "goal_cells": self.goal_cells.tolist(),
            "steps": self.steps.tolist(),
            "goals": self.goals.tolist(),
            "generators": [generator.bit_generator.state for generator in self.generators],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue exactly where `get_state` was called."""
        if len(state["cells"]) != self.num_envs:
            raise ValueError(f"the state holds {len(state['cells'])} mazes, this vector has {self.num_envs}")
        self.cells = np.array(state["cells"], dtype=np.int64)
        self.goal_cells = np.array(state["goal_cells"], dtype=np.int64)
        self.steps = np.array(state["steps"], dtype=np.int64)
        self.goals = np.array(state["goals"], dtype=np.int64)
        self.generators = []
        for generator_state in state["generators"]:
            generator = seeding.np_random(0)[0]
            generator.bit_generator.state = generator_state
            self.generators.append(generator)

    def _open_episodes(self, rows: NDArray[np.int64]) -> None:
        for i in rows:
            self.goal_cells[i] = other_free_cell(self.maze, self.maze.centre, self.generators[i])
        self.cells[rows] = self.maze.centre
        self.steps[rows] = 0
        self.goals[rows] = 0

    def _opening_observation(self) -> Observations:
        """[17] the observation that opens every episode: the same for all, whatever the goal."""
        opening = np.zeros(OBSERVATION_SIZE, dtype=np.float32)
        opening[:VIEW_SIZE] = self.maze.views[self.maze.centre]
        opening[10] = opening[13] = 1.0
        return opening

    def _close_episodes(self, rows: NDArray[np.int64], observations: Observations) -> dict[str, Any]:
        """Put the last observations and the final counts aside, then open new episodes in place."""
        mask = np.zeros(self.num_envs, dtype=np.bool_)
        mask[rows] = True
        final_obs = np.full(self.num_envs, None, dtype=object)
        for i in rows:
            final_obs[i] = observations[i].copy()
        final_info = {"goals": np.where(mask, self.goals, 0), "_goals": mask.copy()}
        self._open_episodes(rows)
        observations[rows] = self._opening_observation()
        return {
            "final_obs": final_obs,
            "_final_obs": mask,
            "final_info": final_info,
            "_final_info": mask.copy(),
        }

    def _info(self) -> dict[str, Any]:
        return {"goals": self.goals.copy(), "_goals": np.ones(self.num_envs, dtype=np.bool_)}
