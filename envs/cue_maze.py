"""Cue maze (`mnm/CueMaze-v0`): a sign that can be read once tells which of two goals pays.

    #########
    #######G#        A room of 3 x 3 cells, in which the agent starts anywhere, a corridor of `length` cells,
    #...###.#        and a fork with two arms. The sign lies in one corridor cell, drawn per episode from the
    #.......#        corridor without its last cell. The agent walks in four directions and sees 3 x 3 cells;
    #...###.#        a corridor cell closes behind it, so that there is no way back to the room.
    #######G#
    #########

The sign is shown at the step in which the agent first stands on it, and never again. Its time varies with the
start, the cell and the way that the agent takes, and so does the time from there to the fork: neither a fixed
step nor a fixed lag finds it. Without memory the best return is about 0 on average.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.errors import UserError
from envs.render import BLUE, FREE, ORANGE, RED, WALL, Cell, Image, draw_square, draw_tiles

MOVES: tuple[Cell, ...] = ((-1, 0), (1, 0), (0, -1), (0, 1))
UP, DOWN = 0, 1
ROOM = 3
MIDDLE = 3
HEIGHT = 2 * MIDDLE + 1
STEP_COST = 0.01
MAX_STEPS = 80
VIEW = 9


class CueMaze(gymnasium.Env[Any, Any]):
    """Observation: 9 walls and 9 goals of the 3 x 3 window, then [sign says up, sign says down], 0 or 1 each.

    Actions: 0 up, 1 down, 2 left, 3 right; a wall stops the agent. Every step costs 0.01. The goal that the
    sign names pays 1, the other -1, and both end the episode; the time limit is 80 steps. `info["cue_step"]`
    is the step at which the sign was read and `info["decision_step"]` the step at which the fork was first
    reached, -1 before; `info["cue"]` is the goal that pays (0 the upper one). `reset(options={"flip_cue":
    True})` gives the same episode with the other sign.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": 8,
        "success": "positive_return",
    }
    action_names = ("up", "down", "left", "right")

    def __init__(self, length: int = 5, render_mode: str | None = None) -> None:
        if isinstance(length, bool) or not isinstance(length, int) or length < 2:
            raise UserError(f"length of the cue maze must be a whole number of at least 2, not {length!r}")
        self.length = length
        self.render_mode = render_mode
        self.map = _map(length)
        self.fork: Cell = (MIDDLE, self.map.shape[1] - 2)
        self.goals: tuple[Cell, Cell] = ((1, self.fork[1]), (HEIGHT - 2, self.fork[1]))
        self.observation_space = spaces.Box(0.0, 1.0, (2 * VIEW + 2,), dtype=np.float32)
        self.action_space = spaces.Discrete(len(MOVES))
        self.cue = UP
        self.sign: Cell = (MIDDLE, ROOM + 1)
        self.cell: Cell = (MIDDLE, 1)
        self.steps = 0
        self.cue_step = self.decision_step = -1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.cue = int(self.np_random.integers(2))
        self.sign = (MIDDLE, ROOM + 1 + int(self.np_random.integers(self.length - 1)))
        row, column = (int(part) for part in self.np_random.integers(ROOM, size=2))
        self.cell = (MIDDLE - 1 + row, 1 + column)
        if (options or {}).get("flip_cue"):
            self.cue = 1 - self.cue
        self.steps = 0
        self.cue_step = self.decision_step = -1
        return self._observe()

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        down, right = MOVES[int(action)]
        target = (self.cell[0] + down, self.cell[1] + right)
        if not self._walls()[target]:
            self.cell = target
        self.steps += 1
        terminated = self.cell in self.goals
        reward = -STEP_COST
        if terminated:
            reward += 1.0 if self.cell == self.goals[self.cue] else -1.0
        truncated = not terminated and self.steps >= MAX_STEPS
        observation, info = self._observe()
        return observation, reward, terminated, truncated, info

    def render(self) -> Image | None:
        if self.render_mode != "rgb_array":
            return None
        tile = 24
        image = draw_tiles(np.where(self._walls()[..., None], WALL, FREE).astype(np.uint8), tile)
        draw_square(image, self.sign, BLUE, tile, inset=0.05)
        draw_square(image, self.goals[self.cue], RED, tile)
        draw_square(image, self.goals[1 - self.cue], WALL, tile)
        draw_square(image, self.cell, ORANGE, tile, inset=0.25)
        return image

    def observation_words(self) -> str:
        """What is seen now, for the recalls."""
        if self.steps == self.cue_step:
            return "the sign says up" if self.cue == UP else "the sign says down"
        return "fork" if self.cell == self.fork else "room" if self.cell[1] <= ROOM else "corridor"

    def _walls(self) -> NDArray[np.bool_]:
        """The map with what has closed behind the agent."""
        if self.cell[1] <= ROOM:
            return self.map
        walls = self.map.copy()
        walls[MIDDLE, : self.cell[1]] = True
        return walls

    def _observe(self) -> tuple[NDArray[np.float32], dict[str, Any]]:
        row, column = self.cell
        observation = np.zeros(2 * VIEW + 2, dtype=np.float32)
        observation[:VIEW] = self._walls()[row - 1 : row + 2, column - 1 : column + 2].ravel()
        for down, right in ((self.goals[n][0] - row, self.goals[n][1] - column) for n in (UP, DOWN)):
            if abs(down) <= 1 and abs(right) <= 1:
                observation[VIEW + 3 * (down + 1) + right + 1] = 1.0
        if self.cell == self.sign and self.cue_step < 0:
            observation[2 * VIEW + self.cue] = 1.0
            self.cue_step = self.steps
        if self.cell == self.fork and self.decision_step < 0:
            self.decision_step = self.steps
        return observation, {"cue_step": self.cue_step, "decision_step": self.decision_step, "cue": self.cue}


def _map(length: int) -> NDArray[np.bool_]:
    """True where there is a wall; see the picture at the head of this file."""
    walls = np.ones((HEIGHT, ROOM + length + 3), dtype=bool)
    walls[MIDDLE - 1 : MIDDLE + 2, 1 : ROOM + 1] = False
    walls[MIDDLE, 1:-1] = False
    walls[1:-1, -2] = False
    return walls
