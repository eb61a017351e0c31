"""T-maze (`mnm/TMaze-v0`): a cue seen once in a corridor tells which way to turn at its end.

The corridor has `length` cells, then comes the junction. The cue, up or down, is visible in exactly one
corridor cell, drawn per episode from the first half of the corridor, so that neither the cue nor its time can
be guessed. Without memory the best return is 0 on average. After Bakker 2001, "Reinforcement learning with
long short-term memory", with a cue whose time varies. With `always_visible` the cue is shown at every step:
the same task without any need for memory, the control of the recall checks. With `middle_arm` there is a third
arm straight ahead, which is right in the third of the episodes that show no cue: an agent cannot then remember
one of the two cues by remembering nothing, as it can with two arms.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.errors import UserError
from envs.render import BLUE, FREE, ORANGE, RED, WALL, Image, draw_square, draw_tiles

FORWARD, UP, DOWN = 0, 1, 2
BUMP = -0.1
STEPS_PER_CELL = 4


class TMaze(gymnasium.Env[Any, Any]):
    """Observation: [cue up, cue down, corridor, junction], 0 or 1 each; two are 1 where the cue is seen.

    Actions: 0 forward, 1 turn up, 2 turn down. A turn in the corridor and a step forward at the junction are
    bumps: -0.1, nothing moves. Turning at the junction ends the episode with +1 (towards the cue) or -1; with
    `middle_arm` so does going forward there (+1 if there was no cue). The time limit is 4 * length steps.

    `info["cue_step"]` is the step at which the cue was first seen and `info["decision_step"]` the step at which
    the junction was first reached, -1 before; `info["cue"]` is the right action at the junction.
    `reset(options={"flip_cue": True})` gives the same episode with the other cue.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": 8,
        "success": "positive_return",
    }
    action_names = ("forward", "turn up", "turn down")

    def __init__(
        self,
        length: int = 10,
        always_visible: bool = False,
        middle_arm: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if isinstance(length, bool) or not isinstance(length, int) or length < 2:
            raise UserError(f"length of the T-maze must be a whole number of at least 2, not {length!r}")
        self.length = length
        self.always_visible = bool(always_visible)
        self.middle_arm = bool(middle_arm)
        self.max_steps = STEPS_PER_CELL * length
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0.0, 1.0, (4,), dtype=np.float32)
        self.action_space = spaces.Discrete(3)
        self.cue = UP
        self.cue_cell = self.position = self.steps = 0
        self.cue_step = self.decision_step = -1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.cue = (
            int(self.np_random.integers(3)) if self.middle_arm else UP + int(self.np_random.integers(2))
        )
        if (options or {}).get("flip_cue") and self.cue != FORWARD:
            self.cue = UP + DOWN - self.cue
        self.cue_cell = int(self.np_random.integers(self.length // 2))
        self.position = self.steps = 0
        self.cue_step = self.decision_step = -1
        return self._observe()

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        at_junction = self.position == self.length
        terminated = at_junction and (self.middle_arm or action != FORWARD)
        reward = 0.0
        if terminated:
            reward = 1.0 if action == self.cue else -1.0
        elif at_junction or action != FORWARD:
            reward = BUMP
        else:
            self.position += 1
        self.steps += 1
        truncated = not terminated and self.steps >= self.max_steps
        observation, info = self._observe()
        return observation, reward, terminated, truncated, info

    def render(self) -> Image | None:
        if self.render_mode != "rgb_array":
            return None
        tile = 20
        colours = np.full((5, self.length + 3 + self.middle_arm, 3), WALL, dtype=np.uint8)
        colours[2, 1:-1] = FREE
        colours[1:4, self.length + 1] = FREE
        image = draw_tiles(colours, tile)
        goal_row = {UP: 1, FORWARD: 2, DOWN: 3}[self.cue]
        if self.cue != FORWARD:
            draw_square(image, (goal_row, 1 + self.cue_cell), BLUE, tile, inset=0.25)
        draw_square(image, (goal_row, self.length + (2 if self.cue == FORWARD else 1)), RED, tile)
        draw_square(image, (2, 1 + self.position), ORANGE, tile)
        return image

    def observation_words(self) -> str:
        """What is seen now, for the recalls."""
        if self.cue != FORWARD and (self.always_visible or self.position == self.cue_cell):
            return "the cue says up" if self.cue == UP else "the cue says down"
        return "junction" if self.position == self.length else "corridor"

    def _observe(self) -> tuple[NDArray[np.float32], dict[str, Any]]:
        observation = np.zeros(4, dtype=np.float32)
        if self.position == self.length:
            observation[3] = 1.0
            if self.decision_step < 0:
                self.decision_step = self.steps
        else:
            observation[2] = 1.0
        if self.cue != FORWARD and (self.always_visible or self.position == self.cue_cell):
            observation[0 if self.cue == UP else 1] = 1.0
            if self.cue_step < 0:
                self.cue_step = self.steps
        info = {"cue_step": self.cue_step, "decision_step": self.decision_step, "cue": self.cue}
        return observation, info
