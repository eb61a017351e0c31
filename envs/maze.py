"""Grid World maze with a hidden goal, as a normal Gymnasium environment (`mnm/GridMaze-v0`).

The agent starts at the centre and sees only the 3x3 cells around it. An invisible goal lies on a free cell,
drawn per episode. Stepping on it pays `goal_reward` and teleports the agent to a random free cell, so the
agent must remember where the goal was and find its own position again. There is no terminal state, only a
time limit.

Task: Miconi, Clune, Stanley 2018, "Differentiable plasticity", and its 2019 successor "Backpropamine".

The observation is 17 numbers:
    0-8    the window, row by row, 1 = wall
    9      unused, 0
    10     the constant 1
    11     step / episode length
    12     the previous reward times `previous_reward_scale`; 0 at step 0
    13-16  the previous action, one-hot; action 0 at step 0
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.maze_layout import ACTIONS, OBSERVATION_SIZE, VIEW_SIZE, check_settings, layout, other_free_cell
from envs.render import Cell, Image, draw_maze


def observation_space(goal_reward: float, bump_penalty: float, scale: float) -> spaces.Box:
    """The box of the 17 numbers; only entry 12, the previous reward, leaves [0, 1]."""
    low = np.zeros(OBSERVATION_SIZE, dtype=np.float32)
    high = np.ones(OBSERVATION_SIZE, dtype=np.float32)
    low[12] = min(0.0, goal_reward * scale, -bump_penalty * scale)
    high[12] = max(0.0, goal_reward * scale, -bump_penalty * scale)
    return spaces.Box(low, high, dtype=np.float32)


class GridMaze(gymnasium.Env[Any, Any]):
    """One maze. Actions: 0 up, 1 down, 2 left, 3 right. `info["goals"]` counts the goals reached so far."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012

    def __init__(
        self,
        side: int = 9,
        max_steps: int = 200,
        goal_reward: float = 10.0,
        bump_penalty: float = 0.0,
        previous_reward_scale: float = 0.1,
        render_mode: str | None = None,
    ) -> None:
        self.maze = layout(side)
        check_settings(max_steps, goal_reward, bump_penalty)
        self.max_steps = max_steps
        self.goal_reward = float(goal_reward)
        self.bump_penalty = float(bump_penalty)
        self.previous_reward_scale = float(previous_reward_scale)
        self.render_mode = render_mode
        self.observation_space = observation_space(goal_reward, bump_penalty, previous_reward_scale)
        self.action_space = spaces.Discrete(ACTIONS)
        self.cell = self.goal = self.maze.centre
        self.steps = self.goals = 0

    @property
    def walls(self) -> NDArray[np.bool_]:
        """[side, side] true where a cell is a wall or a pillar."""
        return self.maze.walls

    @property
    def agent_position(self) -> Cell:
        """(row, column) of the agent."""
        return divmod(self.cell, self.maze.side)

    @property
    def goal_position(self) -> Cell:
        """(row, column) of the goal."""
        return divmod(self.goal, self.maze.side)

    @property
    def view_cells(self) -> list[Cell]:
        """The nine (row, column) cells that the agent sees, in the order of the observation."""
        row, column = self.agent_position
        return [(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.goal = other_free_cell(self.maze, self.maze.centre, self.np_random)
        self.cell = self.maze.centre
        self.steps = self.goals = 0
        return self._observe(action=0, reward=0.0), {"goals": 0}

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        target = int(self.maze.step_to[self.cell, action])
        reward = -self.bump_penalty if target == self.cell else 0.0
        self.cell = target
        if target == self.goal:
            reward += self.goal_reward
            self.goals += 1
            self.cell = other_free_cell(self.maze, self.goal, self.np_random)
        self.steps += 1
        truncated = self.steps >= self.max_steps
        return self._observe(int(action), reward), reward, False, truncated, {"goals": self.goals}

    def render(self) -> Image | None:
        if self.render_mode != "rgb_array":
            return None
        return draw_maze(self.walls, self.agent_position, self.goal_position, self.view_cells)

    def _observe(self, action: int, reward: float) -> NDArray[np.float32]:
        observation = np.zeros(OBSERVATION_SIZE, dtype=np.float32)
        observation[:VIEW_SIZE] = self.maze.views[self.cell]
        observation[10] = 1.0
        observation[11] = self.steps / self.max_steps
        observation[12] = reward * self.previous_reward_scale
        observation[13 + action] = 1.0
        return observation
